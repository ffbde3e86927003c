"""The sessions of some clicks as the index has them: what each had clicked before."""

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.neighbours.index_arrays import ITEMS, LENGTH, SESSION_CAP, IndexArrays
from udfs.neighbours.index_kernel import slot_of
from udfs.neighbours.scan_arrays import Queries


def contexts(arrays: IndexArrays, keys: NDArray[np.uint64], items: NDArray[np.int32]) -> Queries:
    """Return the session before each click, those of the same call counted too.

    Parameters
    ----------
    arrays
        The index before these clicks; it keeps the last `SESSION_CAP` items of a session.
    keys, items
        uint64 and int32 (B,): sessions and item rows, in their order.
    """
    flat = np.empty(len(keys) * (SESSION_CAP + len(keys)), np.int32)
    stop = np.empty(len(keys), np.int64)
    start = np.empty(len(keys), np.int64)
    _write(arrays, keys, items, flat, start, stop)
    return Queries(flat, start, stop, keys)


@kernel
def _write(
    arrays: IndexArrays,
    keys: NDArray[np.uint64],
    items: NDArray[np.int32],
    flat: NDArray[np.int32],
    start: NDArray[np.int64],
    stop: NDArray[np.int64],
) -> None:
    at = 0
    for b in range(len(keys)):
        first = at
        slot = slot_of(arrays, keys[b])
        if slot >= 0:
            for j in range(arrays.sessions[slot, LENGTH]):
                flat[at] = arrays.sessions[slot, ITEMS + j]
                at += 1
        for earlier in range(b):
            if keys[earlier] == keys[b]:
                flat[at] = items[earlier]
                at += 1
        start[b] = max(first, at - SESSION_CAP)
        stop[b] = at
