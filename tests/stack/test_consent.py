"""Consent withdrawn and users erased: state and keys go, and nothing brings them back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flink_jobs.list_store import ListEntry, ListStore, connect
from schemas.ids import user_key
from schemas.records import ServedList
from schemas.redis_keys import user_keys
from tests.stack.deployment import until
from tests.stack.running_shop import SERVED, RunningShop

pytestmark = pytest.mark.stack


def withdraw_by_event(shop: RunningShop, user_id: str) -> None:
    shop.deployment.produce([shop.event("view", user_id, "any", consent="essential")])


def withdraw_by_order(shop: RunningShop, user_id: str) -> None:
    shop.deployment.order("set_consent", tenant="default", user_id=user_id, consent="essential")
    shop.plain.erase(user_key("default", user_id))


def erase_by_order(shop: RunningShop, user_id: str) -> None:
    shop.deployment.order("erase_user", tenant="default", user_id=user_id)
    shop.plain.erase(user_key("default", user_id))


@pytest.mark.parametrize("forget", [withdraw_by_event, withdraw_by_order, erase_by_order])
def test_a_user_who_may_not_be_profiled_leaves_state_and_store_for_good(
    shop: RunningShop, forget: Callable[[RunningShop, str], None]
) -> None:
    user_id = f"leaves-{forget.__name__}"
    key, names = user_key("default", user_id), user_keys("default", user_id)
    client = shop.deployment.redis
    shop.deployment.produce([shop.event("click", user_id, item) for item in shop.known_items(6)])
    shop.catch_up()
    assert client.exists(*names) == 4
    shop.catch_up_with_log()

    forget(shop, user_id)
    until(lambda: client.exists(*names) == 1, 60, f"the keys of {user_id} to go")
    mark = client.hgetall(names.meta)
    assert set(mark) == {"_v", "_erased"}
    assert client.ttl(names.meta) > 0
    shop.catch_up()

    # A list that was made before, replayed: the last before the erasure and one of the same version.
    lists = [list_ for list_ in shop.deployment.records(SERVED, "ServedList") if list_.user_id == user_id]
    newest = max(lists, key=lambda list_: list_.version)
    assert newest.version < mark["_v"]
    for version in (newest.version, mark["_v"]):
        assert put_again(shop, newest._replace(version=version)) == "older"
    assert client.hgetall(names.meta) == mark

    assert key not in shop.plain.states
    shop.check_states()
    assert client.exists(*names) == 1

    # Whoever comes back is a stranger: nothing of before is in the list's state.
    shop.deployment.produce([shop.event("click", user_id, shop.known_items(9)[8])])
    shop.catch_up()
    shop.check_lists([key])
    assert shop.plain.states[key].n_events == 1
    shop.check_states()


def put_again(shop: RunningShop, list_: ServedList) -> str:
    redis = shop.deployment.settings.redis
    store = ListStore(connect(redis.url), ttl_s=redis.ttl_s)
    (outcome,) = store.put([ListEntry(list_)])
    store._client.close()
    return outcome.state
