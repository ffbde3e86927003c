"""What all users taught about the arms: counts and rewards by arm, summed from credits.

Rewards are whole numbers of 2**-20, so the sums are the same in any order and from any number of shards. A shard adds
each credit once; the sums of shards are added to the record that is published.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from struct import Struct
from typing import Final, NamedTuple

import numpy as np

from schemas.records import Credit
from udfs.bandits.evidence import Evidence, held

VERSION: Final = 1
MAX_ARMS: Final = 256
_UNIT: Final = 1 << 20
_HEADER: Final = Struct("<BHq")
_ARM: Final = Struct("<qq")


class ArmSum(NamedTuple):
    """Credits of an arm, and their rewards in units of 2**-20."""

    credits: int = 0
    reward_units: int = 0

    @property
    def mean(self) -> float:
        """Mean reward; 0 of an arm without credits."""
        return self.reward_units / _UNIT / self.credits if self.credits else 0.0


class SharedPosterior(NamedTuple):
    """Sums by arm, frozen.

    Attributes
    ----------
    arms
        Name → sums.
    newest_ms
        Time of the newest credit in it; 0: none.
    """

    arms: Mapping[str, ArmSum] = {}
    newest_ms: int = 0

    def add(self, credits: Iterable[Credit]) -> SharedPosterior:
        """Return the sums with some credits more, each of which the caller gives once.

        Raises
        ------
        ValueError
            For more than `MAX_ARMS` arms: their names come from code, not from users.

        Examples
        --------
        >>> credit = Credit("default", "u1", "r1", "popular", 0.25, 9, "c1")
        >>> SharedPosterior().add([credit, credit]).arms["popular"].mean
        0.25
        """
        arms, newest_ms = dict(self.arms), self.newest_ms
        for credit in credits:
            known = arms.get(credit.arm, ArmSum())
            units = round(held(credit.reward) * _UNIT)
            arms[credit.arm] = ArmSum(known.credits + 1, known.reward_units + units)
            newest_ms = max(newest_ms, credit.event_time)
        return _checked(arms, newest_ms)

    def merge(self, other: SharedPosterior) -> SharedPosterior:
        """Return the sums of both: those of two shards."""
        arms = dict(self.arms)
        for name, found in other.arms.items():
            known = arms.get(name, ArmSum())
            arms[name] = ArmSum(known.credits + found.credits, known.reward_units + found.reward_units)
        return _checked(arms, max(self.newest_ms, other.newest_ms))

    def evidence(self, names: Sequence[str], most: float) -> Evidence:
        """Return the arms' evidence for a policy, in the order of `names`.

        Parameters
        ----------
        most
            Cap of an arm's evidence: what all users taught is a prior, not the last word.
        """
        sums = [self.arms.get(name, ArmSum()) for name in names]
        weight = [min(1.0, most / one.credits) if one.credits else 0.0 for one in sums]
        won = [one.reward_units / _UNIT * share for one, share in zip(sums, weight, strict=True)]
        plays = [one.credits * share for one, share in zip(sums, weight, strict=True)]
        return Evidence(np.array(won), np.maximum(np.array(plays) - np.array(won), 0.0))

    def encode(self) -> bytes:
        """Return the bytes of version 1: u8 version, u16 arms, i64 newest_ms; an arm u8 length, name, 2 i64."""
        parts = [_HEADER.pack(VERSION, len(self.arms), self.newest_ms)]
        for name, sums in sorted(self.arms.items()):
            text = name.encode()
            parts += [bytes([len(text)]), text, _ARM.pack(*sums)]
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> SharedPosterior:
        """Read the bytes of any released version.

        Raises
        ------
        ValueError
            For another version or length.
        """
        if len(data) < _HEADER.size or data[0] != VERSION:
            raise ValueError(
                f"shared posterior: wanted version {VERSION}, got {data[:1].hex() or 'no bytes'}"
            )
        _, count, newest_ms = _HEADER.unpack_from(data)
        at, arms = _HEADER.size, {}
        for _ in range(count):
            if at >= len(data) or at + 1 + data[at] + _ARM.size > len(data):
                raise ValueError(f"shared posterior: {len(data)} bytes are too few for {count} arms")
            end = at + 1 + data[at]
            arms[data[at + 1 : end].decode()] = ArmSum(*_ARM.unpack_from(data, end))
            at = end + _ARM.size
        if at != len(data):
            raise ValueError(f"shared posterior: wanted {at} bytes, got {len(data)}")
        return cls(arms, newest_ms)


def _checked(arms: dict[str, ArmSum], newest_ms: int) -> SharedPosterior:
    if len(arms) > MAX_ARMS or any(not 1 <= len(name.encode()) <= 255 for name in arms):
        raise ValueError(f"arms: wanted at most {MAX_ARMS} names of 1 to 255 bytes, got {len(arms)}")
    return SharedPosterior(arms, newest_ms)
