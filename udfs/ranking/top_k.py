"""Exact selection of the best few, with ties broken by row: the same answer however the rows come.

A score and its row become one uint64 that orders as (score descending, row ascending) does, so selection
compares integers. NaN must not come in.
"""

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel

_SIGN = np.uint32(0x8000_0000)
_ALL = np.uint32(0xFFFF_FFFF)
_STACK = 128
_SHORT = 12  # below it, insertion beats another partition


@kernel
def order_key(score: np.float32, row: int) -> np.uint64:
    """Return a key that is larger for a larger score, and for a smaller row of equal scores."""
    bits = np.float32(score + np.float32(0.0)).view(np.uint32)  # -0.0 becomes 0.0
    flipped = ~bits if bits & _SIGN else bits | _SIGN
    return (np.uint64(np.uint32(flipped)) << np.uint64(32)) | np.uint64(_ALL - np.uint32(row))


@kernel
def row_of_key(key: np.uint64) -> int:
    """Return the row that `order_key` put in."""
    return int(_ALL - np.uint32(key & np.uint64(0xFFFF_FFFF)))


@kernel
def score_of_key(key: np.uint64) -> np.float32:
    """Return the score that `order_key` put in."""
    flipped = np.uint32(key >> np.uint64(32))
    mask = _SIGN if flipped & _SIGN else _ALL
    return np.uint32(flipped ^ mask).view(np.float32)


@kernel
def partition(keys: NDArray[np.uint64], low: int, high: int) -> int:
    """Bring the keys above a pivot of ``keys[low:high]`` in front of it, and return where it stands then.

    It moves without branching on the comparison, which random scores would mispredict every other time.
    """
    middle = (low + high) >> 1
    first, second, third = keys[low], keys[middle], keys[high - 1]
    pivot_at = middle
    if (first < second) == (first > third):
        pivot_at = low
    elif (third < first) == (third > second):
        pivot_at = high - 1
    pivot = keys[pivot_at]
    keys[pivot_at] = keys[high - 1]
    keys[high - 1] = pivot
    edge = low
    for at in range(low, high - 1):
        value = keys[at]
        keys[at] = keys[edge]
        keys[edge] = value
        edge += value > pivot
    keys[high - 1] = keys[edge]
    keys[edge] = pivot
    return edge


@kernel
def sort_top(keys: NDArray[np.uint64], count: int, k: int) -> None:
    """Bring the `k` largest of ``keys[:count]`` to the front, in descending order; the rest is left anyhow.

    Quicksort that leaves partitions behind `k` alone.
    """
    lows = np.empty(_STACK, np.int64)
    highs = np.empty(_STACK, np.int64)
    depth = 1
    lows[0], highs[0] = 0, count
    while depth > 0:
        depth -= 1
        low, high = lows[depth], highs[depth]
        while high - low > _SHORT and low < k:
            edge = partition(keys, low, high)
            # Go on with the left part; the right one waits, if any of it is wanted.
            if edge + 1 < k and depth < _STACK - 1:
                lows[depth], highs[depth] = edge + 1, high
                depth += 1
            elif edge + 1 < k:
                _insertion(keys, edge + 1, high)
            high = edge
        if low < k:
            _insertion(keys, low, high)


@kernel
def _insertion(keys: NDArray[np.uint64], low: int, high: int) -> None:
    for at in range(low + 1, high):
        value = keys[at]
        to = at
        while to > low and keys[to - 1] < value:
            keys[to] = keys[to - 1]
            to -= 1
        keys[to] = value
