"""The best few of many, in no order: for sums over them, which need none."""

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel


@kernel
def select_top(keys: NDArray[np.uint64], count: int, k: int) -> None:
    """Bring the `k` largest of ``keys[:count]`` to the front, in any order; equal calls give equal orders.

    Quickselect with the partition of `udfs.ranking.top_k.sort_top`, which does not branch on the comparison. Keys are
    different, as those of `order_key` are.
    """
    low, high = 0, count
    while high - low > 1 and low < k < high:
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
        if edge < k:
            low = edge + 1
        else:
            high = edge
