"""What a shop reads: personal lists, popular ones in their place, nothing out of stock."""

import socket

import numpy as np
import pytest
import redis

from clients.reader import ReaderError, RecommendationReader, Recommended
from flink_jobs.list_store import EraseEntry, ListEntry, ListStore, connect
from flink_jobs.model_views import write_items, write_model_views
from schemas.records import Item, ServedItem, ServedList
from schemas.redis_keys import format_version, item_sim_key, user_keys
from schemas.refusal import Refused

NOW_MS = 1_763_700_000_000
ITEMS = (
    ServedItem("item-b", 0.25, "ranker", 0.9),
    ServedItem("item-a", 0.75, "popular", 0.025),
    ServedItem("item-c", 0.125, "embedding", 0.5),
)


def served(user_id="u1", tenant="default", items=ITEMS, offset=1):
    version = format_version(0, offset, 0)
    return ServedList(
        f"rec-{offset}", tenant, user_id, version, NOW_MS - 700, 0, 3, "m-1", "b", 17, items, b""
    )


@pytest.fixture(params=[True, False], ids=["hash_tags", "no_hash_tags"])
def hash_tags(request):
    return request.param


@pytest.fixture
def store(store_client, store_url, hash_tags):
    return ListStore(connect(store_url), ttl_s=1_000, hash_tags=hash_tags, clock_ms=lambda: NOW_MS)


@pytest.fixture
def reader(store_url, hash_tags):
    with RecommendationReader.connect(
        store_url, hash_tags=hash_tags, stale_after_ms=60_000, clock_ms=lambda: NOW_MS + 250, timeout_s=30
    ) as made:
        yield made


def put_views(client, hash_tags, tenant="default", **changes):
    arguments = {
        "item_ids": ["item-a", "item-b", "item-c", "it{e}m/d"],
        "categories": ["shoes", "shoes", "hats", ""],
        "prices": np.array([10.0, 20.5, np.nan, 1.0], np.float32),
        "trending": np.array([4.0, 8.0, 2.0, 1.0], np.float32),
        "neighbour_offsets": np.array([0, 2, 3, 3, 4]),
        "neighbour_rows": np.array([1, 2, 0, 0], np.int32),
        "neighbour_scores": np.array([0.5, 0.25, 0.75, 0.125], np.float32),
        "current": {"epoch": 3, "model_version": "m-1"},
    } | changes
    return write_model_views(client, tenant=tenant, hash_tags=hash_tags, **arguments)


def test_a_personal_list_is_read_in_the_order_in_which_it_was_made(store, reader):
    store.put([ListEntry(served(), ["item-x", "item-y"], {"n_views": 3})])
    found = reader.get("u1")
    assert found.items == tuple(Recommended(*item) for item in ITEMS)
    assert found == ("rec-1", found.items, "m-1", "b", NOW_MS, 250, "personal")
    assert reader.get("u1", count=1).items == found.items[:1]
    assert reader.session("u1") == ["item-x", "item-y"]
    assert reader.features("u1")["n_views"] == "3"
    assert reader.features("u1")["_v"] == format_version(0, 1, 0)


def test_an_old_list_is_marked_stale(store, store_url, hash_tags):
    store.put([ListEntry(served())])
    for age_ms, source in [(60_000, "personal"), (60_001, "stale")]:
        with RecommendationReader.connect(
            store_url,
            hash_tags=hash_tags,
            stale_after_ms=60_000,
            clock_ms=lambda at_ms=NOW_MS + age_ms: at_ms,
            timeout_s=30,
        ) as reader:
            found = reader.get("u1")
            assert (found.source, found.age_ms) == (source, age_ms)


def test_an_unknown_user_gets_what_is_popular(store_client, reader, hash_tags):
    put_views(store_client, hash_tags)
    found = reader.get("nobody", count=2)
    assert found.items == (
        Recommended("item-b", 8.0, "popular", None),
        Recommended("item-a", 4.0, "popular", None),
    )
    assert (found.rec_id, found.model_version, found.source) == ("popular-3", "m-1", "popular")
    assert (found.as_of, found.age_ms) == (None, None)


def test_an_empty_store_gives_an_empty_popular_list(store_client, reader):
    assert reader.get("nobody") == ("popular-0", (), "", "", None, None, "popular")
    assert reader.similar("item-a") == []
    assert reader.session("nobody") == []
    assert reader.features("nobody") == {}
    assert reader.trending("hats") == []


def test_an_erased_user_gets_what_is_popular(store, store_client, reader, hash_tags):
    put_views(store_client, hash_tags)
    store.put([ListEntry(served(), ["x"]), EraseEntry("default", "u1", format_version(0, 2, 0))])
    assert reader.get("u1").source == "popular"
    assert reader.session("u1") == []


