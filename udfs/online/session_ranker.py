"""Next items of a session: neighbours give candidates, the learnt ranker orders them, each click teaches both."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.neighbours.index_arrays import IndexLimits
from udfs.neighbours.scan_arrays import Candidates, Queries, ScanSettings
from udfs.neighbours.session_index import SessionIndex
from udfs.online.candidate_features import FEATURES, N_FEATURES, write_candidate_features
from udfs.online.item_embeddings import EMBEDDING_FEATURES, EmbeddingSettings, ItemEmbeddings
from udfs.online.item_lift import LIFT_FEATURES, ItemLift
from udfs.online.ranker_learning import (
    LearningSettings,
    Lists,
    WeightLearner,
    click_probabilities,
    gradient,
    scored_gradient,
)
from udfs.online.ranker_weights import RankerWeights
from udfs.ranking.top_k import order_key, row_of_key, sort_top

RANKER_FEATURES = (*FEATURES, *EMBEDDING_FEATURES, *LIFT_FEATURES)
"""The columns that the ranker's weights belong to."""


Scorer = Callable[[Candidates, Queries], NDArray[np.float32]]
"""Gives a score of every candidate, float32 (Q, N)."""


class SessionRankerSettings(NamedTuple):
    """How next items are found and ranked."""

    candidates: int = 100
    """Of the index's first order, ranked by the weights."""
    batch: int = 64
    """Sessions ranked with the same weights; the delay of learning, in clicks."""
    limits: IndexLimits = IndexLimits()
    scan: ScanSettings = ScanSettings()
    embeddings: EmbeddingSettings = EmbeddingSettings()
    learning: LearningSettings = LearningSettings()
    left_out: tuple[str, ...] = ()
    """Features that are always 0: to see what they bring."""


