"""Timers and batches change nothing: a slow history and a fast one leave equal states."""

from __future__ import annotations

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


def wait_until_left(shop: RunningShop, wanted: dict[str, bytes]) -> None:
    """Wait until the timers have left these users in these states: an order writes a list for whoever is there."""
    found: dict[str, bytes] = {}

    def equal() -> bool:
        nonlocal found
        found = {key: served.snapshot for key, served in shop.republish().items()}
        return found == wanted

    def differing() -> str:
        return f"users too many or too few, {found.keys() ^ wanted.keys()}, or in other states"

    until(equal, 60, differing, 0.5)


def wait_until_forgotten(shop: RunningShop, least: int) -> None:
    """Wait until the counts, which are told once a second, hold so many who were forgotten."""
    until(lambda: shop.deployment.counts().get("forgotten", 0) >= least, 30, f"{least} users forgotten")


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
        shop.deployment.wait_until_read()
        # A timer that was set after event time had passed it fires when time moves on.
        shop.deployment.produce(clock(known[0], partitions, DAYS + 1, len(events)))
        shop.deployment.wait_until_read()  # not for each list: who is owed one and forgotten meanwhile gets none
        shop.skip_to(shop.deployment.rows(EVENTS))
        everyone = len(shop.plain.states)
        shop.plain.wake_all(CUT_MS + (DAYS + 1) * DAY_MS)
        forgotten = everyone - len(shop.plain.states)
        assert 8 < len(shop.plain.states) < everyone - 20
        left.append(shop.plain.state_bytes())
        wait_until_left(shop, left[-1])
        # On time, those who come back were forgotten before they did; at full speed some may not have been.
        least = forgotten + (per_s is not None)
        wait_until_forgotten(shop, least)
    slow, fast = left
    assert slow == fast
