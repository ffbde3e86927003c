"""A sum of devices' numbers of which nobody sees a part: masks that cancel, in a cohort fixed beforehand.

Every two members agree on a mask that one adds and the other takes off, and every member adds one more of its own.
All masked vectors look like random bits; their sum is the sum of the vectors plus the members' own masks, whose seeds
are opened in the end from shares. A member that is gone after it shared leaves pairwise masks behind: its mask key is
opened from shares instead. Of one member either the seed is opened or the key, never both.

**Threat model** The aggregator and up to `threshold` - 1 members who work with it learn the sum of the members that
remain, and nothing else of a vector, if they follow the protocol. It does not hold

- if public keys can be exchanged on the way: they must come from enrolment, signed;
- if the aggregator tells members different stories of who is gone: with a threshold of two thirds or more of the
  members, two stories would each need more shares than there are members;
- against members who send wrong numbers: a masked vector cannot be checked, so clip and noise rest on honest devices;
- for who takes part, and when. The sum itself wants noise: shares of it are on the devices in distributed mode, and
  the members that are gone took theirs along.

Messages are values; how they travel is the caller's. Whole numbers modulo 2^64, so sums below 2^63 are exact.

Source: Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (2017), figure 4
without the consistency round, which needs signatures; Shamir, "How to Share a Secret" (1979); RFC 3526, group 14.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.privacy.keyed_noise import keyed_bytes

SECRET_BYTES: Final = 32
FIELD: Final = (1 << 521) - 1
"""A prime above every secret that is shared."""
GROUP: Final = int(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD"
    "EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED"
    "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F"
    "83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B"
    "E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510"
    "15728E5A8AACAA68FFFFFFFFFFFFFFFF",
    16,
)
_GENERATOR: Final = 2
GROUP_BYTES: Final = 256
FIELD_BYTES: Final = 66
_TAG_BYTES: Final = 16
SEALED_BYTES: Final = 2 * FIELD_BYTES + _TAG_BYTES
"""One sealed pair of shares."""

Masked = NDArray[np.uint64]


class SecureSumError(ValueError):
    """A step that would open too much, or cannot open anything."""


class PublicKeys(NamedTuple):
    """What a member tells everybody first.

    Attributes
    ----------
    share_key
        For shares on their way.
    mask_key
        For pairwise masks.
    """

    share_key: int
    mask_key: int


class Opened(NamedTuple):
    """What a member gives in the end.

    Attributes
    ----------
    seeds
        Member that remains to this member's share of its seed.
    keys
        Member that is gone to this member's share of its mask key.
    """

    seeds: dict[int, int]
    keys: dict[int, int]


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
        self._has_masked = False
        self._has_opened = False

    def public_keys(self) -> PublicKeys:
        """First message, to everybody."""
        return PublicKeys(_power(self._share_secret), _power(self._mask_secret))

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
        seeds = self._polynomial("seed shares", self._seed)
        keys = self._polynomial("key shares", self._mask_secret)
        made = {}
        for other in self._public:
            pair = (_at(seeds, other + 1), _at(keys, other + 1))
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
        body, tag = sealed[:-_TAG_BYTES], sealed[-_TAG_BYTES:]
        key = self._agreed(self._share_secret, self._public[sender].share_key)
        road = self._road(sender, self.number)
        if keyed_bytes(key, "tag", road + body, _TAG_BYTES) != tag or len(body) != 2 * FIELD_BYTES:
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
        total = units.astype(np.uint64) + _stream(_bytes(self._seed), self._label, units.size)
        for other in self._received:
            if other != self.number:
                mask = self._pairwise(other, units.size)
                total = total + mask if other > self.number else total - mask
        return total

    def open(self, remaining: Collection[int]) -> Opened:
        """Fourth message: shares of the seeds of members that remain, and of the mask keys of those that are gone.

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

    def _drawn(self, what: str) -> int:
        return int.from_bytes(keyed_bytes(self._secret, what, self._label, SECRET_BYTES), "big")

    def _polynomial(self, what: str, constant: int) -> list[int]:
        drawn = keyed_bytes(self._secret, what, self._label, (self._threshold - 1) * FIELD_BYTES)
        parts = [drawn[at : at + FIELD_BYTES] for at in range(0, len(drawn), FIELD_BYTES)]
        return [constant, *(int.from_bytes(part, "big") % FIELD for part in parts)]

    def _agreed(self, secret: int, public: int) -> bytes:
        return keyed_bytes(_bytes(_power(secret, public), GROUP_BYTES), "agreed", self._label, SECRET_BYTES)

    def _pairwise(self, other: int, size: int) -> Masked:
        key = self._agreed(self._mask_secret, self._public[other].mask_key)
        return _stream(key, self._label, size)

    def _road(self, sender: int, receiver: int) -> bytes:
        return b"%d to %d in " % (sender, receiver) + self._label

    def _sealed(self, other: int, pair: tuple[int, int]) -> bytes:
        key = self._agreed(self._share_secret, self._public[other].share_key)
        road = self._road(self.number, other)
        plain = b"".join(_bytes(share, FIELD_BYTES) for share in pair)
        body = _xor(plain, keyed_bytes(key, "share", road, len(plain)))
        return body + keyed_bytes(key, "tag", road + body, _TAG_BYTES)


