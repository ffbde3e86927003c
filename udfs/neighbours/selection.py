"""The best few of many, in no order: for sums over them, which need none."""

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.ranking.top_k import partition


@kernel
def select_top(keys: NDArray[np.uint64], count: int, k: int) -> None:
    """Bring the `k` largest of ``keys[:count]`` to the front, in any order; equal calls give equal orders.

    Quickselect. Keys are different, as those of `order_key` are.
    """
    low, high = 0, count
    while high - low > 1 and low < k < high:
        edge = partition(keys, low, high)
        if edge < k:
            low = edge + 1
        else:
            high = edge
