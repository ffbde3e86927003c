"""Next items of a session: neighbours give candidates, the learnt ranker orders them, each click teaches both."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.neighbours.index_arrays import IndexLimits
from udfs.neighbours.scan_arrays import Candidates, Queries, ScanSettings, empty_candidates
from udfs.neighbours.session_index import SessionIndex
from udfs.online.candidate_features import FEATURES, N_FEATURES, write_candidate_features
from udfs.online.item_embeddings import EMBEDDING_FEATURES, EmbeddingSettings, ItemEmbeddings
from udfs.online.item_lift import LIFT_FEATURES, ItemLift
from udfs.online.ranker_learning import (
    LearningSettings,
    Lists,
    WeightLearner,
    click_probabilities,
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


class Ranked(NamedTuple):
    """Lists that were made at once, and what they teach; good until the ranker makes the next ones."""

    found: NDArray[np.int32]  # (Q, limit) item rows, best first, -1 where there are no more
    candidates: Candidates
    queries: Queries
    features: NDArray[np.float32]  # (Q, N, 44)
    hidden: NDArray[np.float32]  # (Q · N, H)
    scores: NDArray[np.float32]  # (Q, N), by the learner's weights


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
        lists = (chosen.batch, chosen.candidates)
        self._candidates = empty_candidates(*lists)
        self._features = np.zeros((*lists, len(RANKER_FEATURES)), np.float32)
        self._hidden = np.zeros((chosen.batch * chosen.candidates, chosen.learning.hidden), np.float32)

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
            of = slice(at, at + self.settings.batch)
            found[of] = self.rank(some_queries(queries, of), self.learner.weights, allowed, limit).found
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
            of = slice(at, at + self.settings.batch)
            part, clicked = some_queries(queries, of), items[of]
            asked = np.flatnonzero(part.stop > part.start)
            ranked = self.rank_and_observe(part, clicked, allowed, limit, scorer)
            self.teach(ranked, clicked[asked])
            found[at + asked] = ranked.found
        return found

    def rank(
        self,
        queries: Queries,
        weights: RankerWeights,
        allowed: NDArray[np.bool_] | None = None,
        limit: int = 20,
    ) -> Ranked:
        """Rank at most `batch` sessions by given weights; learn nothing."""
        nothing = np.zeros(len(queries.start), np.int64)
        candidates = self.index.query_between(
            queries, queries.keys[:0], _NO_ITEMS, nothing, self.settings.candidates, allowed, self._candidates
        )
        return self._ranked(candidates, queries, weights, limit, None)

    def rank_and_observe(
        self,
        queries: Queries,
        items: NDArray[np.int32],
        allowed: NDArray[np.bool_] | None = None,
        limit: int = 20,
        scorer: Scorer | None = None,
    ) -> Ranked:
        """Rank at most `batch` sessions by the newest weights; the index learns each one's click before the next.

        Parameters
        ----------
        queries, items, allowed, limit, scorer
            As in `predict_and_learn`.

        Returns
        -------
        Lists of the sessions that are not empty.
        """
        asked = np.flatnonzero(queries.stop > queries.start)
        part = some_queries(queries, asked)
        candidates = self.index.query_between(
            part, queries.keys, items, asked, self.settings.candidates, allowed, self._candidates
        )
        return self._ranked(candidates, part, self.learner.weights, limit, scorer)

    def teach(self, ranked: Ranked, clicked: NDArray[np.int32]) -> None:
        """Let weights, lifts and vectors learn what followed lists of `rank_and_observe`: int32 (Q,) item rows."""
        if not len(clicked):
            return
        candidates, scores = ranked.candidates, ranked.scores
        probabilities = click_probabilities(scores, candidates.counts)
        places = places_of(candidates, clicked)
        lists = Lists(ranked.features, candidates.counts, places)
        self.learner.apply(scored_gradient(self.learner.weights, lists, ranked.hidden, scores, probabilities))
        self.lift.learn(candidates.rows, candidates.counts, probabilities, places)
        self.embeddings.learn(ranked.queries, clicked)

    def learn(
        self, queries: Queries, items: NDArray[np.int32], allowed: NDArray[np.bool_] | None = None
    ) -> None:
        """Learn what each session clicked next."""
        self.predict_and_learn(queries, items, allowed, 1)

    def features(
        self, candidates: Candidates, queries: Queries, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return what the ranker sees: float32 (Q, N, 44), columns `RANKER_FEATURES`, 0 behind a list's count.

        Parameters
        ----------
        candidates, queries
            Q lists and the sessions that they answer.
        out
            Where to write; new by default.
        """
        rows, counts = candidates.rows, candidates.counts
        if out is None:
            out = np.zeros((*rows.shape, len(RANKER_FEATURES)), np.float32)
        for q in np.flatnonzero(counts < rows.shape[1]):
            out[q, counts[q] :] = 0.0
        write_candidate_features(candidates, queries, out)
        lift = N_FEATURES + len(EMBEDDING_FEATURES)
        self.embeddings.features(queries, rows, counts, out[:, :, N_FEATURES:lift])
        self.lift.features(rows, counts, out[:, :, lift:])
        if self._left_out:
            out[:, :, self._left_out] = 0.0
        return out

    def _ranked(
        self,
        candidates: Candidates,
        queries: Queries,
        weights: RankerWeights,
        limit: int,
        scorer: Scorer | None,
    ) -> Ranked:
        lists, width = candidates.rows.shape
        features, hidden = self._features[:lists], self._hidden[: lists * width]
        scores = np.empty((lists, width), np.float32)
        for at in range(0, lists, _AT_ONCE):
            of, flat = slice(at, at + _AT_ONCE), slice(at * width, (at + _AT_ONCE) * width)
            some = Candidates(candidates.counts[of], candidates.rows[of], candidates.scores[of])
            self.features(some, some_queries(queries, of), features[of])
            scores[of], _ = weights.scores_and_hidden(features[of], hidden[flat])
        by = scores if scorer is None else scorer(candidates, queries)
        return Ranked(_best(candidates, by, limit), candidates, queries, features, hidden, scores)


_AT_ONCE = 16
"""Lists whose features and hidden units are worked on together: they fit in a core's own cache."""
_NO_ITEMS = np.zeros(0, np.int32)


def some_queries(queries: Queries, which: slice | NDArray[np.int64]) -> Queries:
    """Return some of the sessions that ask."""
    return Queries(queries.items, queries.start[which], queries.stop[which], queries.keys[which])


def places_of(candidates: Candidates, clicked: NDArray[np.int32]) -> NDArray[np.int32]:
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
