"""Timers and batches change nothing: a slow history and a fast one leave equal states."""

from __future__ import annotations

import time

import pytest

from schemas.ids import user_key
from schemas.records import Event
from tailrace.topic_scan import partition_of
from tests.stack.conftest import SharedStack
from tests.stack.deployment import until
from tests.stack.running_shop import EVENTS, RunningShop
from tests.stack.shop import CUT_MS, DAY_MS
from udfs.model.bundle import Bundle

pytestmark = pytest.mark.stack
USERS, DAYS, SLOW_PER_S = 120, 360, 100


def history(items: list[str], partitions: int) -> list[Event]:
    """A year of few events: users pause for months, are forgotten meanwhile, and some come back."""
    made: list[Event] = []
    for day in range(DAYS):
        for user in range(day % 4, USERS, 4):
            in_season = user <= day < user + 60
            returns = user % 3 == 0 and day > 300
            if in_season or returns:
                made.append(_event(f"u{user}", day, items[(user + day) % len(items)], len(made)))
    return made + clock(items[0], partitions, DAYS, len(made))


def clock(item_id: str, partitions: int, day: int, first: int) -> list[Event]:
    """An event in every partition, so that event time comes to that day everywhere."""
    made: list[Event] = []
    there: set[int] = set()
    number = 0
    while len(there) < partitions:
        name = f"clock-{number}"
        partition = partition_of(user_key("default", name).encode(), partitions)
        if partition not in there:
            there.add(partition)
            made.append(_event(name, day, item_id, first + len(made)))
        number += 1
    return made


def _event(user_id: str, day: int, item_id: str, number: int) -> Event:
    at_ms = CUT_MS + day * DAY_MS + number
    kind = "view" if number % 3 else "purchase"
    return Event(
        f"e{number}", kind, "default", user_id, None, item_id, at_ms, at_ms, None, (), 1.5, None, {},
        "personalization",
    )  # fmt: skip


def wait_until_timers_are_done(shop: RunningShop, least: int, quiet_s: float = 6.0) -> None:
    """Wait until so many users at least were forgotten, and none more for longer than counts take to be published."""
    seen, since_s = -1, time.monotonic()

    def settled() -> bool:
        nonlocal seen, since_s
        now = shop.deployment.counts().get("forgotten", 0)
        if now != seen:
            seen, since_s = now, time.monotonic()
        return now >= least and time.monotonic() - since_s > quiet_s

    until(settled, 120, lambda: f"at least {least} users forgotten, there are {seen}", 0.5)


def test_a_slow_history_with_timers_on_time_and_a_fast_one_leave_equal_states(
    stack: SharedStack, bundles: dict[int, Bundle]
) -> None:
    left: list[dict[str, bytes]] = []
    for name, per_s in (("slow", SLOW_PER_S), ("fast", None)):
        shop = RunningShop(stack.deployment(name, forget_after_ms=90 * DAY_MS), bundles, stack.use)
        shop.ready()
        known, partitions = shop.known_items(200), shop.deployment.settings.kafka.partitions
        events = history(known, partitions)
        shop.deployment.produce(events, per_s)
        shop.deployment.wait_until_done()
        # A timer that was set after event time had passed it fires when time moves on.
        shop.deployment.produce(clock(known[0], partitions, DAYS + 1, len(events)))
        shop.deployment.wait_until_done()
        shop.skip_to(shop.deployment.rows(EVENTS))
        everyone = len(shop.plain.states)
        shop.plain.wake_all(CUT_MS + (DAYS + 1) * DAY_MS)
        forgotten = everyone - len(shop.plain.states)
        assert 8 < len(shop.plain.states) < everyone - 20
        wait_until_timers_are_done(shop, forgotten)
        shop.check_states()
        # On time, those who come back were forgotten before they did; at full speed some may not have been.
        counted = shop.deployment.counts()["forgotten"]
        assert counted > forgotten if per_s else counted >= forgotten
        left.append(shop.plain.state_bytes())
    slow, fast = left
    assert slow == fast
