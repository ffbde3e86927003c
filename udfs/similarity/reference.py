"""The batch reference: all session records at once, in plain Python, by what the figures mean.

Slow and without bounds. The job's figures equal these as long as no item has more neighbours than it keeps.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from schemas.records import SessionDelta
from udfs.item_factors import INTERACTION_WEIGHTS
from udfs.similarity.basket import MAX_ITEMS, partners
from udfs.similarity.count_kernel import HalfLives
from udfs.similarity.country_trends import country_code
from udfs.similarity.session_step import item_key
from udfs.user_action import CODES


class _Visit(NamedTuple):
    """One user's session."""

    at_ms: int
    steps: list[SessionDelta]


class ReferenceCounts:
    """Counts of a whole list of session records, decayed to one moment.

    Parameters
    ----------
    deltas
        In the order in which they were written, at least for each user; repeats of (partition, offset, n)
        are left out.
    as_of_ms
        The moment.

    Attributes
    ----------
    viewed, bought, trend
        Item key to decayed sessions, sessions with a purchase, weight.
    trend_in
        (item key, country) to the weight of events there.
    viewed_with, bought_with
        (item key, other's key) to decayed sessions with both, both ways.
    """

    def __init__(
        self,
        deltas: Iterable[SessionDelta],
        as_of_ms: int,
        half_lives: HalfLives,
        max_session_events: int,
    ) -> None:
        self.viewed: dict[int, float] = defaultdict(float)
        self.bought: dict[int, float] = defaultdict(float)
        self.trend: dict[int, float] = defaultdict(float)
        self.trend_in: dict[tuple[int, str], float] = defaultdict(float)
        self.viewed_with: dict[tuple[int, int], float] = defaultdict(float)
        self.bought_with: dict[tuple[int, int], float] = defaultdict(float)
        for visit in _visits(deltas):
            weight = 0.5 ** ((as_of_ms - visit.at_ms) / half_lives.together_ms)
            trend = 0.5 ** ((as_of_ms - visit.at_ms) / half_lives.trend_ms)
            steps = [step for step in visit.steps if step.position < max_session_events]
            self._count(steps, visit.at_ms, weight, trend)

    def _count(self, steps: Sequence[SessionDelta], at_ms: int, weight: float, trend: float) -> None:
        session: list[int] = []
        bought: set[int] = set()
        for step in steps:
            item = item_key(step.tenant, step.item_id)
            weighs = trend * float(INTERACTION_WEIGHTS[CODES[step.event_type]])
            self.trend[item] += weighs
            if country_code(step.country):
                self.trend_in[item, step.country] += weighs
            if item not in session:
                self.viewed[item] += weight
                for other in _partners(session, item, at_ms):
                    self.viewed_with[item, other] += weight
                    self.viewed_with[other, item] += weight
                bought.discard(item)  # it has left the session since
            others = [other for other in session if other in bought and other != item]
            if step.event_type == "purchase" and item not in bought:
                self.bought[item] += weight
                bought.add(item)
                for other in _partners(others, item, at_ms):
                    self.bought_with[item, other] += weight
                    self.bought_with[other, item] += weight
            session = [*(other for other in session if other != item), item][-MAX_ITEMS:]

    def cosine(self, item: int, other: int) -> float:
        """Give the cosine of two items by sessions with both."""
        return self.viewed_with[item, other] / math.sqrt(self.viewed[item] * self.viewed[other])

    def conditional(self, item: int, other: int) -> float:
        """Give P(other bought | item bought) within one session."""
        return self.bought_with[item, other] / self.bought[item]


def _partners(session: Sequence[int], item: int, at_ms: int) -> list[int]:
    chosen = partners(b"".join(other.to_bytes(8, "little") for other in session), item, at_ms)
    return [int.from_bytes(chosen[n : n + 8], "little") for n in range(0, len(chosen), 8)]


def _visits(deltas: Iterable[SessionDelta]) -> list[_Visit]:
    visits: list[_Visit] = []
    newest: dict[tuple[str, str], tuple[int, int, _Visit]] = {}  # ordinal, last_ms, visit
    seen: set[tuple[int, int, int]] = set()
    for delta in deltas:
        place = (delta.partition, delta.offset, delta.n)
        if place in seen:
            continue
        seen.add(place)
        user = (delta.tenant, delta.user_id)
        found = newest.get(user)
        if found is None or found[0] != delta.session_ordinal or delta.session_start > found[1]:
            visit = _Visit(delta.session_start, [])
            visits.append(visit)
            last_ms = delta.event_time
        else:
            last_ms, visit = max(found[1], delta.event_time), found[2]
        visit.steps.append(delta)
        newest[user] = (delta.session_ordinal, last_ms, visit)
    return visits
