"""The job against the plain run: equal states, lists, deltas and counts."""

from __future__ import annotations

import pytest

from tests.stack.running_shop import RunningShop

pytestmark = pytest.mark.stack
REPLAYED = 100_000


def test_a_replay_leaves_the_states_and_lists_of_a_plain_run(shop: RunningShop) -> None:
    assert shop.deployment.produce(shop.next_traffic(REPLAYED)) == REPLAYED
    shop.catch_up()
    assert shop.check_lists() > 800
    shop.check_views(list(shop.plain.ranked)[:200])
    counts = shop.check_counts()
    # Everything that can happen to an event has happened to some.
    for name in ("duplicate", "late", "unknown_item", "unknown_type", "essential_only", "no_consent"):
        assert counts[name] > 20, name
    newest_is_no_ranking = [
        key for key in shop.plain.ranked if shop.plain.ranked[key] is not shop.plain.states[key]
    ]
    assert len(newest_is_no_ranking) > 20
    assert shop.check_states() > 800
    assert shop.check_lists() > 800
    assert shop.check_deltas() > REPLAYED // 2


def test_events_that_come_again_change_nothing_but_the_count_of_duplicates(shop: RunningShop) -> None:
    # The job remembers the last 32 events of a user, so that many may come again.
    items = shop.known_items(20)
    events = [shop.event("click", f"twice-{user}", item) for user in range(40) for item in items]
    shop.deployment.produce(events)
    shop.catch_up()
    before, counts = shop.plain.state_bytes(), shop.deployment.counts()
    lists = shop.deployment.lists(shop.plain.ranked)
    shop.deployment.stop()  # and not only within one run of the job
    shop.ready()
    shop.deployment.produce(events)
    shop.catch_up()
    after = shop.check_counts()
    assert after["duplicate"] == counts["duplicate"] + len(events)
    assert {**after, "duplicate": 0, "events": 0} == {**counts, "duplicate": 0, "events": 0}
    assert shop.deployment.lists(shop.plain.ranked) == lists
    assert shop.plain.state_bytes() == before
    shop.check_states()
    shop.check_deltas()
