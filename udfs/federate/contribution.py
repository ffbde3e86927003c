"""A contribution on its way from the ledger of its user to its model line, and packets of them.

The numbers stay as the device packed them: a line stacks the bytes of many contributions and adds them at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final, NamedTuple

from schemas.records import EdgeUpdate
from udfs.federate.line import user_name
from udfs.federate.line_state import DIGEST_BYTES, USER_BYTES
from udfs.federate.update_check import redacted, update_digest

FORMAT: Final = 1
_PACKET: Final = Struct("<BxHI")
_HEADER: Final = Struct(f"<bB2xiqqqqd{USER_BYTES}s{DIGEST_BYTES}sII")
_WITHIN: Final = {None: -1, False: 0, True: 1}


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

    def pack(self) -> bytes:
        """Bytes of it within a packet."""
        names = "\0".join(self.names).encode()  # ids have no control characters
        header = _HEADER.pack(
            _WITHIN[self.within_clip], self.bits, self.partition, self.offset, self.base_version, self.step,
            self.at_ms, self.clip_norm, self.user, self.digest, len(names), len(self.payload),
        )  # fmt: skip
        return header + names + self.payload


def pack_packet(line: str, contributions: Sequence[bytes]) -> bytes:
    """Bytes of packed contributions to one line, in order.

    Examples
    --------
    >>> unpack_packet(pack_packet("head", []))
    ('head', [])
    """
    name = line.encode()
    return _PACKET.pack(FORMAT, len(name), len(contributions)) + name + b"".join(contributions)


def unpack_packet(packet: bytes) -> tuple[str, list[Contribution]]:
    """Read `pack_packet`: the line and its contributions.

    Raises
    ------
    ValueError
        For bytes of another format: the two steps of a job are of one release.
    """
    if packet[:1] != bytes([FORMAT]):
        raise ValueError(f"packet: wanted format {FORMAT}, got {packet[:1].hex() or 'nothing'}")
    _, length, count = _PACKET.unpack_from(packet)
    at = _PACKET.size + length
    line = packet[_PACKET.size : at].decode()
    found = []
    for _ in range(count):
        within, bits, partition, offset, base, step, at_ms, clip, user, digest, n_names, n_payload = (
            _HEADER.unpack_from(packet, at)
        )
        at += _HEADER.size
        tenant, user_id, client_id, update_id = packet[at : at + n_names].decode().split("\0")
        at += n_names
        found.append(
            Contribution(
                base,
                clip,
                bits,
                step,
                None if within < 0 else bool(within),
                at_ms,
                user,
                digest,
                partition,
                offset,
                (tenant, user_id, client_id, update_id),
                packet[at : at + n_payload],
            )
        )
        at += n_payload
    return line, found
