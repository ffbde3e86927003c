"""Texts and numbers written into byte arrays by compiled code.

Every `put_*` writes at `at` and returns where it ended; the caller sees to it that there is room.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel

Bytes = NDArray[np.uint8]
MAX_NUMBER_BYTES = 32
"""Room for a number: a sign, 19 digits, a point."""

_ZERO, _MINUS, _POINT = 48, 45, 46


class Texts(NamedTuple):
    """Many texts in one array: text i is ``data[offsets[i]:offsets[i + 1]]``."""

    data: Bytes
    offsets: NDArray[np.int64]

    @staticmethod
    def of(texts: Iterable[str]) -> Texts:
        """Gather texts as UTF-8.

        Examples
        --------
        >>> Texts.of(["ab", "", "c"]).offsets.tolist()
        [0, 2, 2, 3]
        """
        return Texts.of_bytes([text.encode() for text in texts])

    @staticmethod
    def of_bytes(parts: list[bytes]) -> Texts:
        """Gather byte strings."""
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        return Texts(np.frombuffer(b"".join(parts), np.uint8), offsets)

    def longest(self) -> int:
        """Return the bytes of the longest text, 0 for none."""
        return int(np.diff(self.offsets).max(initial=0))


@kernel
def put_text(out: Bytes, at: int, texts: Texts, index: int) -> int:
    """Copy text `index`."""
    start, stop = texts.offsets[index], texts.offsets[index + 1]
    for k in range(start, stop):
        out[at] = texts.data[k]
        at += 1
    return at


@kernel
def put_int(out: Bytes, at: int, value: int) -> int:
    """Write an integer of at most 63 bits in decimal digits."""
    if value < 0:
        out[at] = _MINUS
        at += 1
        value = -value
    stop = at + 1
    rest = value // 10
    while rest > 0:
        rest //= 10
        stop += 1
    for k in range(stop - 1, at - 1, -1):
        out[k] = _ZERO + value % 10
        value //= 10
    return stop


@kernel
def put_decimal(out: Bytes, at: int, value: float, decimals: int) -> int:
    """Write a number that was rounded to `decimals`, without zeros at the end but with one behind the point.

    The text reads back as the same float64 while ``abs(value) * 10 ** decimals`` is below 2 ** 53.
    """
    if value < 0:
        out[at] = _MINUS
        at += 1
        value = -value
    scale = 10**decimals
    whole = np.int64(np.rint(value * scale))
    at = put_int(out, at, whole // scale)
    out[at] = _POINT
    at += 1
    fraction = whole % scale
    scale //= 10
    out[at] = _ZERO + fraction // scale
    at += 1
    fraction %= scale
    while fraction > 0:
        scale //= 10
        out[at] = _ZERO + fraction // scale
        at += 1
        fraction %= scale
    return at


@kernel
def put_long(out: Bytes, at: int, value: int) -> int:
    """Write Avro's long: zigzag, seven bits a byte."""
    rest = np.uint64((value << 1) ^ (value >> 63))
    while rest > np.uint64(127):
        out[at] = np.uint8(rest & np.uint64(127)) | np.uint8(128)
        at += 1
        rest >>= np.uint64(7)
    out[at] = np.uint8(rest)
    return at + 1


@kernel
def put_string(out: Bytes, at: int, texts: Texts, index: int) -> int:
    """Write Avro's string or bytes: length and content of text `index`."""
    at = put_long(out, at, texts.offsets[index + 1] - texts.offsets[index])
    return put_text(out, at, texts, index)


@kernel
def text_greater(texts: Texts, one: int, other: int) -> bool:
    """Tell whether text `one` comes after text `other` by its bytes."""
    a, b = texts.offsets[one], texts.offsets[other]
    a_stop, b_stop = texts.offsets[one + 1], texts.offsets[other + 1]
    while a < a_stop and b < b_stop:
        if texts.data[a] != texts.data[b]:
            return bool(texts.data[a] > texts.data[b])
        a += 1
        b += 1
    return bool(a < a_stop)
