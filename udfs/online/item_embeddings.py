"""Item vectors learnt from the clicks as they come: a session points to what it clicks next."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.neighbours.scan_arrays import Queries, largest_row
from udfs.online.embedding_kernel import (
    inverse_lengths,
    latest_items,
    mask_twins,
    session_means,
    step_rows,
    step_sessions,
    to_errors,
    write_cosines,
)
from udfs.online.random_words import random_from, random_words

EMBEDDING_FEATURES = ("session_cosine", "last_cosine", "below_best_session_cosine", "below_best_last_cosine")
"""Names of what `ItemEmbeddings.features` gives of a candidate."""
BLOCK_ROWS = 128
"""Vectors that are published together; how often each block was touched is counted."""


class EmbeddingSettings(NamedTuple):
    """How the vectors are learnt."""

    dimensions: int = 64
    session_items: int = 9
    """Latest distinct items of a session that make its vector."""
    place_decay: float = 0.7
    """Weight of a place relative to the one after it, before anything is learnt about places."""
    temperature: float = 0.15
    """Cosines are divided by it before the softmax."""
    learning_rate: float = 0.1
    place_learning_rate: float = 0.02
    batch: int = 128
    """Clicks of one step."""
    negatives: int = 256
    """Recent clicks of others that a step's clicks are told from, shared by all of them."""
    replays: int = 2
    """Steps on remembered clicks for each step on new ones."""
    remembered: int = 1 << 17
    """Clicks kept to be replayed."""


