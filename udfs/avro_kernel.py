"""Reads Avro's binary encoding in compiled code, for readers of whole batches that make no record of each.

Every function takes the bytes of a batch, where to read and where the record stops, and gives where the value ends;
-1 where there is none, which every function passes on. So a reader checks once, at the end of a record. What is
strict here and lenient in the format (a number of more than eight bytes, a text that is not printable ASCII) is left
to `schemas.codec`, which is the reference.
"""

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel

_LONGEST = 8
_SPACE, _TILDE = 32, 126


@kernel
def behind_header(data: NDArray[np.uint8], at: int, stop: int, header: NDArray[np.uint8]) -> int:
    """Return where the content behind this header starts."""
    if stop - at < len(header):
        return -1
    for k in range(len(header)):
        if data[at + k] != header[k]:
            return -1
    return at + len(header)


@kernel
def read_long(data: NDArray[np.uint8], at: int, stop: int) -> tuple[int, int]:
    """Return a signed integer of at most 55 bits, and where it ends."""
    value = 0
    for k in range(_LONGEST if at >= 0 else 0):
        if at + k >= stop:
            break
        byte = int(np.int64(data[at + k]))
        value |= (byte & 127) << (7 * k)
        if byte < 128:
            return (value >> 1) ^ -(value & 1), at + k + 1
    return 0, -1


@kernel
def find_bytes(data: NDArray[np.uint8], at: int, stop: int) -> tuple[int, int]:
    """Return where bytes start and end."""
    size, start = read_long(data, at, stop)
    if start < 0 or size < 0 or size > stop - start:
        return -1, -1
    return start, start + size


@kernel
def find_text(data: NDArray[np.uint8], at: int, stop: int) -> tuple[int, int]:
    """Return where a text of printable ASCII starts and ends."""
    start, end = find_bytes(data, at, stop)
    for k in range(start, end):
        if data[k] < _SPACE or data[k] > _TILDE:
            return -1, -1
    return start, end
