"""Lists with a cap, kept as packed bytes: what was seen, done, and which events came already.

Each function returns new bytes and drops the oldest entry beyond the cap. Entries of 8 bytes are 64-bit
hashes; seconds are u32 columns beside them.
"""

from bisect import bisect_right
from struct import Struct, unpack
from typing import Final

U8_CODES: Final = tuple(bytes((code,)) for code in range(256))
pack_u32 = Struct("<I").pack
_unpack_u32 = Struct("<I").unpack_from
_LAST_SECOND = 0xFFFF_FFFF  # of a u32: February 2106


def find(column: bytes, entry: bytes) -> int:
    """Return the byte offset of `entry` in a column of entries of its width, or -1.

    Examples
    --------
    >>> find(b"aabbccdd", b"cc"), find(b"aabbccdd", b"bc")
    (4, -1)
    """
    width = len(entry)
    at = column.find(entry)
    while at > 0 and at % width:
        at = column.find(entry, at + 1)
    return at


def move_to_end(column: bytes, entry: bytes, cap: int) -> bytes:
    """Append `entry`, taking it out of where it stood.

    Examples
    --------
    >>> move_to_end(b"aabbcc", b"aa", 3), move_to_end(b"aabbcc", b"dd", 3)
    (b'bbccaa', b'bbccdd')
    """
    at = find(column, entry)
    width = len(entry)
    if at >= 0:
        column = column[:at] + column[at + width :]
    return (column + entry)[-cap * width :]


def seconds_of(at_ms: int) -> int:
    """Return whole seconds since 1970, held within what a u32 takes."""
    return min(max(at_ms // 1000, 0), _LAST_SECOND)


def place_in_time(seconds: bytes, second: int) -> int:
    """Return at which index `second` belongs in an ascending u32 column: after those equal to it."""
    count = len(seconds) >> 2
    if not count or second >= _unpack_u32(seconds, 4 * count - 4)[0]:
        return count
    return bisect_right(unpack(f"<{count}I", seconds), second)


def insert(column: bytes, place: int, entry: bytes, cap: int) -> bytes:
    """Put `entry` at index `place`, then drop the oldest entries beyond `cap`."""
    width = len(entry)
    at = place * width
    if at == len(column):
        return (column + entry)[-cap * width :]
    return (column[:at] + entry + column[at:])[-cap * width :]
