"""What the examples of the simulated hour say: click rates by variant and time, and whether lists kept up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from schemas.records import Example
from udfs.experiments.assignment import read_labels
from udfs.experiments.variant_sums import gains_of

MINUTE_MS = 60_000


class Clicks(NamedTuple):
    """Lists shown in each stretch of time, and those with a click."""

    shown: list[int]
    clicked: list[int]

    def rates(self) -> list[float]:
        """Return the click rate of each stretch."""
        return [clicks / max(lists, 1) for clicks, lists in zip(self.clicked, self.shown, strict=True)]

    def rate(self, first: int, last: int) -> float:
        """Return the click rate of the stretches from `first` to before `last`."""
        return sum(self.clicked[first:last]) / max(sum(self.shown[first:last]), 1)


def clicks_by_variant(
    examples: Iterable[Example], experiment: str, start_ms: int, minutes: int, stretch: int
) -> dict[str, Clicks]:
    """Return what lists of each variant of an experiment earned.

    Parameters
    ----------
    start_ms, minutes
        From when on, and for how long, by when a list was shown first.
    stretch
        Minutes of one figure; a divisor of `minutes`.
    """
    count = minutes // stretch
    found: dict[str, Clicks] = defaultdict(lambda: Clicks([0] * count, [0] * count))
    for example in examples:
        variant = read_labels(example.variant).get(experiment)
        place = (example.shown_time - start_ms) // (stretch * MINUTE_MS)
        if variant is not None and 0 <= place < count:
            found[variant].shown[place] += 1
            found[variant].clicked[place] += gains_of(example)[0]
    return dict(found)


def share_kept_up(examples: Iterable[Example]) -> float | None:
    """Return how many lists shown next to users who had clicked were made after that click; None without any."""
    by_user: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_user[example.user_id].append(example)
    kept_up, asked = 0, 0
    for of_user in by_user.values():
        of_user.sort(key=lambda one: one.shown_time)
        for before, after in pairwise(of_user):
            if gains_of(before)[0]:
                asked += 1
                kept_up += after.list_time > before.shown_time
    return kept_up / asked if asked else None