def test_what_is_out_of_stock_or_blocked_is_left_out_everywhere(store, store_client, reader, hash_tags):
    put_views(store_client, hash_tags)
    store.put([ListEntry(served())])
    item = Item("item-a", "default", "A", "shoes", None, 9.0, True, False, {}, NOW_MS)
    write_items(store_client, [item, item._replace(in_stock=False)], hash_tags=hash_tags)
    assert [slot.item_id for slot in reader.get("u1").items] == ["item-b", "item-c"]
    assert [slot.item_id for slot in reader.get("nobody").items] == ["item-b", "item-c", "it{e}m/d"]
    assert reader.similar("item-b") == []
    assert reader.trending("shoes") == [("item-b", 8.0)]
    write_items(store_client, [item, item._replace(item_id="item-b", blocked=True)], hash_tags=hash_tags)
    assert [slot.item_id for slot in reader.get("u1").items] == ["item-a", "item-c"]
    assert reader.item_features("item-a") == {
        "in_stock": "1",
        "title": "A",
        "category": "shoes",
        "price": "9.0",
        "trending": "4.0",
        "_wm": str(NOW_MS),
        "_v": "3",
    }


def test_a_list_of_which_nothing_is_in_stock_is_replaced_by_what_is_popular(
    store, store_client, reader, hash_tags
):
    put_views(store_client, hash_tags)
    store.put([ListEntry(served(items=ITEMS[1:2]))])
    gone = Item("item-a", "default", "A", "", None, None, False, False, {}, NOW_MS)
    write_items(store_client, [gone], hash_tags=hash_tags)
    assert reader.get("u1").source == "popular"


def test_a_list_that_lost_a_part_is_replaced_by_what_is_popular(store, store_client, reader, hash_tags):
    store.put([ListEntry(served())])
    keys = user_keys("default", "u1", hash_tags)
    store_client.zrem(keys.rec, "item-b")
    assert reader.get("u1").source == "popular"
    store_client.delete(keys.rec)
    assert reader.get("u1").source == "popular"


def test_similar_items_come_best_first(store_client, reader, hash_tags):
    put_views(store_client, hash_tags)
    assert reader.similar("item-a") == [("item-b", 0.5), ("item-c", 0.25)]
    assert reader.similar("item-a", count=1) == [("item-b", 0.5)]
    assert reader.similar("item-c") == []
    assert reader.similar("it{e}m/d") == [("item-a", 0.125)]


def test_a_new_bundle_s_views_replace_the_old_ones(store_client, reader, hash_tags):
    put_views(store_client, hash_tags)
    seen = []
    put_views(
        store_client,
        hash_tags,
        neighbour_offsets=[0, 0, 1, 1, 1],
        neighbour_rows=[2],
        neighbour_scores=[1.0],
        categories=["hats", "", "hats", ""],
        current={"epoch": 4, "model_version": "m-2"},
        progress=lambda done, total: seen.append((done, total)),
        ttl_s=500,
    )
    assert reader.similar("item-a") == []
    assert reader.similar("item-b") == [("item-c", 1.0)]
    assert reader.trending("hats") == [("item-a", 4.0), ("item-c", 2.0)]
    assert reader.get("nobody").rec_id == "popular-4"
    assert seen == [(4, 4)]
    assert store_client.ttl(item_sim_key("default", "item-b", hash_tags)) == 500


def test_a_bundle_without_its_name_is_an_error(store_client, hash_tags):
    with pytest.raises(ValueError, match="wanted model_version"):
        put_views(store_client, hash_tags, current={"epoch": 1})


def test_tenants_have_views_of_their_own(store, store_client, reader, hash_tags):
    put_views(store_client, hash_tags, tenant="acme")
    store.put([ListEntry(served(tenant="acme"))])
    assert reader.get("u1", "acme").source == "personal"
    assert reader.get("u2", "acme").items[0].item_id == "item-b"
    assert reader.get("u1").items == ()


@pytest.mark.parametrize("user_id", ["", "a\nb", "x" * 129])
def test_an_id_that_nobody_can_have_is_refused(reader, user_id):
    for ask in (reader.get, reader.session, reader.features, reader.similar):
        with pytest.raises(Refused, match="bad_id"):
            ask(user_id)


def test_a_store_that_is_not_there_is_an_error_in_time():
    with socket.socket() as held:  # the port is taken, and nobody listens
        held.bind(("127.0.0.1", 0))
        address = f"redis://127.0.0.1:{held.getsockname()[1]}/0"
        with (
            RecommendationReader.connect(address, timeout_s=30) as reader,
            pytest.raises(ReaderError, match=r"Redis cannot be read \(ConnectionError"),
        ):
            reader.get("u1")


def test_a_store_that_hangs_is_an_error_in_time(store_server, tmp_path):
    from store_server import StoreServer

    server = StoreServer(store_server._binary, tmp_path)
    server.start()
    try:
        with (
            RecommendationReader.connect(server.url, timeout_s=0.2) as reader,
            redis.Redis.from_url(server.url) as other,
        ):
            other.execute_command("CLIENT", "PAUSE", 600_000, "ALL")
            with pytest.raises(ReaderError, match="TimeoutError"):
                reader.get("u1")
    finally:
        server.kill()
