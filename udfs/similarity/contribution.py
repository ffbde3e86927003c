"""What one step of a session adds to one item: the record that travels from user shards to item shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from struct import Struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

CONTRIBUTION: Final = np.dtype(
    [
        ("item", "<u8"),
        ("other", "<u8"),
        ("at_ms", "<i8"),
        ("viewed", "<f4"),
        ("bought", "<f4"),
        ("trend", "<f4"),
        ("country", "<u4"),
    ]
)
"""`item` is whom it counts for, `other` the item it was together with, 0 for the item itself; `viewed` and
`bought` are sessions, `trend` is the weight of the event, all as of `at_ms`; `country` is a `country_code`,
0 where none is known."""

pack_contribution = Struct("<QQqfffI").pack

_HEADER: Final = Struct("<II")  # bytes of the contributions, and of the names
_NAME: Final = Struct("<QH")


def pack_packet(records: bytes, names: Mapping[int, bytes]) -> bytes:
    """Put contributions to items of one shard together.

    Parameters
    ----------
    records
        Contributions, one behind the other.
    names
        Hash of each item with a contribution of its own to its tenant and id, see `schemas.ids.user_key`; each
        country's code to its name. An item's hash has 64 bits and a code 32: nobody is both.
    """
    named = b"".join(_NAME.pack(item, len(name)) + name for item, name in names.items())
    return _HEADER.pack(len(records), len(named)) + records + named


def unpack_packets(packets: Sequence[bytes]) -> tuple[NDArray[np.void], dict[int, bytes]]:
    """Read packets.

    Returns
    -------
    contributions
        (n,) of `CONTRIBUTION`, in the packets' order.
    names
        As in `pack_packet`.
    """
    records = []
    names: dict[int, bytes] = {}
    for packet in packets:
        size, named = _HEADER.unpack_from(packet)
        start = _HEADER.size + size
        records.append(packet[_HEADER.size : start])
        end = start + named
        while start < end:
            item, length = _NAME.unpack_from(packet, start)
            start += _NAME.size
            names[item] = packet[start : start + length]
            start += length
    return np.frombuffer(b"".join(records), CONTRIBUTION), names
