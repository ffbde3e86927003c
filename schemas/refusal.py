"""The one exception for input that is refused, with a reason from a closed set."""

from __future__ import annotations

from typing import Final

REASONS: Final[dict[str, str]] = {
    "missing_key": "the Kafka record has no key",
    "key_mismatch": "the Kafka key is not tenant/user of the payload",
    "too_large": "the payload is larger than the limit",
    "empty": "the payload is absent or has no bytes",
    "wrong_magic": "the payload starts with neither header that is read",
    "unknown_schema": "the header names a schema that is not known, or not the wanted one",
    "undecodable": "the bytes are not a record of the schema that they name",
    "trailing_bytes": "bytes are left after the record",
    "bad_id": "an id is empty, longer than 128 bytes or has control characters",
    "bad_value": "a field holds a value outside its range",
    "missing_field": "a field that this kind of record needs is absent",
    "no_bundle": "no model bundle is there to rank with",
    "bad_control": "a control record that does not say what its kind needs",
    "unknown_line": "an edge update for a model line that is not learnt here",
    "wrong_shape": "an edge update whose payload has not the wanted dimension",
    "wrong_terms": "an edge update made under other privacy terms than those of its base version",
    "unknown_base": "an edge update whose base version was not released yet",
    "stale_update": "an edge update whose base version is too old",
    "norm_too_large": "an edge update longer than clip and noise allow",
    "noise_missing": "an edge update without the noise that it claims",
    "consent_missing": "an edge update without consent to personalization",
    "revoked": "an edge update of a user who took consent back",
    "cohort_closed": "a message to a cohort under masks that awaits another, or of a user who is not in it",
    "already_contributed": "a second edge update of a user to one version, or to an older one",
    "budget_spent": "an edge update beyond the privacy budget of its user",
}


class Refused(ValueError):  # noqa: N818 - it is not an error of ours, it is a verdict
    """A record that is not taken: it goes to the dead letters, and never stops a job.

    Parameters
    ----------
    reason
        A key of `REASONS`; a counter and a search term, so nothing of the record stands in it.
    detail
        For people: where, wanted, got.

    Examples
    --------
    >>> refused = Refused("bad_id", "user_id: wanted 1 to 128 bytes, got 0")
    >>> refused.reason, str(refused)
    ('bad_id', 'bad_id: user_id: wanted 1 to 128 bytes, got 0')
    """

    def __init__(self, reason: str, detail: str) -> None:
        if reason not in REASONS:
            raise KeyError(f"refusal reason {reason!r} is not in schemas.refusal.REASONS; add it there")
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[Refused], tuple[str, str]]:
        return Refused, (self.reason, self.detail)
