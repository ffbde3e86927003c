"""The sum of some rows of whole numbers: what a packet of contributions adds, read once and in the cache."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from udfs.federate.contribution import Packet
from udfs.kernel_cache import kernel

COLUMNS: Final = 2_048
"""Columns of a block: its sums stay in the nearest cache while all rows pass."""
ROWS: Final = 65_536
"""So many numbers of 16 bits fit one of 32."""


def rows_sum(packet: Packet, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum some contributions of a packet, int64 (d,), in units.

    Parameters
    ----------
    places
        Of contributions with one base version, so with one step.
    """
    total = np.zeros(packet.rows.shape[1], np.int64)
    wide = np.int64 if packet.rows.dtype.itemsize > 2 else np.int32  # half the width, twice as many at once
    _add_rows(packet.rows, places, np.zeros(min(COLUMNS, len(total)), wide), total)
    total *= packet.fixed["step"][places[0]]
    return total


@kernel
def _add_rows(
    rows: NDArray[Any], places: NDArray[np.int64], part: NDArray[Any], total: NDArray[np.int64]
) -> None:
    """Add rows to `total`, block by block, in `part`, a block of numbers that hold `ROWS` of them."""
    for begin in range(0, len(total), COLUMNS):
        sums = total[begin : begin + COLUMNS]
        for first in range(0, len(places), ROWS):
            part[:] = 0
            for at in range(first, min(first + ROWS, len(places))):
                row = rows[places[at], begin : begin + COLUMNS]
                for column in range(row.shape[0]):
                    part[column] += row[column]
            for column in range(sums.shape[0]):
                sums[column] += part[column]
