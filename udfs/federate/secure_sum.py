"""A sum of devices' numbers of which nobody sees a part: masks that cancel, in a cohort fixed beforehand.

Every two members agree on a mask that one adds and the other takes off, and every member adds one more of its own.
All masked vectors look like random bits; their sum is the sum of the vectors plus the members' own masks, whose seeds
are opened in the end from shares. A member that is gone after it shared leaves pairwise masks behind: its mask key is
opened from shares instead. Of one member either the seed is opened or the key, never both.

**Threat model** The aggregator and up to `threshold` - 1 members who work with it learn the sum of the members that
remain, and nothing else of a vector, if they follow the protocol. It does not hold

- if public keys can be exchanged on the way: they must come from enrolment, signed;
- if a third of the members or more help the aggregator to tell others different stories of who is gone. A member
  opens where a threshold of members, two thirds or more, have shown it that they were told the same
  (`udfs.federate.secure_member.Member.agree`), so with fewer helpers two stories cannot both be believed;
- against members who send wrong numbers: a masked vector cannot be checked, so clip and noise rest on honest devices;
- for who takes part, and when. The sum itself wants noise: shares of it are on the devices in distributed mode, and
  the members that are gone took theirs along.

Messages are values; how they travel is the caller's. Whole numbers modulo 2^64, so sums below 2^63 are exact.

Source: Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (2017), figure 4,
with tags under the members' pairwise keys where its consistency round has signatures; RFC 3526, group 14.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.federate.secret_shares import FIELD_BYTES, secret_of
from udfs.privacy.keyed_noise import keyed_bytes

SECRET_BYTES: Final = 32
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
TAG_BYTES: Final = 16
SEALED_BYTES: Final = 2 * FIELD_BYTES + TAG_BYTES
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
        seed = _secret({giver + 1: opened[giver].seeds[member] for giver in givers})
        total = total - mask_stream(secret_bytes(seed), label, total.size)
    for gone in sorted(set(public) - set(masked)):
        secret = _secret({giver + 1: opened[giver].keys[gone] for giver in givers})
        for member in masked:
            shared = secret_bytes(group_power(secret, public[member].mask_key), GROUP_BYTES)
            mask = mask_stream(keyed_bytes(shared, "agreed", label, SECRET_BYTES), label, total.size)
            # The member added it if the one that is gone has the greater number, else took it off.
            total = total - mask if gone > member else total + mask
    summed: NDArray[np.int64] = total.astype(np.int64)
    return summed


def mask_stream(key: bytes, label: bytes, size: int) -> Masked:
    """A mask of `size` numbers, uint64 (size,), from a key."""
    return np.frombuffer(keyed_bytes(key, "mask", label, 8 * size), "<u8").astype(np.uint64)


def group_power(exponent: int, base: int = _GENERATOR) -> int:
    """Power in the group of the public keys."""
    return pow(base, exponent, GROUP)


def secret_bytes(value: int, size: int = SECRET_BYTES) -> bytes:
    """Whole number as bytes, the first the highest."""
    return value.to_bytes(size, "big")


def _secret(points: Mapping[int, int]) -> int:
    found = secret_of(points)
    if found >= 1 << (8 * SECRET_BYTES):
        raise SecureSumError("shares do not belong together: no secret of ours is behind them")
    return found
