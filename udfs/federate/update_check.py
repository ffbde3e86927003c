"""What an update from a device must be, before anybody's budget is charged for it. No state decides here."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from schemas.codec import encode
from schemas.ids import check_id, user_key
from schemas.records import EdgeUpdate
from schemas.refusal import Refused
from udfs.federate import ciphertext
from udfs.federate.line_settings import MAX_CLIP, MIN_CLIP, LineSettings
from udfs.federate.secure_message import check_secure
from udfs.privacy.client_update import open_update


def check_update(update: EdgeUpdate, key: str | None, lines: Mapping[str, LineSettings]) -> NDArray[np.int64]:
    """Read the numbers of an update, or refuse it.

    A refused update must be destroyed: its dead letter carries reason and place, never the payload, which may
    be somebody's change without noise (`redacted`).

    Parameters
    ----------
    key
        Of the Kafka record. Wanted: `user_key` of tenant and pseudonym, because the budget stands there.
    lines
        Name of each model line to its settings.

    Returns
    -------
    ndarray
        int64 (d,), in units of `udfs.privacy.fixed_point`; (0,) for what is encrypted or under masks.

    Raises
    ------
    Refused
        missing_key, key_mismatch, bad_id, bad_value, consent_missing, unknown_line, wrong_terms, wrong_shape,
        noise_missing or norm_too_large.
    """
    if not key:
        raise Refused("missing_key", "key: wanted tenant/user, got none")
    for name in ("tenant", "user_id", "client_id", "update_id", "model_line"):
        check_id(name, getattr(update, name))
    wanted = user_key(update.tenant, update.user_id)
    if key != wanted:
        raise Refused("key_mismatch", f"key: wanted {wanted!r} of the payload, got {key[:300]!r}")
    if update.consent != "personalization":
        raise Refused("consent_missing", f"consent: wanted personalization, got {update.consent}")
    line = lines.get(update.model_line)
    if line is None:
        raise Refused("unknown_line", f"model_line: wanted one of {', '.join(sorted(lines))}")
    if not 0 <= update.base_version < 1 << 62:
        raise Refused("bad_value", f"base_version: wanted 0 or more, got {update.base_version}")
    if (update.mode, update.noise_multiplier) != (line.mode, line.noise_multiplier):
        raise Refused(
            "wrong_terms",
            f"wanted {line.mode} mode and noise of {line.noise_multiplier:g} clips, "
            f"got {update.mode} and {update.noise_multiplier:g}",
        )
    if not MIN_CLIP <= update.clip_norm <= MAX_CLIP:
        raise Refused(
            "wrong_terms", f"clip_norm: wanted {MIN_CLIP:g} to {MAX_CLIP:g}, got {update.clip_norm:g}"
        )
    if update.dimension != line.dimension:
        raise Refused("wrong_shape", f"dimension: wanted {line.dimension}, got {update.dimension}")
    if (update.within_clip is not None) != line.adapt_clip:
        raise Refused("wrong_terms", "within_clip: wanted where the clip adapts, and nowhere else")
    if update.encryption != (line.encryption_key or None):
        raise Refused(
            "wrong_terms", f"encryption: wanted {line.encryption_key or 'none'}, got {update.encryption}"
        )
    if line.encryption_key:
        wanted_of = (None, ciphertext.BITS, ciphertext.number_quantiser(line.terms(update.clip_norm)).step)
        if (update.secure, update.bits, update.step) != wanted_of:
            raise Refused("wrong_terms", f"secure, bits and step: wanted {wanted_of} of an encrypted head")
        ciphertext.read_ciphertext(update.payload)
        return np.zeros(0, np.int64)
    if line.secure:
        check_secure(update, line.dimension)
        return np.zeros(0, np.int64)
    if update.secure is not None:
        raise Refused("wrong_terms", "secure: wanted none, this line is not added under masks")
    terms = line.terms(update.clip_norm)
    return open_update(update.payload, update.bits, update.step, terms, line.dimension)


def update_digest(update: EdgeUpdate) -> bytes:
    """Name an update by all that is in it, 32 bytes: another content is another update, with other noise."""
    return sha256(encode(update)).digest()


def redacted(update: EdgeUpdate) -> EdgeUpdate:
    """Return the update without its numbers: what a dead letter may keep.

    Examples
    --------
    >>> update = EdgeUpdate(*["u"] * 5, 0, "local", 1.0, 8.0, 1, 8, 1, b"x", True, "none")
    >>> redacted(update).payload, redacted(update).within_clip
    (b'', None)
    """
    return update._replace(payload=b"", within_clip=None)
