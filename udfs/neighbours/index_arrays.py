"""The arrays of the session index, their sizes in bytes, and how they grow with the catalogue.

Sessions lie in a ring of slots: a new session takes the slot of the oldest. Each item has a ring of the numbers
of its latest sessions, cut from one pool in sizes of powers of two, so that an item with three sessions does not
pay for 256. A session's number only rises; a ring entry whose slot holds another number is stale and skipped. All
that a scan reads of a session lies in one row of 128 bytes, because a scan pays for cache lines, not for arithmetic.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SESSION_CAP = 29
"""Clicks kept of a session, the latest; 0.1 % of DIGINETICA's sessions are longer."""
NUMBER, LENGTH, CLICK, ITEMS = range(4)
"""Columns of a session's row: its number, how many items are kept, its latest click among all clicks, its items."""
LOW_BITS = 0x7FFF_FFFF
"""Numbers of sessions and clicks count on as int64; rows and rings keep their low bits."""
SMALLEST_RING = 4
N_SIZES = 12
"""Ring sizes 4, 8, ... 8192."""
HORIZONS_CLICKS = (1 << 12, 1 << 15, 1 << 18)
"""Clicks of anybody after which an item's decayed count falls by e: what is popular now, lately and long since."""
N_HORIZONS = len(HORIZONS_CLICKS)
N_SESSIONS, N_CLICKS, POOL_TOP = range(3)


class IndexLimits(NamedTuple):
    """What bounds the index's memory.

    Parameters
    ----------
    sessions
        Slots; a power of two.
    sessions_per_item
        Longest ring; a power of two, at most 8192.
    pool
        Ring entries in all. When it is used up, rings stop growing and forget their oldest earlier.
    """

    sessions: int = 1 << 18
    sessions_per_item: int = 256
    pool: int = 1 << 22


class IndexArrays(NamedTuple):
    """State of the index: S slots, n items, P ring entries, T places of the table of keys."""

    sessions: NDArray[
        np.int32
    ]  # (S, ITEMS + SESSION_CAP) NUMBER (-1: never used), LENGTH, CLICK, items oldest first
    session_key: NDArray[np.uint64]  # (S,)
    table: NDArray[np.int32]  # (T,) slot, -1: free
    ring_start: NDArray[np.int64]  # (n,) into postings, -1: none yet
    ring_room: NDArray[np.int32]  # (n,)
    ring_pushed: NDArray[np.int64]  # (n,) entries ever pushed
    item_weight: NDArray[np.float64]  # (n, N_HORIZONS) decayed sums of click weights, as of item_click
    item_popular: NDArray[np.float64]  # (n,) log of one plus the second of them
    item_click: NDArray[np.int64]  # (n,) number of the item's latest click among all clicks, -1: none
    postings: NDArray[np.int32]  # (P,) session numbers
    free: NDArray[np.int64]  # (N_SIZES,) first free ring of each size, -1: none; the next one stands in it
    counts: NDArray[np.int64]  # (3,) sessions ever, clicks ever, used part of the pool


def empty_arrays(limits: IndexLimits, items: int) -> IndexArrays:
    """Return the arrays of an index that has seen nothing.

    Raises
    ------
    ValueError
        If a limit is no power of two, or a ring could be longer than the pool's sizes.
    """
    for name in ("sessions", "sessions_per_item"):
        value = getattr(limits, name)
        if value < 1 or value & (value - 1):
            raise ValueError(f"IndexLimits.{name}: wanted a power of two, got {value}")
    longest = SMALLEST_RING << (N_SIZES - 1)
    if not SMALLEST_RING <= limits.sessions_per_item <= longest:
        raise ValueError(
            f"IndexLimits.sessions_per_item: wanted {SMALLEST_RING} to {longest}, got {limits.sessions_per_item}"
        )
    slots = limits.sessions
    return IndexArrays(
        np.full((slots, ITEMS + SESSION_CAP), -1, np.int32),
        np.zeros(slots, np.uint64),
        np.full(4 * slots, -1, np.int32),
        np.full(items, -1, np.int64),
        np.zeros(items, np.int32),
        np.zeros(items, np.int64),
        np.zeros((items, N_HORIZONS), np.float64),
        np.zeros(items, np.float64),
        np.full(items, -1, np.int64),
        np.zeros(limits.pool, np.int32),
        np.full(N_SIZES, -1, np.int64),
        np.zeros(3, np.int64),
    )


def with_items(arrays: IndexArrays, items: int) -> IndexArrays:
    """Return arrays with room for at least `items` items; the others are shared, not copied."""
    have = len(arrays.ring_start)
    if items <= have:
        return arrays
    more = max(items, have + have // 2) - have

    def longer(array: NDArray[Any], fill: int) -> NDArray[Any]:
        return np.concatenate([array, np.full((more, *array.shape[1:]), fill, array.dtype)])

    return arrays._replace(
        ring_start=longer(arrays.ring_start, -1),
        ring_room=longer(arrays.ring_room, 0),
        ring_pushed=longer(arrays.ring_pushed, 0),
        item_weight=longer(arrays.item_weight, 0),
        item_popular=longer(arrays.item_popular, 0),
        item_click=longer(arrays.item_click, -1),
    )


def size_bytes(limits: IndexLimits, items: int) -> int:
    """Return what the index takes at most, all slots and the pool used.

    Examples
    --------
    >>> size_bytes(IndexLimits(), 43_136) // 2**20
    56
    """
    session = (ITEMS + SESSION_CAP) * 4 + 8 + 4 * 4
    item = 8 + 4 + 8 + 8 * N_HORIZONS + 8 + 8
    return limits.sessions * session + limits.pool * 4 + items * item
