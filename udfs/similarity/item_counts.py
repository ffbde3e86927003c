"""One item's decayed counts and the items it goes with: the state of the similarity job.

Everything is held as of one moment, the newest event time that touched the item. An older event is added with
the weight that it has left by then, so the order of events and of batches changes figures by rounding alone.

The blob is 64-bit words, little endian, so that a kernel reads many of them as one array:

| word | what |
|---|---|
| 0 | bytes: format, neighbours viewed, neighbours bought, 0; u32 length of the name |
| 1 | i64 as_of_ms |
| 2 | u64 contributions so far |
| 3, 4, 5 | f64 sessions with the item, sessions that bought it, trend weight |
| 6, 7 | 0 |
| then | viewed: u64 hashes, f64 weights, f64 errors; bought: the same |
| then | name: tenant and id, filled up to a word |
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

FORMAT: Final = 1
HEADER_WORDS: Final = 8
MAX_VIEWED: Final = 64
MAX_BOUGHT: Final = 32
MAX_NAME_BYTES: Final = 800  # tenant and id of 128 bytes each, percent-encoded, and a slash
MAX_ITEM_BYTES: Final = 8 * (HEADER_WORDS + 3 * (MAX_VIEWED + MAX_BOUGHT)) + MAX_NAME_BYTES

_HEADER: Final = Struct("<BBBBIqQddd")


class Neighbours(NamedTuple):
    """What an item goes with, by one kind of going together.

    Source: Space-Saving (Metwally, Agrawal, El Abbadi 2005), with weights that decay. As long as an item has
    had no more neighbours than fit, weights are exact and errors 0. Else a newcomer takes the least one's
    place, with its weight on top and as its error: the true weight lies in [weight - error, weight].

    Attributes
    ----------
    hashes
        uint64 (n,), in order of arrival.
    weights, errors
        float64 (n,): decayed sessions that held both.
    """

    hashes: NDArray[np.uint64]
    weights: NDArray[np.float64]
    errors: NDArray[np.float64]

    @property
    def certain(self) -> NDArray[np.float64]:
        """Weights that are certain, (n,)."""
        return np.maximum(self.weights - self.errors, 0.0)


class ItemCounts(NamedTuple):
    """One item.

    Attributes
    ----------
    as_of_ms
        The moment that all figures are decayed to: the newest event time seen.
    updates
        Contributions so far: orders what is published.
    viewed, bought
        Sessions that held the item, that bought it.
    trend
        Weight of its events, which decays by the shorter half-life.
    """

    name: bytes
    as_of_ms: int
    updates: int
    viewed: float
    bought: float
    trend: float
    viewed_with: Neighbours
    bought_with: Neighbours

    @classmethod
    def decode(cls, blob: bytes) -> ItemCounts:
        """Read a blob.

        Raises
        ------
        ValueError
            For bytes of another format.
        """
        found, n_viewed, n_bought, _, length, as_of_ms, updates, viewed, bought, trend = _HEADER.unpack_from(
            blob
        )
        if found != FORMAT:
            raise ValueError(f"item counts: wanted format {FORMAT}, got {found}")
        start = 8 * HEADER_WORDS
        middle = start + 24 * n_viewed
        end = middle + 24 * n_bought
        return cls(
            blob[end : end + length],
            as_of_ms,
            updates,
            viewed,
            bought,
            trend,
            _neighbours(blob, start, n_viewed),
            _neighbours(blob, middle, n_bought),
        )


def empty_blob(name: bytes) -> bytes:
    """Give the blob of an item of which nothing is known but its name."""
    header = _HEADER.pack(FORMAT, 0, 0, 0, len(name), 0, 0, 0.0, 0.0, 0.0)
    return header.ljust(8 * HEADER_WORDS, b"\0") + name + bytes(-len(name) % 8)


def _neighbours(blob: bytes, start: int, count: int) -> Neighbours:
    return Neighbours(
        np.frombuffer(blob, np.uint64, count, start),
        np.frombuffer(blob, np.float64, count, start + 8 * count),
        np.frombuffer(blob, np.float64, count, start + 16 * count),
    )
