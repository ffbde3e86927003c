"""The session ranker as it was last published: what a rank worker scores with. It learns nothing itself."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from schemas.records import LearntPart
from udfs.kernel_cache import kernel
from udfs.neighbours.scan_arrays import Candidates, Queries, largest_row
from udfs.online.candidate_features import N_FEATURES, write_candidate_features
from udfs.online.embedding_kernel import inverse_lengths, write_cosines
from udfs.online.item_embeddings import EMBEDDING_FEATURES
from udfs.online.publication import RANKER_PART, PublishedItems, decode_items, decode_ranker
from udfs.online.ranker_learning import click_probabilities
from udfs.online.ranker_weights import RankerWeights
from udfs.online.session_ranker import RANKER_FEATURES

_LIFT = N_FEATURES + len(EMBEDDING_FEATURES)


class PublishedRanker:
    """Weights, vectors and lifts of the newest whole version.

    Parameters
    ----------
    add
        Gives the row of each item hash, -1 where there is no room for it.

    Attributes
    ----------
    version, clicks
        Of the newest whole version; 0: there is none yet.

    Notes
    -----
    **Order**: parts of a version wait until its `ranker` part is read, then all of them count at once. An item whose
    vector was never published is as far from everything as from nothing: its cosines are 0.
    """

    def __init__(self, add: Callable[[NDArray[np.uint64]], NDArray[np.int32]]) -> None:
        self.version = 0
        self.clicks = 0
        self._add = add
        self._waiting: list[PublishedItems] = []
        self._weights: RankerWeights | None = None
        self._units = np.zeros((0, 0), np.float32)  # the hidden units, one a row
        self._place_weights = np.ones((1, 1), np.float32)
        self._vectors = np.zeros((0, 1), np.float32)
        self._inverse = np.zeros(0, np.float32)
        self._lifts = np.zeros((0, 2), np.float32)

    def take(self, part: LearntPart) -> bool:
        """Take one part, in the order of the topic; return whether it made a version whole.

        Raises
        ------
        WeightsError
            For bytes that are no such part; what was taken before still counts.
        """
        if part.part != RANKER_PART:
            self._waiting.append(decode_items(part.data))
            return False
        weights, place_weights = decode_ranker(part.data)
        waiting, self._waiting = self._waiting, []
        for items in waiting:
            self._place(items)
        self._weights, self._place_weights = weights, place_weights
        self._units = np.ascontiguousarray(weights.parts()[1].T)
        self.version, self.clicks = part.version, part.clicks
        return True

    def features(self, candidates: Candidates, queries: Queries) -> NDArray[np.float32]:
        """Return what the ranker sees, as `SessionRanker.features`: float32 (Q, N, 44)."""
        rows, counts = candidates.rows, candidates.counts
        self._make_room(max(int(rows.max(initial=-1)), largest_row(queries)) + 1, self._vectors.shape[1])
        out = np.zeros((*rows.shape, len(RANKER_FEATURES)), np.float32)
        write_candidate_features(candidates, queries, out)
        cosines = out[:, :, N_FEATURES:_LIFT]
        write_cosines(self._vectors, self._inverse, self._place_weights, queries, rows, counts, cosines)
        _write_lifts(self._lifts, rows, counts, out[:, :, _LIFT:])
        return out

    def scores(self, candidates: Candidates, queries: Queries) -> NDArray[np.float32]:
        """Return the score of each candidate, float32 (Q, N); there must be a version.

        `RankerWeights.scores` says the same; here each candidate's sum has one order, whoever is scored with it.
        """
        if self._weights is None:
            raise ValueError("no version was published yet")
        out = np.zeros(candidates.rows.shape, np.float32)
        linear, _, outer = self._weights.parts()
        features = self.features(candidates, queries)
        _write_scores(features, candidates.counts, linear, self._units, outer, out)
        return out

    def probabilities(self, candidates: Candidates, queries: Queries) -> NDArray[np.float32]:
        """Return how likely each candidate comes next, if any of them does: float32 (Q, N).

        Without a version the candidates share by their first order.
        """
        if self._weights is None:
            first = np.log(np.maximum(candidates.scores[:, :, 0], _LITTLE))
            return click_probabilities(first, candidates.counts)
        return click_probabilities(self.scores(candidates, queries), candidates.counts)

    def _place(self, items: PublishedItems) -> None:
        rows = self._add(items.hashes)
        known = rows >= 0
        rows = rows[known]
        self._make_room(int(rows.max(initial=-1)) + 1, items.vectors.shape[1])
        self._vectors[rows] = items.vectors[known]
        self._lifts[rows] = items.lifts[known]
        inverse_lengths(self._vectors, rows, self._inverse)

    def _make_room(self, items: int, dimensions: int) -> None:
        have = len(self._vectors)
        if self._vectors.shape[1] != dimensions:
            self._vectors = np.zeros((have, dimensions), np.float32)
            self._inverse = np.zeros(have, np.float32)
        if items > have:
            more = max(items, have + have // 2) - have
            self._vectors = np.concatenate([self._vectors, np.zeros((more, dimensions), np.float32)])
            self._inverse = np.concatenate([self._inverse, np.zeros(more, np.float32)])
            self._lifts = np.concatenate([self._lifts, np.zeros((more, 2), np.float32)])


_LITTLE = 1e-6


@kernel
def _write_lifts(
    lifts: NDArray[np.float32], rows: NDArray[np.int32], counts: NDArray[np.int32], out: NDArray[np.float32]
) -> None:
    for q in range(len(counts)):
        for j in range(counts[q]):
            out[q, j] = lifts[rows[q, j]]


@kernel(fastmath={"reassoc", "contract"})
def _write_scores(
    features: NDArray[np.float32],
    counts: NDArray[np.int32],
    linear: NDArray[np.float32],
    units: NDArray[np.float32],
    outer: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    for q in range(len(counts)):
        for j in range(counts[q]):
            score = np.float32(0.0)
            for f in range(len(linear)):
                score += features[q, j, f] * linear[f]
            for h in range(len(outer)):
                value = np.float32(0.0)
                for f in range(len(linear)):
                    value += features[q, j, f] * units[h, f]
                score += max(value, np.float32(0.0)) * outer[h]
            out[q, j] = score
