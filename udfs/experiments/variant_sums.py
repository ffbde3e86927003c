"""What a variant earned: whole numbers that add up, in any order and from any number of shards.

A user who comes often gives many lists that are alike, so lists are no independent draws; users are. The sums hold,
beside counts of lists, squares and products of each user's own totals: with them the error of a rate is right however
unequal users are. A keyed step keeps a user's totals (`UserTotals`) and sends out by how much the sums change.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Final, NamedTuple

import numpy as np

from schemas.ids import item_hash
from schemas.records import Example
from udfs.experiments.assignment import read_labels
from udfs.experiments.experiment import METRICS

VERSION: Final = 1
COVERAGE_BITS: Final = 32_768
"""Of a bitmap of items shown (linear counting): within 1 % up to 30,000 items, 5 % up to 150,000."""
REVENUE_UNIT: Final = 0.01
_NO_TIME: Final = (1 << 63) - 1
_HEADER: Final = Struct("<Bqq")
_INT_BYTES: Final = 16
_EMPTY_BITS: Final = bytes(COVERAGE_BITS // 8)

Label = tuple[str, str]
"""Experiment and variant."""


class UserTotals(NamedTuple):
    """One user's own totals in a variant.

    `lists` shown; `gains` by `METRICS`: lists with a click, a cart, a purchase, and revenue in `REVENUE_UNIT`.
    """

    lists: int = 0
    gains: tuple[int, ...] = (0,) * len(METRICS)


class VariantSums(NamedTuple):
    """Sums over the users of a variant.

    Attributes
    ----------
    users, lists, slots
        Counts.
    lists_squared
        Sum of squares of users' lists.
    gains, gains_squared, gains_lists
        By `METRICS`: sums of users' gains, of their squares, and of their products with the user's lists.
    events
        By `METRICS`: lists with a gain.
    first_ms, last_ms
        Event time of the first and the last list; a first beyond the last: none.
    items
        A bit a hash of the items shown.
    """

    users: int = 0
    lists: int = 0
    slots: int = 0
    lists_squared: int = 0
    gains: tuple[int, ...] = (0,) * len(METRICS)
    gains_squared: tuple[int, ...] = (0,) * len(METRICS)
    gains_lists: tuple[int, ...] = (0,) * len(METRICS)
    events: tuple[int, ...] = (0,) * len(METRICS)
    first_ms: int = _NO_TIME
    last_ms: int = -1
    items: bytes = _EMPTY_BITS

    def merge(self, other: VariantSums) -> VariantSums:
        """Return both as one."""
        one, two = np.frombuffer(self.items, np.uint8), np.frombuffer(other.items, np.uint8)
        return VariantSums(
            self.users + other.users,
            self.lists + other.lists,
            self.slots + other.slots,
            self.lists_squared + other.lists_squared,
            _added(self.gains, other.gains),
            _added(self.gains_squared, other.gains_squared),
            _added(self.gains_lists, other.gains_lists),
            _added(self.events, other.events),
            min(self.first_ms, other.first_ms),
            max(self.last_ms, other.last_ms),
            (one | two).tobytes(),
        )

    def value(self, metric: str) -> float | None:
        """Return a metric per list shown: a rate, or revenue in the shop's currency; None without lists."""
        if not self.lists:
            return None
        gain = self.gains[METRICS.index(metric)] / self.lists
        return gain * REVENUE_UNIT if metric == "revenue" else gain

    def items_shown(self) -> float:
        """Return about how many different items were shown.

        Source: Whang, Vander-Zanden and Taylor, ACM TODS 15 (1990) (linear counting).
        """
        empty = COVERAGE_BITS - int(np.unpackbits(np.frombuffer(self.items, np.uint8)).sum())
        return float(COVERAGE_BITS * np.log(COVERAGE_BITS / max(empty, 1)))

    def encode(self) -> bytes:
        """Return the bytes of version 1: u8 version, i64 first and last, i128 each number, the bitmap."""
        numbers = (*self[:4], *self.gains, *self.gains_squared, *self.gains_lists, *self.events)
        packed = b"".join(number.to_bytes(_INT_BYTES, "little", signed=True) for number in numbers)
        return _HEADER.pack(VERSION, self.first_ms, self.last_ms) + packed + self.items

    @classmethod
    def decode(cls, data: bytes) -> VariantSums:
        """Read the bytes of any released version.

        Raises
        ------
        ValueError
            For another version or length.

        Examples
        --------
        >>> VariantSums.decode(VariantSums().encode()) == VariantSums()
        True
        """
        metrics = len(METRICS)
        count = 4 + 4 * metrics
        wanted = _HEADER.size + _INT_BYTES * count + len(_EMPTY_BITS)
        if not data or data[0] != VERSION or len(data) != wanted:
            raise ValueError(
                f"variant sums: wanted version {VERSION} of {wanted} bytes, got {len(data)} bytes"
            )
        _, first_ms, last_ms = _HEADER.unpack_from(data)
        places = (_HEADER.size + _INT_BYTES * number for number in range(count))
        numbers = [int.from_bytes(data[at : at + _INT_BYTES], "little", signed=True) for at in places]
        users, lists, slots, squared = numbers[:4]
        gains, gains_squared, gains_lists, events = (
            tuple(numbers[at : at + metrics]) for at in range(4, count, metrics)
        )
        bits = data[-len(_EMPTY_BITS) :]
        return cls(
            users, lists, slots, squared, gains, gains_squared, gains_lists, events, first_ms, last_ms, bits
        )


def count(
    example: Example, totals: Mapping[Label, UserTotals]
) -> tuple[dict[Label, UserTotals], dict[Label, VariantSums]]:
    """Count one list of a user for each experiment that the user is in.

    Parameters
    ----------
    example
        Taken in once.
    totals
        The user's own so far.

    Returns
    -------
    totals
        The user's own now.
    changes
        What to add to each variant's sums.
    """
    gained = gains_of(example)
    after, changes = dict(totals), {}
    for label in read_labels(example.variant).items():
        known = totals.get(label)
        before = UserTotals() if known is None else known
        now = UserTotals(before.lists + 1, _added(before.gains, gained))
        after[label] = now
        pairs = list(zip(before.gains, now.gains, strict=True))
        changes[label] = VariantSums(
            int(known is None),
            1,
            len(example.items),
            now.lists**2 - before.lists**2,
            gained,
            tuple(new**2 - old**2 for old, new in pairs),
            tuple(new * now.lists - old * before.lists for old, new in pairs),
            tuple(int(gain != 0) for gain in gained),
            example.shown_time,
            example.shown_time,
            _bits(example),
        )
    return after, changes


def gains_of(example: Example) -> tuple[int, ...]:
    """Return what a list gained, by `METRICS`."""
    revenue = sum(item.revenue for item in example.items)
    return (
        int(any(item.clicked for item in example.items)),
        int(any(item.carted for item in example.items)),
        int(any(item.bought for item in example.items)),
        round(revenue / REVENUE_UNIT),
    )


def _bits(example: Example) -> bytes:
    bits = bytearray(_EMPTY_BITS)
    for item in example.items:
        place = item_hash(item.item_id) % COVERAGE_BITS
        bits[place >> 3] |= 128 >> (place & 7)
    return bytes(bits)


def _added(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))
