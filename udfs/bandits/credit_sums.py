"""Credits of a tenant's users summed by day and arm: what the shared posterior is made of, and the job's state.

All sums are whole numbers, so they are the same in any order and from any number of shards. They are kept by day of
the credit and weighed when they are published: a credit that comes late adds what it would have added in time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import fsum
from struct import Struct
from typing import Final, NamedTuple

from schemas.records import ArmPosterior, Credit
from udfs.bandits.evidence import held
from udfs.bandits.user_context import LENGTH, UNITS
from udfs.user_state import LIST_POLICY, SLOT_SOURCES

VERSION: Final = 1
DAY_MS: Final = 86_400_000
KEPT_DAYS: Final = 90
"""Older credits are forgotten: with a half-life of two weeks they would weigh 1.2 %."""
LIST_POLICIES: Final = 8
"""List policies kept of a day: more than there may be at once, for a day on which they are changed."""
MAX_NAME_BYTES: Final = 24
MAX_BYTES: Final = 131_072
"""Of a tenant: `KEPT_DAYS` days of six sources and the list policies, 105 bytes each at most, and the header."""
_REWARD_UNITS: Final = 1 << 20
_SQUARES: Final = LENGTH * (LENGTH + 1) // 2
_SUMS: Final = _SQUARES + LENGTH
_NOTHING: Final = (0,) * _SUMS
_HEADER: Final = Struct("<BqH")
_DAY: Final = Struct("<qB")
_ENTRY: Final = Struct(f"<{_SUMS}q")


class CreditSums(NamedTuple):
    """Sums by day and arm, frozen.

    Attributes
    ----------
    of_days
        Day since 1970 UTC and name of the arm → six sums of x x', the upper triangle, in units of 2**-16, and three
        of reward times x in units of 2**-28.
    credits
        Number of credits, forgotten ones too.
    """

    of_days: Mapping[tuple[int, str], tuple[int, ...]] = {}
    credits: int = 0

    @property
    def newest_day(self) -> int:
        """Day of the newest credit; 0: none."""
        return max((day for day, _ in self.of_days), default=0)

    def add(self, credits: Iterable[Credit]) -> CreditSums:
        """Return the sums with some credits more, each of which the caller gives once.

        One of an arm that is neither of `SLOT_SOURCES` nor a list policy is left out; one without a context counts as
        of a new user.

        Examples
        --------
        >>> credit = Credit("default", "u1", "r1", "popular", 0.25, 9, "c1")
        >>> CreditSums().add([credit, credit]).posterior(14.0)
        (ArmPosterior(arm='popular', squares=(2.0, 0.0, 0.0, 0.0, 0.0, 0.0), rewards=(0.5, 0.0, 0.0)),)
        """
        sums, count = dict(self.of_days), self.credits
        for credit in credits:
            if not _is_arm(credit.arm):
                continue
            x = credit.context if len(credit.context) == LENGTH else (UNITS, 0, 0)
            reward = round(held(credit.reward) * _REWARD_UNITS)
            more = [x[i] * x[j] for i in range(LENGTH) for j in range(i, LENGTH)] + [
                reward * one for one in x
            ]
            place = credit.event_time // DAY_MS, credit.arm
            sums[place] = tuple(a + b for a, b in zip(sums.get(place, _NOTHING), more, strict=True))
            count += 1
        return _kept(sums, count)

    def merge(self, other: CreditSums) -> CreditSums:
        """Return the sums of both, those of two shards."""
        sums = dict(self.of_days)
        for place, more in other.of_days.items():
            sums[place] = tuple(a + b for a, b in zip(sums.get(place, _NOTHING), more, strict=True))
        return _kept(sums, self.credits + other.credits)

    def posterior(self, half_life_days: float) -> tuple[ArmPosterior, ...]:
        """Return what is published: each arm's sums, days weighed by their age, by name.

        Parameters
        ----------
        half_life_days
            After so many days a credit weighs half as much; > 0. The newest day weighs 1.
        """
        newest = self.newest_day
        by_arm: dict[str, list[tuple[float, tuple[int, ...]]]] = {}
        for (day, arm), sums in sorted(self.of_days.items()):
            by_arm.setdefault(arm, []).append((2.0 ** ((day - newest) / half_life_days), sums))
        made = []
        for arm, days in sorted(by_arm.items()):
            total = [fsum(weight * sums[place] for weight, sums in days) for place in range(_SUMS)]
            squares = tuple(one / UNITS**2 for one in total[:_SQUARES])
            made.append(
                ArmPosterior(arm, squares, tuple(one / UNITS / _REWARD_UNITS for one in total[_SQUARES:]))
            )
        return tuple(made)

    def encode(self) -> bytes:
        """Return the bytes of version 1: u8 version, i64 credits, u16 entries: i64 day, u8 length, arm, 9 i64."""
        parts = [_HEADER.pack(VERSION, self.credits, len(self.of_days))]
        for (day, arm), sums in sorted(self.of_days.items()):
            text = arm.encode()
            parts += [_DAY.pack(day, len(text)), text, _ENTRY.pack(*sums)]
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> CreditSums:
        """Read the bytes of any released version.

        Raises
        ------
        ValueError
            For another version or length.
        """
        if len(data) < _HEADER.size or data[0] != VERSION:
            raise ValueError(f"credit sums: wanted version {VERSION}, got {data[:1].hex() or 'no bytes'}")
        _, credits, count = _HEADER.unpack_from(data)
        at, sums = _HEADER.size, {}
        for _ in range(count):
            start = at + _DAY.size
            end = start + (data[start - 1] if start <= len(data) else 0)
            if end + _ENTRY.size > len(data):
                raise ValueError(f"credit sums: {len(data)} bytes are too few for {count} entries")
            day, _ = _DAY.unpack_from(data, at)
            sums[day, data[start:end].decode()] = _ENTRY.unpack_from(data, end)
            at = end + _ENTRY.size
        if at != len(data):
            raise ValueError(f"credit sums: wanted {at} bytes, got {len(data)}")
        return cls(sums, credits)


def _kept(sums: dict[tuple[int, str], tuple[int, ...]], credits: int) -> CreditSums:
    """Forget by the newest day, and list policies beyond a day's first by name: the same whenever it is done."""
    newest = max((day for day, _ in sums), default=0)
    kept = {place: one for place, one in sums.items() if place[0] > newest - KEPT_DAYS}
    named: dict[int, list[str]] = {}
    for day, arm in kept:
        if arm.startswith(LIST_POLICY):
            named.setdefault(day, []).append(arm)
    for day, arms in named.items():
        for arm in sorted(arms)[LIST_POLICIES:]:
            del kept[day, arm]
    return CreditSums(kept, credits)


def _is_arm(name: str) -> bool:
    return name in SLOT_SOURCES or (
        name.startswith(LIST_POLICY) and len(LIST_POLICY) < len(name.encode()) <= MAX_NAME_BYTES
    )
