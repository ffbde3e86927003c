"""The catalogue changes while the job runs."""

from __future__ import annotations

import time

import pytest

from schemas.ids import user_key
from tests.stack.running_shop import RunningShop

pytestmark = pytest.mark.stack


def test_the_next_list_holds_what_the_catalogue_says_without_a_restart(shop: RunningShop) -> None:
    user_id = "shopper"
    key = user_key("default", user_id)
    by_id = {item.item_id: item for item in shop.items}
    shop.deployment.produce([shop.event("click", user_id, item) for item in shop.known_items(8)])
    shop.catch_up()
    shop.check_states()
    (before,) = shop.deployment.lists([key]).values()
    job, shown = shop.deployment.job_id, [slot.item_id for slot in before["items"]]

    sold_out, blocked, *dearer = shown
    changed = [
        by_id[sold_out]._replace(in_stock=False, updated_time=0),
        by_id[blocked]._replace(blocked=True, updated_time=0),
        *(by_id[item]._replace(price=5_000.0, updated_time=0) for item in dearer),
    ]
    try:
        publish(shop, changed)
        shop.deployment.produce([shop.event("search", user_id)])
        shop.catch_up()
        (after,) = shop.deployment.lists([key]).values()
        listed = {slot.item_id for slot in after["items"]}
        assert listed and not listed & {sold_out, blocked}
        assert int(after["_mark"]) == shop.mark > int(before["_mark"])
        assert shop.deployment.job_id == job
        shop.check_lists([key])
        # The prices changed the scores: with the old ones the same state ranks otherwise.
        unpriced = [*shop.items[: -len(dearer)]]
        (ranked,) = shop.plain.lists(unpriced, shop.mark, shop.rank_settings, [key]).values()
        assert [slot.score for slot in ranked.items] != [slot.score for slot in after["items"]]
    finally:
        publish(shop, [by_id[item.item_id]._replace(updated_time=0) for item in changed])
    shop.check_states()
    shop.check_lists()
    assert sold_out in {slot.item_id for slot in shop.deployment.lists([key])[key]["items"]}


def publish(shop: RunningShop, items: list) -> None:
    shop.mark = shop.deployment.publish_items(items)
    shop.items += items
    time.sleep(2)  # each worker's client fetches in the background