class SessionRanker:
    """A session index, item embeddings and ranker weights that learn from the same clicks.

    Parameters
    ----------
    items
        Rows to make room for at once; more are made when they come.
    settings
        How it finds, ranks and learns.
    seed
        Of everything that is drawn.

    Notes
    -----
    **Delay**: the index learns a click before the next session is answered; embeddings, lifts and weights learn it
    after the batch that it stands in.

    Examples
    --------
    >>> from udfs.neighbours.session_index import as_queries
    >>> ranker = SessionRanker(8)
    >>> for number in range(50):
    ...     ranker.learn(as_queries([[], [1]], [number, number]), np.array([1, 2], np.int32))
    >>> int(ranker.predict(as_queries([[1]]), limit=1)[0, 0])
    2
    """

    def __init__(self, items: int, settings: SessionRankerSettings | None = None, seed: int = 0) -> None:
        self.settings = chosen = settings or SessionRankerSettings()
        self.index = SessionIndex(chosen.limits, chosen.scan, items)
        self.embeddings = ItemEmbeddings(items, chosen.embeddings, seed)
        self.lift = ItemLift(items)
        self._left_out = [RANKER_FEATURES.index(name) for name in chosen.left_out]
        weights = RankerWeights.fresh(RANKER_FEATURES, chosen.learning.hidden, seed)
        self.learner = WeightLearner(weights, chosen.learning)
        self._noting: WeightLearner | None = None
        self._published: RankerWeights | None = None

    def predict(
        self, queries: Queries, allowed: NDArray[np.bool_] | None = None, limit: int = 20
    ) -> NDArray[np.int32]:
        """Return the items most likely to be next; learn nothing.

        Parameters
        ----------
        queries
            Q sessions.
        allowed
            bool (n,): item rows that may be named; all by default.
        limit
            Most items a session.

        Returns
        -------
        int32 (Q, limit): best first, -1 where there are no more.
        """
        found = np.full((len(queries.start), limit), -1, np.int32)
        for at in range(0, len(found), self.settings.batch):
            part = _some(queries, slice(at, at + self.settings.batch))
            candidates = self.index.query(part, self.settings.candidates, allowed)
            features = self.features(candidates, part)
            scores = self.learner.weights.scores(features)
            found[at : at + self.settings.batch] = _best(candidates, scores, limit)
        return found

    def predict_and_learn(
        self,
        queries: Queries,
        items: NDArray[np.int32],
        allowed: NDArray[np.bool_] | None = None,
        limit: int = 20,
        scorer: Scorer | None = None,
    ) -> NDArray[np.int32]:
        """Return the same, and learn what each session clicked next.

        Parameters
        ----------
        queries
            Q sessions; an empty one only opens: its click is learnt by the index alone.
        items
            int32 (Q,): the rows that were clicked.
        allowed, limit
            As in `predict`.
        scorer
            Orders what is returned; what is learnt does not depend on it. By default the newest weights do.
        """
        found = np.full((len(queries.start), limit), -1, np.int32)
        for at in range(0, len(found), self.settings.batch):
            stop = at + self.settings.batch
            part, clicked = _some(queries, slice(at, stop)), items[at:stop]
            candidates = self.index.query_and_observe(part, clicked, allowed, self.settings.candidates)
            asked = np.flatnonzero(part.stop > part.start)
            if not len(asked):
                continue
            part, clicked = _some(part, asked), clicked[asked]
            candidates = Candidates(
                candidates.counts[asked], candidates.rows[asked], candidates.scores[asked]
            )
            found[at + asked] = self._rank_and_learn(candidates, part, clicked, limit, scorer)
        return found

    def predict_and_note(
        self,
        queries: Queries,
        items: NDArray[np.int32],
        allowed: NDArray[np.bool_] | None = None,
        limit: int = 20,
    ) -> NDArray[np.int32]:
        """Return the same by the weights of the last `publish`; what the lists teach waits for the next one.

        For lists that are made from an index that stands still: weights learnt on lists of a live one, where what is
        popular now is known, order those worse. Index, vectors and lifts learn nothing.

        Parameters
        ----------
        queries, items, allowed, limit
            As in `predict_and_learn`.
        """
        if self._noting is None or self._published is None:
            self._noting, self._published = self.learner.fork(), self.learner.weights
        found = np.full((len(queries.start), limit), -1, np.int32)
        for at in range(0, len(found), self.settings.batch):
            stop = at + self.settings.batch
            part = _some(queries, slice(at, stop))
            candidates = self.index.query(part, self.settings.candidates, allowed)
            features = self.features(candidates, part)
            found[at:stop] = _best(candidates, self._published.scores(features), limit)
            lists = Lists(features, candidates.counts, _places(candidates, items[at:stop]))
            self._noting.apply(gradient(self._noting.weights, lists))
        return found

    def publish(self) -> None:
        """Let `predict_and_note` use what it has learnt."""
        if self._noting is not None:
            self._published = self._noting.weights

    def learn(
        self, queries: Queries, items: NDArray[np.int32], allowed: NDArray[np.bool_] | None = None
    ) -> None:
        """Learn what each session clicked next."""
        self.predict_and_learn(queries, items, allowed, 1)

    def features(self, candidates: Candidates, queries: Queries) -> NDArray[np.float32]:
        """Return what the ranker sees: float32 (Q, N, 44), columns `RANKER_FEATURES`, 0 behind a list's count."""
        rows, counts = candidates.rows, candidates.counts
        out = np.zeros((*rows.shape, len(RANKER_FEATURES)), np.float32)
        write_candidate_features(candidates, queries, out)
        lift = N_FEATURES + len(EMBEDDING_FEATURES)
        self.embeddings.features(queries, rows, counts, out[:, :, N_FEATURES:lift])
        self.lift.features(rows, counts, out[:, :, lift:])
        if self._left_out:
            out[:, :, self._left_out] = 0.0
        return out

    def _rank_and_learn(
        self,
        candidates: Candidates,
        queries: Queries,
        clicked: NDArray[np.int32],
        limit: int,
        scorer: Scorer | None,
    ) -> NDArray[np.int32]:
        features = self.features(candidates, queries)
        weights = self.learner.weights
        scores, hidden = weights.scores_and_hidden(features)
        found = _best(candidates, scores if scorer is None else scorer(candidates, queries), limit)
        probabilities = click_probabilities(scores, candidates.counts)
        places = _places(candidates, clicked)
        lists = Lists(features, candidates.counts, places)
        self.learner.apply(scored_gradient(weights, lists, hidden, scores, probabilities))
        self.lift.learn(candidates.rows, candidates.counts, probabilities, places)
        self.embeddings.learn(queries, clicked)
        return found


def _some(queries: Queries, which: slice | NDArray[np.int64]) -> Queries:
    return Queries(queries.items, queries.start[which], queries.stop[which], queries.keys[which])


def _places(candidates: Candidates, clicked: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return which candidate was clicked, -1: none of them."""
    hit = candidates.rows == clicked[:, None]
    return np.where(hit.any(axis=1), hit.argmax(axis=1), -1).astype(np.int32)


def _best(candidates: Candidates, scores: NDArray[np.float32], limit: int) -> NDArray[np.int32]:
    """Return the rows of the best candidates: int32 (Q, limit), -1 behind them; of equal scores the earlier one."""
    found = np.full((len(scores), limit), -1, np.int32)
    _write_best(candidates.rows, candidates.counts, scores, found)
    return found


@kernel
def _write_best(
    rows: NDArray[np.int32], counts: NDArray[np.int32], scores: NDArray[np.float32], found: NDArray[np.int32]
) -> None:
    keys = np.empty(rows.shape[1], np.uint64)
    for q in range(len(counts)):
        count = counts[q]
        for j in range(count):
            keys[j] = order_key(scores[q, j], j)
        most = min(count, found.shape[1])
        sort_top(keys, count, most)
        for j in range(most):
            found[q, j] = rows[q, row_of_key(keys[j])]
