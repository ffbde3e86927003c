"""Rows of items by their 64-bit hashes, given out in the order in which the items come."""

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.neighbours.index_kernel import place_of


class ItemTable:
    """A table of hashes that only grows: the first item is row 0, the next one that is new row 1.

    Parameters
    ----------
    most
        Items that it takes; later ones have no row.

    Examples
    --------
    >>> table = ItemTable()
    >>> table.add(np.array([70, 71, 70], np.uint64)).tolist()
    [0, 1, 0]
    """

    def __init__(self, most: int = 1 << 21) -> None:
        size = 1024
        self._most = most
        self._hashes = np.zeros(size, np.uint64)  # by row
        self._rows = np.full(2 * size, -1, np.int32)  # by place, -1: free
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """uint64 (n,): the hash of each row."""
        return self._hashes[: self._count]

    def add(self, hashes: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Return the row of each hash, int32 (B,); new ones get the next rows, -1 where there are `most`."""
        while self._count + len(hashes) > len(self._hashes):
            self._grow()
        rows = np.empty(len(hashes), np.int32)
        self._count = _add(self._rows, self._hashes, self._count, self._most, hashes, rows)
        return rows

    def _grow(self) -> None:
        known = self.hashes
        size = 2 * len(self._hashes)
        self._hashes = np.concatenate([self._hashes, np.zeros(size - len(self._hashes), np.uint64)])
        self._rows = np.full(2 * size, -1, np.int32)
        _add(self._rows, self._hashes, 0, len(known), known.copy(), np.empty(len(known), np.int32))


@kernel
def _place(rows: NDArray[np.int32], hashes: NDArray[np.uint64], wanted: np.uint64) -> int:
    """Return where `wanted` stands, or the free place where it would."""
    mask = len(rows) - 1
    place = place_of(wanted, len(rows))
    while rows[place] >= 0 and hashes[rows[place]] != wanted:
        place = (place + 1) & mask
    return place


@kernel
def _add(
    rows: NDArray[np.int32],
    hashes: NDArray[np.uint64],
    count: int,
    most: int,
    wanted: NDArray[np.uint64],
    out: NDArray[np.int32],
) -> int:
    for j in range(len(wanted)):
        place = _place(rows, hashes, wanted[j])
        if rows[place] < 0 and count < most:
            rows[place] = count
            hashes[count] = wanted[j]
            count += 1
        out[j] = rows[place]
    return count
