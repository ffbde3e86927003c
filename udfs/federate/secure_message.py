"""What members of a cohort under masks send: five messages, in order, of fixed lengths."""

from __future__ import annotations

from typing import Final

from schemas.records import EdgeUpdate
from schemas.refusal import Refused
from udfs.federate.secret_shares import FIELD_BYTES
from udfs.federate.secure_sum import GROUP_BYTES, SEALED_BYTES, TAG_BYTES, PublicKeys

JOIN, SHARES, MASKED, ECHO, OPENING = PHASES = ("join", "shares", "masked", "echo", "opening")
KEY_BYTES: Final = 2 * GROUP_BYTES


def public_keys_of(blob: bytes) -> PublicKeys:
    """Read the `KEY_BYTES` of one member."""
    return PublicKeys(int.from_bytes(blob[:GROUP_BYTES], "big"), int.from_bytes(blob[GROUP_BYTES:], "big"))


def cohort_label(line: str, base_version: int) -> bytes:
    """What masks depend on beside the keys, which are new for each cohort."""
    return f"{line}/{base_version}".encode()


def check_secure(update: EdgeUpdate, dimension: int) -> None:
    """Refuse a message that no member of ours sends; what is under masks cannot be looked at.

    Raises
    ------
    Refused
        wrong_terms or wrong_shape.
    """
    if update.secure not in PHASES:
        raise Refused("wrong_terms", f"secure: wanted one of {', '.join(PHASES)}, got {update.secure!r}")
    if (update.bits, update.step) != ((64, 1) if update.secure == MASKED else (8, 1)):
        raise Refused("wrong_terms", "bits and step: wanted 64 and 1 of masked numbers, else 8 and 1")
    size = len(update.payload)
    fits = {
        JOIN: size == KEY_BYTES,
        SHARES: size > 0 and size % SEALED_BYTES == 0,
        MASKED: size == 8 * dimension,
        ECHO: size > 0 and size % TAG_BYTES == 0,
        OPENING: size > 0 and size % FIELD_BYTES == 0,
    }[update.secure]
    if not fits:
        raise Refused("wrong_shape", f"payload of {update.secure}: got {size} bytes")
    if update.secure == JOIN and not all(key > 1 for key in public_keys_of(update.payload)):
        raise Refused("wrong_shape", "public keys: wanted above 1")
