"""When what the session ranker has learnt is published, and which part of it."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.records import LearntPart
from udfs.online.item_embeddings import BLOCK_ROWS
from udfs.online.publication import RANKER_PART, encode_items, encode_ranker, items_part
from udfs.online.session_ranker import SessionRanker


class PublisherSettings(NamedTuple):
    """How often, and how much at most."""

    clicks: int = 2_048
    """From one version to the next; the delay of what is served, in clicks of anybody."""
    blocks: int = 64
    """Of 128 items, whose vectors go with a version: those that were moved most since they were published."""


class Publisher:
    """Makes versions of a ranker, by clicks alone: equal clicks give equal versions, whoever counts them and when.

    Parameters
    ----------
    ranker
        That learns.
    settings
        How often, and how much at most.

    Notes
    -----
    A version has `PublisherSettings.blocks` blocks at most, so it never costs more than some 1.2 MB. What is moved
    seldom waits until it has been moved more often than others since their last time, and so its turn comes.
    """

    def __init__(self, ranker: SessionRanker, settings: PublisherSettings) -> None:
        self.version = 0
        self.clicks = 0
        self._ranker = ranker
        self._settings = settings

    def parts(self, hashes: NDArray[np.uint64]) -> list[LearntPart]:
        """Return the parts of a version if one is due, the ranker's last; else nothing.

        Parameters
        ----------
        hashes
            uint64 (n,): of the item rows in use.
        """
        clicks = self._ranker.index.clicks
        if clicks < self.clicks + self._settings.clicks:
            return []
        self.version, self.clicks = self.version + 1, clicks
        found = [
            LearntPart(items_part(block), self.version, clicks, self._block(block, hashes))
            for block in self._due(-(-len(hashes) // BLOCK_ROWS))
        ]
        embeddings = self._ranker.embeddings
        ranker = encode_ranker(self._ranker.learner.weights, embeddings.place_weights())
        return [*found, LearntPart(RANKER_PART, self.version, clicks, ranker)]

    def _due(self, blocks: int) -> list[int]:
        touches = self._ranker.embeddings.touches[:blocks]
        order = np.argsort(-touches, kind="stable")[: self._settings.blocks]
        chosen = order[touches[order] > 0]
        touches[chosen] = 0
        return sorted(chosen.tolist())

    def _block(self, block: int, hashes: NDArray[np.uint64]) -> bytes:
        part = slice(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, len(hashes)))
        rows = np.arange(part.start, part.stop, dtype=np.int32)
        lifts = np.zeros((1, len(rows), 2), np.float32)
        self._ranker.lift.features(rows[None, :], np.array([len(rows)], np.int32), lifts)
        return encode_items(hashes[part], self._ranker.embeddings.vectors[part], lifts[0])
