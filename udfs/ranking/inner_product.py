"""The embedding source: inner products of one user's vector with all items, and the best of them.

`contract` is the one licence the compiler gets here: to multiply and add in one instruction, with one
rounding in place of two, a third faster. No addition changes its place, and all users run the same code.
"""

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.ranking.top_k import order_key, row_of_key, sort_top

BLOCK = 512  # items scored at a time: the block and four rows of factors stay in the first-level cache
GROUPS = 256  # of items whose maxima bound the k-th best from below
LANES = 16


def padded_columns(factors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return factors (n, d) as `score_all` wants them: (d, n padded to a multiple of `BLOCK` with zeros)."""
    n, dimension = factors.shape
    padded = np.zeros((dimension, -(-n // BLOCK) * BLOCK), np.float32)
    padded[:, :n] = factors.T
    return padded


@kernel(fastmath={"contract"})
def score_all(
    vector: NDArray[np.float32],
    transposed: NDArray[np.float32],
    bias: NDArray[np.float32],
    scores: NDArray[np.float32],
) -> None:
    """Score every item for one user.

    Vector instructions run along the items, so each item's sum is in the order of the dimensions, as in
    `score_one`, and no compiler has a sum to regroup.

    Parameters
    ----------
    vector
        float32 (d,) or longer
    transposed
        float32 (d, padded n), n padded to a multiple of `BLOCK`
    bias
        float32 (padded n,): 0, or -inf for an item that is not allowed and for padding
    scores
        float32 (padded n,), overwritten
    """
    dimension = transposed.shape[0]
    for start in range(0, transposed.shape[1], BLOCK):
        out = scores[start : start + BLOCK]
        first = bias[start : start + BLOCK]
        for at in range(BLOCK):
            out[at] = first[at]
        j = 0
        while j + 4 <= dimension:
            w, x, y, z = vector[j], vector[j + 1], vector[j + 2], vector[j + 3]
            row_w = transposed[j, start : start + BLOCK]
            row_x = transposed[j + 1, start : start + BLOCK]
            row_y = transposed[j + 2, start : start + BLOCK]
            row_z = transposed[j + 3, start : start + BLOCK]
            for at in range(BLOCK):
                out[at] = (((out[at] + w * row_w[at]) + x * row_x[at]) + y * row_y[at]) + z * row_z[at]
            j += 4
        while j < dimension:
            w = vector[j]
            row_w = transposed[j, start : start + BLOCK]
            for at in range(BLOCK):
                out[at] = out[at] + w * row_w[at]
            j += 1


@kernel(fastmath={"contract"})
def score_one(vector: NDArray[np.float32], factors: NDArray[np.float32], row: int) -> np.float32:
    """Score one item: bit for bit what `score_all` gives an allowed one."""
    total = np.float32(0.0)
    for j in range(factors.shape[1]):
        total += vector[j] * factors[row, j]
    return total


@kernel
def best_scores(scores: NDArray[np.float32], k: int, keys: NDArray[np.uint64]) -> int:
    """Put the keys of the `k` best rows first in `keys`, best first; return how many there are.

    The maxima of `GROUPS` groups of items are cheap; k of them reach the k-th greatest maximum, so the k
    best items do too, and few others.

    Parameters
    ----------
    scores
        float32 (padded n,); -inf for a row that may not be chosen
    k
        Wanted.
    keys
        uint64 (at least padded n,)
    """
    found = reaching(scores, k, keys)
    for at in range(found):
        row = int(keys[at])
        keys[at] = order_key(scores[row], row)
    sort_top(keys, found, k)
    return min(found, k)


@kernel
def reaching(scores: NDArray[np.float32], k: int, keys: NDArray[np.uint64]) -> int:
    """Put into `keys` the places of all scores that may be among the `k` best, and of few others; return how many.

    Parameters are those of `best_scores`; the length of `scores` is a multiple of `GROUPS`.
    """
    if k <= 0:
        return 0
    threshold = np.float32(-np.inf)
    if 2 * k <= GROUPS:
        threshold = _kth_maximum(scores, k, keys)
    lowest = np.float32(-3.4e38)  # -inf is never chosen
    threshold = max(threshold, lowest)
    found = 0
    for start in range(0, len(scores), LANES):
        block = scores[start : start + LANES]
        reach = 0
        for at in range(LANES):
            reach += block[at] >= threshold
        if reach:
            for at in range(LANES):
                keys[found] = start + at
                found += block[at] >= threshold
    return found


@kernel
def _kth_maximum(scores: NDArray[np.float32], k: int, keys: NDArray[np.uint64]) -> np.float32:
    """Return the k-th greatest of the maxima of items g, g + GROUPS, g + 2 GROUPS, ..."""
    maxima = scores[:GROUPS].copy()
    for start in range(GROUPS, len(scores), GROUPS):
        block = scores[start : start + GROUPS]
        for at in range(GROUPS):
            maxima[at] = block[at] if block[at] > maxima[at] else maxima[at]
    for at in range(GROUPS):
        keys[at] = order_key(maxima[at], at)
    sort_top(keys, GROUPS, k)
    return np.float32(maxima[row_of_key(keys[k - 1])])