def unmask(
    masked: Mapping[int, Masked],
    opened: Mapping[int, Opened],
    public: Mapping[int, PublicKeys],
    threshold: int,
    label: bytes,
) -> NDArray[np.int64]:
    """What the aggregator does in the end: the sum of the members that remain, int64 (d,).

    Parameters
    ----------
    masked
        Member that remains to its masked numbers.
    opened
        Member to what it gave, of `threshold` members or more.
    public
        Of all members that shared.

    Raises
    ------
    SecureSumError
        For too few messages, or shares that do not belong together: then nothing is opened.
    """
    if not masked:
        raise SecureSumError(f"wanted {threshold} members or more, got none")
    total: Masked = np.sum([masked[member] for member in sorted(masked)], axis=0, dtype=np.uint64)
    return unmask_sum(total, masked, opened, public, threshold, label)


def unmask_sum(
    total: Masked,
    masked: Collection[int],
    opened: Mapping[int, Opened],
    public: Mapping[int, PublicKeys],
    threshold: int,
    label: bytes,
) -> NDArray[np.int64]:
    """As `unmask`, from the running sum of the members that remain, uint64 (d,), and their numbers."""
    if len(opened) < threshold or len(masked) < threshold:
        raise SecureSumError(
            f"wanted {threshold} members or more, got {len(masked)} masked and {len(opened)} opened"
        )
    givers = sorted(opened)[:threshold]
    for member in masked:
        seed = _constant({giver + 1: opened[giver].seeds[member] for giver in givers})
        total = total - _stream(_bytes(seed), label, total.size)
    for gone in sorted(set(public) - set(masked)):
        secret = _constant({giver + 1: opened[giver].keys[gone] for giver in givers})
        for member in masked:
            shared = _bytes(_power(secret, public[member].mask_key), GROUP_BYTES)
            mask = _stream(keyed_bytes(shared, "agreed", label, SECRET_BYTES), label, total.size)
            # The member added it if the one that is gone has the greater number, else took it off.
            total = total - mask if gone > member else total + mask
    summed: NDArray[np.int64] = total.astype(np.int64)
    return summed


def _stream(key: bytes, label: bytes, size: int) -> Masked:
    return np.frombuffer(keyed_bytes(key, "mask", label, 8 * size), "<u8").astype(np.uint64)


def _power(exponent: int, base: int = _GENERATOR) -> int:
    return pow(base, exponent, GROUP)


def _bytes(value: int, size: int = SECRET_BYTES) -> bytes:
    return value.to_bytes(size, "big")


def _xor(one: bytes, other: bytes) -> bytes:
    return (np.frombuffer(one, np.uint8) ^ np.frombuffer(other, np.uint8)).tobytes()


def _at(polynomial: list[int], x: int) -> int:
    total = 0
    for coefficient in reversed(polynomial):
        total = (total * x + coefficient) % FIELD
    return total


def _constant(points: Mapping[int, int]) -> int:
    """Value at 0 of the polynomial through the points (Lagrange)."""
    total = 0
    for x, y in points.items():
        over = under = 1
        for other in points:
            if other != x:
                over = over * other % FIELD
                under = under * (other - x) % FIELD
        total = (total + y * over * pow(under, -1, FIELD)) % FIELD
    if total >= 1 << (8 * SECRET_BYTES):
        raise SecureSumError("shares do not belong together: no secret of ours is behind them")
    return total
