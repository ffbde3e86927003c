"""One device in a cohort whose numbers are added under masks: its keys, shares, masks and what it opens.

What protects whom from whom stands in `udfs.federate.secure_sum`, which has the aggregator's side.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from udfs.federate.secret_shares import FIELD, FIELD_BYTES, share_at
from udfs.federate.secure_sum import (
    GROUP_BYTES,
    SECRET_BYTES,
    TAG_BYTES,
    Masked,
    Opened,
    PublicKeys,
    SecureSumError,
    group_power,
    mask_stream,
    secret_bytes,
)
from udfs.privacy.keyed_noise import keyed_bytes


class Member:
    """One device in one cohort.

    Parameters
    ----------
    number
        From 0, fixed with the cohort.
    threshold
        How many members must remain, and give shares, for the sum to be opened.
    secret
        `SECRET_BYTES` random bytes, for this cohort and version alone.
    label
        Names cohort and version; masks of another are others.

    Raises
    ------
    SecureSumError
        For a secret that is too short or a threshold below 2.
    """

    def __init__(self, number: int, threshold: int, secret: bytes, label: bytes) -> None:
        if len(secret) < SECRET_BYTES or threshold < 2:
            raise SecureSumError(f"wanted {SECRET_BYTES} secret bytes and a threshold of 2 or more")
        self.number = number
        self._threshold = threshold
        self._secret = secret
        self._label = label
        self._seed = self._drawn("seed")
        self._share_secret = self._drawn("share key")
        self._mask_secret = self._drawn("mask key")
        self._public: dict[int, PublicKeys] = {}
        self._received: dict[int, tuple[int, int]] = {}
        self._sealing_keys: dict[int, bytes] = {}
        self._has_masked = False
        self._has_opened = False

    def public_keys(self) -> PublicKeys:
        """First message, to everybody."""
        return PublicKeys(group_power(self._share_secret), group_power(self._mask_secret))

    def share(self, public: Mapping[int, PublicKeys]) -> dict[int, bytes]:
        """Second message: encrypted shares of seed and mask key, by the member that each is for.

        Parameters
        ----------
        public
            Of all members, this one too, from a source that the aggregator cannot change.

        Raises
        ------
        SecureSumError
            For fewer members than the threshold, or two with the same key.
        """
        if len(public) < self._threshold or len({keys.mask_key for keys in public.values()}) < len(public):
            raise SecureSumError(
                f"wanted {self._threshold} or more members with keys of their own, got {len(public)}"
            )
        self._public = dict(public)
        self._sealing_keys = {}
        seeds = self._polynomial("seed shares", self._seed)
        keys = self._polynomial("key shares", self._mask_secret)
        made = {}
        for other in self._public:
            pair = (share_at(seeds, other + 1), share_at(keys, other + 1))
            if other == self.number:
                self._received[other] = pair
            else:
                made[other] = self._sealed(other, pair)
        return made

    def receive(self, sender: int, sealed: bytes) -> None:
        """Take a share that another member made for this one.

        Raises
        ------
        SecureSumError
            For bytes that were changed on the way.
        """
        body, tag = sealed[:-TAG_BYTES], sealed[-TAG_BYTES:]
        key = self._sealing_key(sender)
        road = self._road(sender, self.number)
        if keyed_bytes(key, "tag", road + body, TAG_BYTES) != tag or len(body) != 2 * FIELD_BYTES:
            raise SecureSumError(f"share of member {sender}: was changed on its way")
        plain = _xor(body, keyed_bytes(key, "share", road, len(body)))
        self._received[sender] = (
            int.from_bytes(plain[:FIELD_BYTES], "big"),
            int.from_bytes(plain[FIELD_BYTES:], "big"),
        )

    @property
    def received(self) -> set[int]:
        """Members whose shares are here, this one too."""
        return set(self._received)

    def mask(self, units: NDArray[np.int64]) -> Masked:
        """Third message: the numbers, int64 (d,), under all masks.

        Once: two vectors under the same masks tell their difference.

        Raises
        ------
        SecureSumError
            The second time, or where fewer members than the threshold have shared.
        """
        if self._has_masked:
            raise SecureSumError("a member masks once; send the bytes that were stored")
        if len(self._received) < self._threshold:
            raise SecureSumError(f"wanted shares of {self._threshold} members, got {len(self._received)}")
        self._has_masked = True
        total = units.astype(np.uint64) + mask_stream(secret_bytes(self._seed), self._label, units.size)
        for other in self._received:
            if other != self.number:
                mask = self._pairwise(other, units.size)
                total = total + mask if other > self.number else total - mask
        return total

    def echo(self, remaining: Collection[int]) -> dict[int, bytes]:
        """Fourth message: whom this member was told remain, as a tag for each other that nobody else can make."""
        return {
            other: self._tag(self.number, other, remaining)
            for other in sorted(self._received)
            if other != self.number
        }

    def agree(self, remaining: Collection[int], tags: Mapping[int, bytes]) -> None:
        """Look whether enough others were told the same.

        Parameters
        ----------
        remaining
            As this member was told.
        tags
            Other member to its tag for this one.

        Raises
        ------
        SecureSumError
            For fewer members than the threshold, this one too: somebody was told another story of who is gone.
        """
        same = {
            other
            for other, tag in tags.items()
            if other in self._received and tag == self._tag(other, self.number, remaining)
        }
        if len(same | {self.number}) < self._threshold:
            raise SecureSumError(
                f"wanted {self._threshold} or more members that were told the same, got {len(same | {self.number})}"
            )

    def open(self, remaining: Collection[int]) -> Opened:
        """Fifth message, once `agree` has looked: shares of seeds of who remains, of mask keys of who is gone.

        Parameters
        ----------
        remaining
            Members whose masked numbers are in the sum.

        Raises
        ------
        SecureSumError
            The second time, since another story of who is gone would open both of a member; for too few; or for
            members that have never shared.
        """
        here = set(remaining)
        if self._has_opened:
            raise SecureSumError("a member opens once")
        if len(here) < self._threshold or not here <= set(self._received):
            raise SecureSumError(
                f"wanted {self._threshold} or more members that have shared, got {len(here)}"
            )
        self._has_opened = True
        return Opened(
            {other: self._received[other][0] for other in sorted(here)},
            {other: self._received[other][1] for other in sorted(set(self._received) - here)},
        )

    def _tag(self, sender: int, receiver: int, remaining: Collection[int]) -> bytes:
        other = receiver if sender == self.number else sender
        key = self._sealing_key(other)
        said = (
            self._road(sender, receiver)
            + b": "
            + b" ".join(b"%d" % number for number in sorted(set(remaining)))
        )
        return keyed_bytes(key, "echo", said, TAG_BYTES)

    def _drawn(self, what: str) -> int:
        return int.from_bytes(keyed_bytes(self._secret, what, self._label, SECRET_BYTES), "big")

    def _polynomial(self, what: str, constant: int) -> list[int]:
        drawn = keyed_bytes(self._secret, what, self._label, (self._threshold - 1) * FIELD_BYTES)
        parts = [drawn[at : at + FIELD_BYTES] for at in range(0, len(drawn), FIELD_BYTES)]
        return [constant, *(int.from_bytes(part, "big") % FIELD for part in parts)]

    def _sealing_key(self, other: int) -> bytes:
        """Key that shares and tags between this member and another are sealed with; a power each, so kept."""
        if other not in self._sealing_keys:
            self._sealing_keys[other] = self._agreed(self._share_secret, self._public[other].share_key)
        return self._sealing_keys[other]

    def _agreed(self, secret: int, public: int) -> bytes:
        return keyed_bytes(
            secret_bytes(group_power(secret, public), GROUP_BYTES), "agreed", self._label, SECRET_BYTES
        )

    def _pairwise(self, other: int, size: int) -> Masked:
        key = self._agreed(self._mask_secret, self._public[other].mask_key)
        return mask_stream(key, self._label, size)

    def _road(self, sender: int, receiver: int) -> bytes:
        return b"%d to %d in " % (sender, receiver) + self._label

    def _sealed(self, other: int, pair: tuple[int, int]) -> bytes:
        key = self._sealing_key(other)
        road = self._road(self.number, other)
        plain = b"".join(secret_bytes(share, FIELD_BYTES) for share in pair)
        body = _xor(plain, keyed_bytes(key, "share", road, len(plain)))
        return body + keyed_bytes(key, "tag", road + body, TAG_BYTES)


def _xor(one: bytes, other: bytes) -> bytes:
    return (np.frombuffer(one, np.uint8) ^ np.frombuffer(other, np.uint8)).tobytes()