class ItemEmbeddings:
    """Vectors of n items, trained by sampled softmax over cosines.

    A session's vector is the mean of its latest items' vectors, weighted by place; the weights are learnt too. The
    same vectors stand for items clicked and items to come. An item without clicks has a random vector.

    Parameters
    ----------
    items
        Rows to make room for at once; more are made when they come.
    settings
        How it learns.
    seed
        Of first vectors and of draws: equal clicks in equal batches give equal vectors.

    Notes
    -----
    **State**: `size_bytes`. **Steps**: AdaGrad's, so no gradient however large moves a row by more than the learning
    rate times the root of the dimensions. `touches` counts, by block of `BLOCK_ROWS` rows, how often a vector was
    moved; who publishes a block sets it to zero. **Source**: the tied cosine softmax is that of Hou et al., "CORE:
    simple and effective session-based recommendation within consistent representation space", SIGIR 2022; here
    without its transformer, and learnt click by click with replays.

    Examples
    --------
    >>> from udfs.neighbours.session_index import as_queries
    >>> embeddings = ItemEmbeddings(4, EmbeddingSettings(dimensions=8, batch=2, negatives=4))
    >>> for _ in range(200):
    ...     embeddings.learn(as_queries([[0], [2]]), np.array([1, 3], np.int32))
    >>> features = embeddings.features(as_queries([[0]]), np.array([[1, 3]], np.int32), np.array([2], np.int32))
    >>> bool(features[0, 0, 0] > features[0, 1, 0] + 0.5)
    True
    """

    def __init__(self, items: int, settings: EmbeddingSettings | None = None, seed: int = 0) -> None:
        self.settings = chosen = settings or EmbeddingSettings()
        self._random = np.random.default_rng(seed)
        self.vectors = np.zeros((0, chosen.dimensions), np.float32)
        self._squares = np.zeros(0, np.float32)
        self._inverse = np.zeros(0, np.float32)
        places = np.full((chosen.session_items, chosen.session_items), np.log(chosen.place_decay), np.float32)
        self._log_places = np.cumsum(places, axis=1)
        self._place_squares = np.full_like(places, _FIRST_SQUARE)
        self._past_sessions = np.full((chosen.remembered, chosen.session_items), -1, np.int32)
        self._past_items = np.zeros(chosen.remembered, np.int32)
        self._came = 0
        self._learnt = 0
        self.touches = np.zeros(0, np.int64)
        self.make_room(items)

    def size_bytes(self) -> int:
        """Return what vectors and remembered clicks take with the present items."""
        arrays = (self.vectors, self._squares, self._inverse, self._past_sessions, self._past_items)
        return sum(array.nbytes for array in arrays)

    def make_room(self, items: int) -> None:
        """Make room for at least so many item rows."""
        have = len(self.vectors)
        if items <= have:
            return
        more = max(items, have + have // 2) - have
        fresh = self._random.normal(0.0, _FIRST_SPREAD, (more, self.settings.dimensions)).astype(np.float32)
        self.vectors = np.concatenate([self.vectors, fresh])
        self._squares = np.concatenate([self._squares, np.full(more, _FIRST_SQUARE, np.float32)])
        self._inverse = np.concatenate([self._inverse, np.zeros(more, np.float32)])
        inverse_lengths(self.vectors, np.arange(have, len(self.vectors), dtype=np.int32), self._inverse)
        blocks = -(-len(self.vectors) // BLOCK_ROWS)
        self.touches = np.concatenate([self.touches, np.zeros(blocks - len(self.touches), np.int64)])

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all that it has learnt and drawn, the arrays themselves."""
        return {name: getattr(self, name) for name in _ARRAYS} | {
            "counts": np.array([self._came, self._learnt], np.int64),
            "random": random_words(self._random),
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what `state` gave; the arrays become its own."""
        for name in _ARRAYS:
            setattr(self, name, state[name])
        self._came, self._learnt = state["counts"].tolist()
        self._random = random_from(state["random"])

    def features(
        self,
        queries: Queries,
        rows: NDArray[np.int32],
        counts: NDArray[np.int32],
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Return how near candidates lie to their session.

        Parameters
        ----------
        queries
            Q sessions.
        rows, counts
            int32 (Q, N) and (Q,): their candidates.
        out
            Where to write; new zeros by default.

        Returns
        -------
        float32 (Q, N, 4): `EMBEDDING_FEATURES`, cosines times two.
        """
        if out is None:
            out = np.zeros((*rows.shape, len(EMBEDDING_FEATURES)), np.float32)
        self.make_room(max(int(rows.max(initial=-1)), largest_row(queries)) + 1)
        write_cosines(self.vectors, self._inverse, self.place_weights(), queries, rows, counts, out)
        return out

    def learn(self, queries: Queries, items: NDArray[np.int32]) -> None:
        """Remember what each session clicked next, and take the steps that are due.

        Parameters
        ----------
        queries
            B sessions, none of them empty.
        items
            int32 (B,): the row that each clicked next.
        """
        if not len(items):
            return
        self.make_room(max(int(items.max()), largest_row(queries)) + 1)
        sessions, batch = self._latest(queries), self.settings.batch
        for at in range(0, len(items), batch):  # never more than can be remembered
            self._remember(sessions[at : at + batch], items[at : at + batch])
            while self._came - self._learnt >= batch:
                self._learn_remembered(np.arange(self._learnt, self._learnt + batch))
                self._learnt += batch
                self.rehearse(self.settings.replays)

    def rehearse(self, steps: int) -> None:
        """Learn remembered clicks again, drawn at random."""
        for _ in range(steps if self._came else 0):
            self._learn_remembered(self._drawn(self.settings.batch))

    def step(
        self, sessions: NDArray[np.int32], items: NDArray[np.int32], negatives: NDArray[np.int32]
    ) -> None:
        """Learn some clicks at once.

        Parameters
        ----------
        sessions
            int32 (B, K): latest distinct items, newest first, -1 behind them.
        items
            int32 (B,): what each clicked next.
        negatives
            int32 (M,): rows that the B clicks are told from, beside each other.
        """
        chosen = self.settings
        rows = np.concatenate([items, negatives])
        means, shares = self._means(sessions)
        means, means_inverse = _units(means)
        inverse = self._inverse[rows][:, None]
        units = self.vectors[rows] * inverse
        errors = _softmax_errors(means, units, items, rows, chosen.temperature)
        mean_gradients = _along_sphere(errors @ units, means, means_inverse)
        row_gradients = _along_sphere(errors.T @ means, units, inverse)
        by_place = np.zeros_like(self._log_places)
        rate = chosen.learning_rate
        step_sessions(self.vectors, self._squares, sessions, shares, mean_gradients, rate, by_place)
        step_rows(self.vectors, self._squares, rows, row_gradients, rate)
        inverse_lengths(self.vectors, rows, self._inverse)
        inverse_lengths(self.vectors, sessions.ravel(), self._inverse)
        for touched in (rows, sessions[sessions >= 0]):
            self.touches += np.bincount(touched // BLOCK_ROWS, minlength=len(self.touches))
        by_place /= len(items)
        self._place_squares += by_place**2
        self._log_places -= chosen.place_learning_rate * by_place / np.sqrt(self._place_squares)

    def place_weights(self) -> NDArray[np.float32]:
        """Return what a place weighs: float32 (K, K), row n - 1 for sessions of n items, newest first."""
        return np.exp(self._log_places)

    def _latest(self, queries: Queries) -> NDArray[np.int32]:
        return latest_items(queries, self.settings.session_items)

    def _means(self, sessions: NDArray[np.int32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return session_means(self.vectors, self.place_weights(), sessions)

    def _remember(self, sessions: NDArray[np.int32], items: NDArray[np.int32]) -> None:
        places = (self._came + np.arange(len(items))) % self.settings.remembered
        self._past_sessions[places], self._past_items[places] = sessions, items
        self._came += len(items)

    def _drawn(self, count: int) -> NDArray[np.int64]:
        """Return numbers of remembered clicks at random."""
        return self._came - 1 - self._random.integers(0, min(self._came, self.settings.remembered), count)

    def _learn_remembered(self, numbers: NDArray[np.int64]) -> None:
        """Learn clicks given by their numbers since the first."""
        places = numbers % self.settings.remembered
        drawn = self._drawn(self.settings.negatives) % self.settings.remembered
        self.step(self._past_sessions[places], self._past_items[places], self._past_items[drawn])


_ARRAYS = (
    "vectors",
    "_squares",
    "_inverse",
    "_log_places",
    "_place_squares",
    "_past_sessions",
    "_past_items",
    "touches",
)
_FIRST_SPREAD = 0.1
_FIRST_SQUARE = 0.01
"""What AdaGrad's second moments start from: the first step is no longer than ten times the gradient's own size."""


def _units(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    inverse = 1.0 / np.sqrt(np.einsum("qd,qd->q", vectors, vectors)[:, None] + np.float32(1e-12))
    return vectors * inverse, inverse


def _softmax_errors(
    means: NDArray[np.float32],
    units: NDArray[np.float32],
    clicked: NDArray[np.int32],
    rows: NDArray[np.int32],
    temperature: float,
) -> NDArray[np.float32]:
    """Return the gradient of each click's cross entropy by its cosines: float32 (B, B + negatives).

    Column b is click b's own item; the same item in another column is no negative of it.
    """
    scores: NDArray[np.float32] = means @ units.T
    mask_twins(scores, clicked, rows, temperature)
    np.exp(scores, out=scores)
    to_errors(scores, temperature)
    return scores


def _along_sphere(
    gradients: NDArray[np.float32], units: NDArray[np.float32], inverse: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the gradient by a vector from the one by its direction."""
    gradients -= np.einsum("md,md->m", gradients, units)[:, None] * units
    gradients *= inverse
    return gradients
