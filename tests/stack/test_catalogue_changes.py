"""The catalogue changes while the job runs."""

from __future__ import annotations

import pytest

from schemas.ids import user_key
from tests.stack.running_shop import RunningShop
from udfs.ranking.explain import explain

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
        shop.publish(changed)
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
        shop.publish([by_id[item.item_id]._replace(updated_time=0) for item in changed])
    shop.check_states()
    shop.check_lists()
    assert sold_out in {slot.item_id for slot in shop.deployment.lists([key])[key]["items"]}


def test_a_new_item_is_listed_to_who_likes_its_like_without_a_restart(shop: RunningShop) -> None:
    by_id = {item.item_id: item for item in shop.items}
    liked = {user_key("default", f"likes-{name}"): name for name in ("22725", "22138", "22114", "22111")}
    users = {key: key.split("/")[1] for key in liked}
    twins = {key: by_id[name]._replace(item_id=f"new-{name}", updated_time=0) for key, name in liked.items()}
    shop.deployment.produce([shop.event("click", users[key], name) for key, name in liked.items()])
    shop.catch_up()
    before = shop.deployment.lists(liked)
    job = shop.deployment.job_id
    try:
        shop.publish(list(twins.values()))
        shop.deployment.produce([shop.event("search", user) for user in users.values()])
        shop.catch_up()
        shop.check_lists(list(liked))
        after = shop.deployment.lists(liked)
        listed = {
            when: {
                key for key in liked if twins[key].item_id in {slot.item_id for slot in lists[key]["items"]}
            }
            for when, lists in (("before", before), ("after", after))
        }
        assert not listed["before"]
        assert listed["after"]
        assert shop.deployment.job_id == job
        view = shop.plain.view(shop.items, shop.mark)
        for key in listed["after"]:
            why = explain(
                shop.plain.bundle,
                shop.plain.snapshots([key])[0],
                twins[key].item_id,
                view,
                shop.rank_settings,
            )
            assert (why.known, why.slot is not None, "content" in why.sources) == (True, True, True)
    finally:
        shop.publish([twin._replace(blocked=True) for twin in twins.values()])
    shop.deployment.produce([shop.event("search", user) for user in users.values()])
    shop.catch_up()
    shop.check_lists(list(liked))
