"""The sequential network in the sessions protocol: alone, and beside what serves.

It is trained between periods: on a period's sessions some times, with as many of the earlier ones again.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from model_export.protocols.rank_metrics import DEEPEST
from model_export.protocols.session_log import Clicks
from model_export.protocols.session_models import LearntModel
from model_export.sequence_pieces import pieces_of
from model_export.sequence_training import GruTrainer, SequenceSettings
from udfs.ranking.sequence_network import LENGTH

FIRST_EPOCHS = 30
"""Times over the sessions of the first period that is learnt."""
EPOCHS = 12
"""Times over those of each later one; this, and all below, was chosen on periods 1 to 4."""
RANK_OFFSET = 5.0
SHARE = 0.1
"""Of the network's reciprocal rank beside that of what serves."""
DEPTH = 60
CHUNK = 512


class NetworkModel:
    """The network alone; all known items are scored.

    Parameters
    ----------
    items
        Rows to make room for.
    seed
        Of its training.
    settings
        Of the training.
    """

    def __init__(self, items: int, seed: int, settings: SequenceSettings | None = None) -> None:
        settings = settings or replace(SequenceSettings(), negatives=2_048)
        self._trainer = GruTrainer(items, settings, seed)
        self.learning_s = 0.0  # between periods
        self._rng = np.random.default_rng(seed)
        self._clicks: list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]]] = []
        self._earlier = np.zeros((0, LENGTH + 1), np.int32)
        self._table = self._trainer.weights().table

    def learn(self, clicks: Clicks) -> None:
        """Keep clicks for the end of the period."""
        self._clicks.append((clicks.queries.keys, clicks.items))

    def predict(
        self, clicks: Clicks, known: npt.NDArray[np.bool_], limit: int = DEEPEST
    ) -> npt.NDArray[np.int32]:
        """Return the best items for each predicted click."""
        asked = np.flatnonzero(clicks.predicted)
        found = np.full((len(asked), limit), -1, np.int32)
        tokens, lengths = _tokens(clicks, asked)
        allowed = np.flatnonzero(known)
        vectors = np.ascontiguousarray(self._table[1:][allowed].T)
        kept = min(limit, len(allowed))
        for at in range(0, len(asked), CHUNK):
            scores = self._trainer.states(tokens[at : at + CHUNK], lengths[at : at + CHUNK]) @ vectors
            best = np.argpartition(-scores, kept - 1, axis=1)[:, :kept]
            order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
            found[at : at + CHUNK, :kept] = allowed[np.take_along_axis(best, order, axis=1)]
        return found

    def predict_and_learn(self, clicks: Clicks, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
        """Return the same; what happened is learnt at the end of the period."""
        self.learn(clicks)
        return self.predict(clicks, known)

    def end_period(self) -> None:
        """Train on the period's sessions, and on as many earlier ones."""
        if not self._clicks:
            return
        sessions, items = (np.concatenate(parts) for parts in zip(*self._clicks, strict=True))
        order = np.argsort(sessions, kind="stable")
        newest = pieces_of(sessions[order].astype(np.int64), items[order] + 1)
        again = self._rng.choice(len(self._earlier), min(len(newest), len(self._earlier)), replace=False)
        self._trainer.fit(
            np.concatenate([newest, self._earlier[again]]), EPOCHS if len(self._earlier) else FIRST_EPOCHS
        )
        self._earlier = np.concatenate([self._earlier, newest])
        self._clicks = []
        self._table = self._trainer.weights().table


class BlendedModel:
    """What serves, and the network beside it: their reciprocal ranks are added up.

    Parameters
    ----------
    items, seed, settings
        As for `NetworkModel`.
    share
        Of the network.
    """

    def __init__(
        self, items: int, seed: int, settings: SequenceSettings | None = None, share: float = SHARE
    ) -> None:
        self._ours, self._network = LearntModel(items, seed), NetworkModel(items, seed, settings)
        self._share, self.learning_s = share, 0.0  # not told apart

    def learn(self, clicks: Clicks) -> None:
        """Learn clicks in their order."""
        self._ours.learn(clicks)
        self._network.learn(clicks)

    def predict(self, clicks: Clicks, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
        """Return the best items for each predicted click, by what was known before the period."""
        return self._blend(self._ours.predict(clicks, known), self._network.predict(clicks, known, DEPTH))

    def predict_and_learn(self, clicks: Clicks, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
        """Return the same, learning."""
        found = self._ours.ranker.predict_and_learn(clicks.queries, clicks.items, known, DEPTH)
        self._network.learn(clicks)
        return self._blend(found[clicks.predicted], self._network.predict(clicks, known, DEPTH))

    def end_period(self) -> None:
        """Train the network."""
        self._ours.end_period()
        self._network.end_period()

    def _blend(self, ours: npt.NDArray[np.int32], others: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Return int32 (P, DEEPEST) of two lists a click."""
        both = np.concatenate([ours, others], axis=1).astype(np.int64)
        places = np.concatenate([np.arange(ours.shape[1]), np.arange(others.shape[1])])
        weights = np.where(np.arange(both.shape[1]) < ours.shape[1], 1.0, self._share) / (
            RANK_OFFSET + places
        )
        scores = np.where(both >= 0, weights[None, :], 0.0)
        same = (both[:, : ours.shape[1], None] == both[:, None, ours.shape[1] :]) & (ours[:, :, None] >= 0)
        first, second = scores[:, : ours.shape[1]], scores[:, ours.shape[1] :]
        first = first + (same * second[:, None, :]).sum(axis=2)
        second = np.where(same.any(axis=1), 0.0, second)
        scores = np.concatenate([first, second], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :DEEPEST]
        found = np.take_along_axis(both, order, axis=1)
        return np.where(np.take_along_axis(scores, order, axis=1) > 0.0, found, -1).astype(np.int32)


def _tokens(
    clicks: Clicks, asked: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Return the last items of the sessions, int64 (P, 20), and how many, int32 (P,)."""
    start, stop = clicks.queries.start[asked], clicks.queries.stop[asked]
    start = np.maximum(start, stop - LENGTH)
    place = start[:, None] + np.arange(LENGTH)
    inside = place < stop[:, None]
    items = clicks.queries.items[np.minimum(place, len(clicks.queries.items) - 1)]
    return np.where(inside, items.astype(np.int64) + 1, 0), (stop - start).astype(np.int32)
