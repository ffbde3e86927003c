"""Adds a batch of contributions to many items' counts, in compiled code over their blobs.

`item_counts` says what the words of a blob mean, `reference` the same in plain Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.similarity.contribution import CONTRIBUTION
from udfs.similarity.item_counts import HEADER_WORDS, MAX_BOUGHT, MAX_VIEWED

_AS_OF: Final = 1
_UPDATES: Final = 2
_VIEWED: Final = 3
_BOUGHT: Final = 4
_TREND: Final = 5


class HalfLives(NamedTuple):
    """How fast counts decay, in milliseconds of event time.

    Attributes
    ----------
    together_ms
        Of sessions: of what items go with.
    trend_ms
        Of what is popular at the moment.
    """

    together_ms: float
    trend_ms: float


def apply_contributions(
    blobs: Sequence[bytes], contributions: NDArray[np.void], half_lives: HalfLives
) -> list[bytes]:
    """Give the items' blobs with the contributions in them.

    Parameters
    ----------
    blobs
        One an item, in ascending order of their hashes; of a new one `item_counts.empty_blob`.
    contributions
        (n,) of `CONTRIBUTION`, sorted by item and other (`in_order`); at least one for each blob.
    """
    words = np.frombuffer(b"".join(blobs), np.uint64)
    sizes = np.array([len(blob) >> 3 for blob in blobs], np.int64)
    room = sizes + 3 * (MAX_VIEWED + MAX_BOUGHT)
    grown = np.empty(int(room.sum()), np.uint64)
    ends = np.zeros(len(blobs), np.int64)
    _apply(
        words,
        words.view(np.float64),
        sizes,
        np.ascontiguousarray(contributions["item"]),
        np.ascontiguousarray(contributions["other"]),
        np.ascontiguousarray(contributions["at_ms"]),
        np.ascontiguousarray(contributions["viewed"]),
        np.ascontiguousarray(contributions["bought"]),
        np.ascontiguousarray(contributions["trend"]),
        half_lives.together_ms,
        half_lives.trend_ms,
        grown,
        grown.view(np.float64),
        room,
        ends,
    )
    data = grown.data.cast("B")
    starts = np.cumsum(room) - room
    return [
        bytes(data[8 * start : 8 * end]) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
    ]


def in_order(contributions: NDArray[np.void]) -> NDArray[np.void]:
    """Sort contributions by item, and those of one item by other, told apart by the first half of its hash.

    One key for both is sorted in half of the time. Two others of one half may come mixed: then they are added
    one by one. Two items may not.
    """
    assert contributions.dtype == CONTRIBUTION
    items, others = contributions["item"], contributions["other"]
    half = np.uint64(32)
    order = np.argsort((items >> half << half) | (others >> half))
    if (items[order][:-1] > items[order][1:]).any():
        order = np.lexsort((others, items))
    ordered: NDArray[np.void] = contributions[order]
    return ordered


@kernel
def _apply(
    words: NDArray[np.uint64],
    floats: NDArray[np.float64],
    sizes: NDArray[np.int64],
    items: NDArray[np.uint64],
    others: NDArray[np.uint64],
    times_ms: NDArray[np.int64],
    viewed: NDArray[np.float32],
    bought: NDArray[np.float32],
    trend: NDArray[np.float32],
    together_ms: float,
    trend_ms: float,
    out: NDArray[np.uint64],
    out_floats: NDArray[np.float64],
    room: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> None:
    """Write each item's new words at its room's start in `out`, and where they end into `ends`."""
    hashes = np.zeros(MAX_VIEWED, np.uint64)
    weights = np.zeros(MAX_VIEWED)
    errors = np.zeros(MAX_VIEWED)
    start = to = row = 0
    for number in range(len(sizes)):
        first, item, old_ms = row, items[row], int(np.int64(words[start + _AS_OF]))
        now_ms = old_ms
        while row < len(items) and items[row] == item:
            now_ms = max(now_ms, int(times_ms[row]))
            row += 1
        left = 0.5 ** ((now_ms - old_ms) / together_ms)
        n_viewed = int(np.int64((words[start] >> np.uint64(8)) & np.uint64(255)))
        n_bought = int(np.int64((words[start] >> np.uint64(16)) & np.uint64(255)))
        own_viewed = floats[start + _VIEWED] * left
        own_bought = floats[start + _BOUGHT] * left
        own_trend = floats[start + _TREND] * 0.5 ** ((now_ms - old_ms) / trend_ms)
        for n in range(first, row):
            if others[n] == np.uint64(0):
                weight = 0.5 ** ((now_ms - times_ms[n]) / together_ms)
                own_viewed += viewed[n] * weight
                own_bought += bought[n] * weight
                own_trend += trend[n] * 0.5 ** ((now_ms - times_ms[n]) / trend_ms)
        at = start + HEADER_WORDS
        end = to + HEADER_WORDS
        for kind in range(2):
            count = n_viewed if kind == 0 else n_bought
            for n in range(count):
                hashes[n] = words[at + n]
                weights[n] = floats[at + count + n] * left
                errors[n] = floats[at + 2 * count + n] * left
            at += 3 * count
            cap = MAX_VIEWED if kind == 0 else MAX_BOUGHT
            shares = viewed if kind == 0 else bought
            n = first
            while n < row:
                other, added = others[n], 0.0
                while n < row and others[n] == other:
                    added += shares[n] * 0.5 ** ((now_ms - times_ms[n]) / together_ms)
                    n += 1
                if other != np.uint64(0) and added > 0.0:
                    count = _add(hashes, weights, errors, count, cap, other, added)
            for n in range(count):
                out[end + n] = hashes[n]
                out_floats[end + count + n] = weights[n]
                out_floats[end + 2 * count + n] = errors[n]
            end += 3 * count
            if kind == 0:
                n_viewed = count
            else:
                n_bought = count
        while at < start + sizes[number]:  # the name
            out[end] = words[at]
            at += 1
            end += 1
        out[to] = (
            (words[start] & np.uint64(0xFFFF_FFFF_0000_00FF))
            | (np.uint64(n_viewed) << np.uint64(8))
            | (np.uint64(n_bought) << np.uint64(16))
        )
        out[to + _AS_OF] = np.uint64(now_ms)
        out[to + _UPDATES] = words[start + _UPDATES] + np.uint64(row - first)
        out_floats[to + _VIEWED] = own_viewed
        out_floats[to + _BOUGHT] = own_bought
        out_floats[to + _TREND] = own_trend
        for spare in range(_TREND + 1, HEADER_WORDS):
            out[to + spare] = 0
        ends[number] = end
        start += sizes[number]
        to += room[number]


@kernel
def _add(
    hashes: NDArray[np.uint64],
    weights: NDArray[np.float64],
    errors: NDArray[np.float64],
    count: int,
    cap: int,
    other: np.uint64,
    added: float,
) -> int:
    """Add to a neighbour's weight; give the new number of neighbours."""
    least = 0
    for n in range(count):
        if hashes[n] == other:
            weights[n] += added
            return count
        if weights[n] < weights[least]:
            least = n
    if count < cap:
        hashes[count], weights[count], errors[count] = other, added, 0.0
        return count + 1
    hashes[least], errors[least] = other, weights[least]
    weights[least] += added
    return count
