"""A device's part in a cohort that is added under masks: five messages, each an answer to what the job tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.ids import user_key
from schemas.records import EdgeCohort, EdgeModel, EdgeUpdate
from udfs.federate.secret_shares import FIELD_BYTES
from udfs.federate.secure_member import Member
from udfs.federate.secure_message import (
    ECHO,
    JOIN,
    KEY_BYTES,
    MASKED,
    OPENING,
    SHARES,
    cohort_label,
    public_keys_of,
)
from udfs.federate.secure_sum import GROUP_BYTES, SEALED_BYTES, TAG_BYTES, SecureSumError
from udfs.privacy.client_update import device_quantiser, privatise
from udfs.privacy.terms import Mode, Terms

CONSENT: Final = "personalization"
UPDATE_NAME: Final = b"one key, one update"


class SecureContribution:
    """One device in one cohort of one version.

    **Protects** the device's numbers from everybody, job and operator too, as `udfs.federate.secure_sum` says: if the
    job follows the protocol and fewer members than the threshold help it. `knows` is asked whether keys are really
    those of a member; without it, a job that hands out keys of its own reads everything.

    **Stores** nothing: a device that loses it sends nothing more, and the cohort goes on without it. A message is
    sent again as the same bytes, or not at all.

    Parameters
    ----------
    model
        The version that the delta is relative to, of a line under masks.
    names
        Tenant, user and client: pseudonyms, as of `clients.edge.device.Device`.
    delta
        float64 (d,): clipped and noised here, before anything is masked.
    secret, noise_key
        32 secret random bytes each, for this contribution alone.
    knows
        User key and public keys to whether they belong together; None: all are believed.

    Attributes
    ----------
    units
        int64 (d,): the clipped and noised numbers, before any mask.
    """

    def __init__(
        self,
        model: EdgeModel,
        names: tuple[str, str, str],
        delta: NDArray[np.float64],
        secret: bytes,
        noise_key: bytes,
        knows: Callable[[str, bytes], bool] | None = None,
    ) -> None:
        terms = Terms(
            Mode(model.mode), model.next_clip_norm, model.noise_multiplier, model.delta, model.cohort_min
        )
        made = privatise(delta, terms, noise_key, UPDATE_NAME)
        self.units = device_quantiser(terms, model.dimension).unpack(made.payload, model.dimension)
        self._model = model
        self._names = names
        self._key = user_key(names[0], names[1])
        self._secret = secret
        self._knows = knows
        self._label = cohort_label(model.model_line, model.version)
        self._cohort: int | None = None
        self._members: tuple[str, ...] = ()
        self._member: Member | None = None
        self._remaining: set[int] | None = None

    def join(self) -> EdgeUpdate:
        """First message: public keys of this cohort."""
        public = Member(0, 2, self._secret, self._label).public_keys()
        return self._message(
            JOIN, b"".join(key.to_bytes(GROUP_BYTES, "big") for key in (public.share_key, public.mask_key))
        )

    def on_told(self, told: EdgeCohort) -> EdgeUpdate | None:
        """Answer what the job tells, in the order in which it was told; None: nothing is to be said.

        Raises
        ------
        SecureSumError
            Where answering would open too much; the device then says nothing more.
        """
        if told.model_line != self._model.model_line:
            return None
        if told.phase == "roster":
            return self._share(told) if self._cohort is None and self._key in told.members else None
        if told.cohort != self._cohort or self._member is None:
            return None
        here = {self._members.index(name) for name in told.members}
        if told.phase == "shares":
            (sender,) = here
            place = SEALED_BYTES * self._member.number
            if sender != self._member.number:
                self._member.receive(sender, told.payload[place : place + SEALED_BYTES])
            return None
        if told.phase == "agreed":
            return self._open(told)
        if self._member.number not in here:
            return None  # it was too late, or it is over
        if told.phase == "mask":
            if here != self._member.received:
                raise SecureSumError("mask: wanted the members whose shares have come, and no others")
            return self._message(MASKED, self._member.mask(self.units).astype("<u8").tobytes())
        if self._remaining is not None:
            raise SecureSumError("open: was told before who remains")
        self._remaining = here
        tags = self._member.echo(here)
        return self._message(ECHO, b"".join(tags.get(n, bytes(TAG_BYTES)) for n in range(len(self._members))))

    def _open(self, told: EdgeCohort) -> EdgeUpdate | None:
        """Open what was told before, if enough others show that they were told the same."""
        if self._remaining is None or self._member is None:
            return None
        size, place = TAG_BYTES * len(self._members), TAG_BYTES * self._member.number
        tags = {
            self._members.index(name): told.payload[at * size + place : at * size + place + TAG_BYTES]
            for at, name in enumerate(told.members)
        }
        self._member.agree(self._remaining, tags)
        opened = self._member.open(self._remaining)
        parts = {**opened.seeds, **opened.keys}
        return self._message(
            OPENING,
            b"".join(parts.get(n, 0).to_bytes(FIELD_BYTES, "big") for n in range(len(self._members))),
        )

    def _share(self, told: EdgeCohort) -> EdgeUpdate:
        blobs = [told.payload[at : at + KEY_BYTES] for at in range(0, len(told.payload), KEY_BYTES)]
        if len(blobs) != len(told.members):
            raise SecureSumError("roster: wanted the keys of every member")
        if self._knows is not None:
            for name, blob in zip(told.members, blobs, strict=True):
                if not self._knows(name, blob):
                    raise SecureSumError(f"roster: keys that are not those of {name}")
        if told.threshold < max(self._model.cohort_min, 2 * len(blobs) // 3 + 1):
            raise SecureSumError(f"roster: a threshold of {told.threshold} of {len(blobs)} opens too much")
        self._cohort, self._members = told.cohort, tuple(told.members)
        number = self._members.index(self._key)
        self._member = Member(number, told.threshold, self._secret, self._label)
        sealed = self._member.share({n: public_keys_of(blob) for n, blob in enumerate(blobs)})
        return self._message(
            SHARES, b"".join(sealed.get(n, bytes(SEALED_BYTES)) for n in range(len(self._members)))
        )

    def _message(self, secure: str, payload: bytes) -> EdgeUpdate:
        tenant, user_id, client_id = self._names
        model = self._model
        return EdgeUpdate(
            secure, tenant, user_id, client_id, model.model_line, model.version, model.mode, model.next_clip_norm,
            model.noise_multiplier, model.dimension, 64 if secure == MASKED else 8, 1, payload, None, CONSENT, secure,
        )  # fmt: skip
