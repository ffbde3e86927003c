"""A contribution on its way from the ledger of its user to its model line, and packets of them.

The numbers stay as the device packed them. A packet has them as the rows of one table, and what is said of each
contribution as columns, so that a line adds and judges without a Python object a number or a contribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.records import EdgeUpdate
from udfs.federate.line import user_name
from udfs.federate.line_state import DIGEST_BYTES, USER_BYTES
from udfs.federate.update_check import redacted, update_digest
from udfs.privacy.quantise import WIDTHS

FORMAT: Final = 1
SECURE_FORMAT: Final = 2
_PACKET: Final = Struct("<BBHIII")
_SECURE: Final = Struct("<BxHqiq")
_WITHIN: Final = {None: -1, False: 0, True: 1}
_FIXED: Final = np.dtype(
    [
        ("base", "<i8"),
        ("clip", "<f8"),
        ("step", "<i8"),
        ("at_ms", "<i8"),
        ("offset", "<i8"),
        ("partition", "<i4"),
        ("names", "<u4"),
        ("within", "<i8"),
        ("user", f"V{USER_BYTES}"),
        ("digest", f"V{DIGEST_BYTES}"),
    ]
)
_ALIGNED: Final = 8
MAX_PACKET_BYTES: Final = 4 << 20
"""A row of one window must fit the memory in which Flink gathers the next, with many others."""


class Contribution(NamedTuple):
    """What the ledger let through.

    Attributes
    ----------
    base_version, clip_norm, bits, step, payload, within_clip
        As in the update.
    at_ms
        Time of the Kafka record, as the broker stamped it.
    user, digest
        `user_name` and `update_digest`.
    partition, offset
        Where the record stood.
    names
        Tenant, user, client and update id: what a dead letter says, should the line refuse it.
    """

    base_version: int
    clip_norm: float
    bits: int
    step: int
    within_clip: bool | None
    at_ms: int
    user: bytes
    digest: bytes
    partition: int
    offset: int
    names: tuple[str, str, str, str]
    payload: bytes

    @classmethod
    def of(cls, update: EdgeUpdate, at_ms: int, partition: int = 0, offset: int = 0) -> Contribution:
        """Make one of an update that `check_update` let through."""
        return cls(
            update.base_version, update.clip_norm, update.bits, update.step, update.within_clip, at_ms,
            user_name(update), update_digest(update), partition, offset,
            (update.tenant, update.user_id, update.client_id, update.update_id), update.payload,
        )  # fmt: skip

    def without_numbers(self, line: str, mode: str, noise_multiplier: float, dimension: int) -> EdgeUpdate:
        """Give what a dead letter may keep of the update."""
        tenant, user_id, client_id, update_id = self.names
        return redacted(
            EdgeUpdate(
                update_id,
                tenant,
                user_id,
                client_id,
                line,
                self.base_version,
                mode,
                self.clip_norm,
                noise_multiplier,
                dimension,
                self.bits,
                self.step,
                b"",
                None,
                "personalization",
            )
        )


class Packet(NamedTuple):
    """Contributions to one line, as columns.

    Attributes
    ----------
    line
        Name of the line.
    fixed
        (n,): base, clip, step, at_ms, offset, partition, within, user and digest of each.
    names
        Bytes of the names of all, see `fixed["names"]` for their lengths.
    bits, rows
        Bits a number, and the numbers as packed, (n, d).
    """

    line: str
    fixed: NDArray[Any]
    names: bytes
    bits: int
    rows: NDArray[Any]

    def contribution(self, place: int) -> Contribution:
        """Give one of them."""
        row = self.fixed[place]
        end = int(self.fixed["names"][: place + 1].sum())
        text = self.names[end - int(row["names"]) : end].decode()
        tenant, user_id, client_id, update_id = text.split("\0")
        within = int(row["within"])
        return Contribution(
            int(row["base"]), float(row["clip"]), self.bits, int(row["step"]),
            None if within < 0 else bool(within), int(row["at_ms"]), row["user"].tobytes(),
            row["digest"].tobytes(), int(row["partition"]), int(row["offset"]),
            (tenant, user_id, client_id, update_id), self.rows[place].tobytes(),
        )  # fmt: skip


def pack_packet(line: str, contributions: Sequence[Contribution]) -> bytes:
    """Bytes of contributions to one line, in order. They have equally many numbers of equally many bits.

    Examples
    --------
    >>> one = Contribution(0, 1.0, 8, 1, None, 5, bytes(16), bytes(32), 0, 9, ("t", "u", "c", "i"), b"ab")
    >>> unpack_packet(pack_packet("head", [one])).contribution(0) == one
    True
    """
    texts = ["\0".join(one.names).encode() for one in contributions]  # ids have no control characters
    fixed = np.array(
        [
            (
                one.base_version, one.clip_norm, one.step, one.at_ms, one.offset, one.partition, len(text),
                _WITHIN[one.within_clip], one.user, one.digest,
            )
            for one, text in zip(contributions, texts, strict=True)
        ],
        _FIXED,
    )  # fmt: skip
    name, names = line.encode(), b"".join(texts)
    first = contributions[0]
    front = _PACKET.pack(FORMAT, first.bits, len(name), len(texts), len(names), len(first.payload)) + name
    columns = fixed.tobytes() + names
    padding = bytes(-(len(front) + len(columns)) % _ALIGNED)
    return b"".join((front, columns, padding, *(one.payload for one in contributions)))


class SecurePacket(NamedTuple):
    """One update whose numbers nobody reads here: of a member of a cohort under masks, or encrypted.

    Attributes
    ----------
    line
        Name of the line.
    at_ms, partition, offset
        Of the Kafka record.
    value
        The message, encoded.
    """

    line: str
    at_ms: int
    partition: int
    offset: int
    value: bytes

    def encode(self) -> bytes:
        """Bytes that `unpack_packet` is not given: their first byte is another.

        Examples
        --------
        >>> packet = SecurePacket("head", 5, 1, 9, b"abc")
        >>> is_secure(packet.encode()), SecurePacket.decode(packet.encode()) == packet
        (True, True)
        """
        name = self.line.encode()
        return (
            _SECURE.pack(SECURE_FORMAT, len(name), self.at_ms, self.partition, self.offset)
            + name
            + self.value
        )

    @classmethod
    def decode(cls, packet: bytes) -> SecurePacket:
        """Read `encode`."""
        _, size, at_ms, partition, offset = _SECURE.unpack_from(packet)
        end = _SECURE.size + size
        return cls(packet[_SECURE.size : end].decode(), at_ms, partition, offset, packet[end:])


def is_secure(packet: bytes) -> bool:
    """Whether a packet is one update that is encrypted or under masks."""
    return packet[:1] == bytes([SECURE_FORMAT])


def packets_of(line: str, contributions: Sequence[Contribution]) -> list[bytes]:
    """Pack contributions into packets of at most `MAX_PACKET_BYTES` of numbers, or of one contribution.

    Examples
    --------
    >>> one = Contribution(0, 1.0, 8, 1, None, 5, bytes(16), bytes(32), 0, 9, ("t", "u", "c", "i"), bytes(1 << 20))
    >>> [len(unpack_packet(packet).rows) for packet in packets_of("head", [one] * 10)]
    [4, 4, 2]
    """
    if not contributions:
        return []
    size = max(MAX_PACKET_BYTES // max(len(contributions[0].payload), 1), 1)
    return [
        pack_packet(line, contributions[start : start + size]) for start in range(0, len(contributions), size)
    ]


def unpack_packet(packet: bytes) -> Packet:
    """Read `pack_packet`, without copying numbers.

    Raises
    ------
    ValueError
        For bytes of another format: the two steps of a job are of one release.
    """
    if packet[:1] != bytes([FORMAT]):
        raise ValueError(f"packet: wanted format {FORMAT}, got {packet[:1].hex() or 'nothing'}")
    _, bits, n_line, count, n_names, row_bytes = _PACKET.unpack_from(packet)
    at = _PACKET.size + n_line
    line = packet[_PACKET.size : at].decode()
    fixed = np.frombuffer(packet, _FIXED, count, at)
    at += fixed.nbytes
    names = packet[at : at + n_names]
    at += n_names
    at += -at % _ALIGNED
    numbers = np.frombuffer(packet, WIDTHS[bits], offset=at)
    return Packet(line, fixed, names, bits, numbers.reshape(count, 8 * row_bytes // bits))
