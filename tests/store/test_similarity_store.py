"""What items go with, in a real store: newest wins, neighbours' counts are found, trending takes its places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from clients.reader import RecommendationReader
from flink_jobs import similarity_store
from flink_jobs.list_store import connect
from flink_jobs.model_views import write_model_views
from flink_jobs.similarity_store import SimilarityStore
from schemas.redis_keys import SIMILARITY_LIVE, item_bought_key, item_features_key, item_sim_key, trending_key
from udfs.similarity.count_kernel import HalfLives
from udfs.similarity.item_counts import ItemCounts, Neighbours
from udfs.similarity.session_step import item_key

NOW_MS = 1_763_700_000_000
DAY_MS = 86_400_000
HALF_LIVES = HalfLives(60 * DAY_MS, 7 * DAY_MS)


def counts(
    name: str,
    viewed: float = 4.0,
    together: Sequence[tuple[str, float]] = (),
    bought: Sequence[tuple[str, float]] = (),
    as_of_ms: int = NOW_MS,
    updates: int = 1,
    trend: float = 1.0,
) -> ItemCounts:
    def neighbours(pairs: Sequence[tuple[str, float]]) -> Neighbours:
        hashes = np.array([item_key("default", other) for other, _ in pairs], np.uint64)
        weights = np.array([weight for _, weight in pairs], float)
        return Neighbours(hashes, weights, np.zeros(len(pairs)))

    tables = neighbours(together), neighbours(bought)
    return ItemCounts(f"default/{name}".encode(), as_of_ms, updates, viewed, 2.0, trend, *tables)


def by_key(*items: ItemCounts) -> dict[int, ItemCounts]:
    return {item_key("default", one.name.decode().partition("/")[2]): one for one in items}


@pytest.fixture
def store(store_client: Any, store_url: str) -> SimilarityStore:
    return SimilarityStore(connect(store_url), HALF_LIVES, 0, 50, ttl_s=1_000, retry_limit_s=2)


def ranking(client: Any, key: str) -> dict[str, float]:
    return dict(client.zrange(key, 0, -1, withscores=True))


def test_scores_are_made_of_both_items_counts_at_their_own_moments(
    store: SimilarityStore, store_client: Any
) -> None:
    a = counts("a", 4.0, [("b", 2.0), ("ü/1", 1.0)], [("b", 1.5)])
    b = counts("b", 18.0, [("a", 4.0)], as_of_ms=NOW_MS - 60 * DAY_MS)  # 9 by now
    other = counts("ü/1".replace("/", "%2F"), 1.0)._replace(name="default/ü%2F1".encode())
    assert store.put_similar({**by_key(a, b), item_key("default", "ü/1"): other}) == set()
    assert ranking(store_client, item_sim_key("default", "a")) == pytest.approx({"b": 1 / 3, "ü/1": 0.5})
    assert ranking(store_client, item_bought_key("default", "a")) == {"b": 0.75}
    fields = store_client.hgetall(item_features_key("default", "a"))
    assert (float(fields["viewed"]), float(fields["bought"]), int(fields["_sim_wm"])) == (4.0, 2.0, NOW_MS)
    for key in (item_sim_key("default", "a"), item_bought_key("default", "a")):
        assert 0 < store_client.ttl(key) <= 1_000


def test_an_item_whose_neighbour_is_not_there_yet_is_written_without_it_and_named(
    store: SimilarityStore, store_client: Any
) -> None:
    a, b = counts("a", 4.0, [("b", 2.0), ("c", 2.0)]), counts("b", 4.0)
    assert store.put_similar(by_key(a)) == {item_key("default", "a")}
    store.put_similar(by_key(b))
    assert store.put_similar(by_key(a)) == {item_key("default", "a")}
    assert ranking(store_client, item_sim_key("default", "a")) == {"b": 0.5}
    assert store.put_similar(by_key(a, counts("c"))) == set()
    store.forget(by_key(b))
    assert store.put_similar(by_key(a)) == {item_key("default", "a")}
    assert set(ranking(store_client, item_sim_key("default", "a"))) == {"c"}


def test_an_older_version_changes_nothing_and_an_equal_one_is_written_again(
    store: SimilarityStore, store_client: Any
) -> None:
    store.put_similar(by_key(counts("a", 4.0, [("b", 2.0)], updates=300), counts("b", 4.0)))
    store.put_similar(by_key(counts("a", 2.0, [("b", 1.0)], updates=299)))
    assert ranking(store_client, item_sim_key("default", "a")) == {"b": 0.5}
    assert store_client.hget(item_features_key("default", "a"), "viewed") == "4.0"
    store.put_similar(by_key(counts("b", 16.0)))  # the neighbour's count moved on
    store.put_similar(by_key(counts("a", 4.0, [("b", 2.0)], updates=300)))
    assert ranking(store_client, item_sim_key("default", "a")) == {"b": 0.25}


def test_what_others_write_of_an_item_stays(store: SimilarityStore, store_client: Any) -> None:
    store_client.hset(item_features_key("default", "a"), mapping={"_v": "7", "_wm": "5", "category": "toys"})
    store.put_similar(by_key(counts("a")))
    fields = store_client.hgetall(item_features_key("default", "a"))
    assert (fields["_v"], fields["_wm"], fields["category"]) == ("7", "5", "toys")


def test_trending_holds_the_best_overall_and_by_category_and_forgets_what_a_bundle_wrote(
    store: SimilarityStore, store_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similarity_store, "TRENDING_SIZE", 3)
    store_client.zadd(trending_key("overall"), {"of a bundle": 1e9})
    store_client.hset(item_features_key("default", "i2"), "category", "toys")
    old = counts("old", trend=100.0, as_of_ms=NOW_MS - 70 * DAY_MS)  # 0.1 by now
    for number in (5, 2, 4, 1, 3):
        store.put_similar(by_key(counts(f"i{number}", trend=float(number)), old))
    places = ranking(store_client, trending_key("overall"))
    assert set(places) == {"i3", "i4", "i5"}
    by_now = {item: 2 ** (place - NOW_MS / HALF_LIVES.trend_ms) for item, place in places.items()}
    assert by_now == pytest.approx({"i3": 3.0, "i4": 4.0, "i5": 5.0}, rel=1e-9)
    assert set(ranking(store_client, trending_key("toys"))) == {"i2"}
    assert store_client.ttl(SIMILARITY_LIVE) > 3_600
    store.put_similar(by_key(counts("i4", trend=3.5)))  # a place is never lost to an older write
    assert ranking(store_client, trending_key("overall")) == places
    assert math.isfinite(min(places.values()))


def test_trending_by_country_has_its_own_places_and_an_item_of_no_country_none(
    store: SimilarityStore, store_client: Any
) -> None:
    items = by_key(counts("a"), counts("b"))
    store.put_similar(items, {item_key("default", "a"): {b"France": 7.5, "Österreich".encode(): 3.0}})
    assert ranking(store_client, trending_key("France")) == {"a": 7.5}
    assert ranking(store_client, trending_key("Österreich")) == {"a": 3.0}
    assert set(ranking(store_client, trending_key("overall"))) == {"a", "b"}


def test_a_flushed_store_is_written_again(store: SimilarityStore, store_client: Any) -> None:
    both = by_key(counts("a", 4.0, [("b", 2.0)]), counts("b", 4.0, [("a", 2.0)]))
    store.put_similar(both)
    before = {key: store_client.type(key) for key in sorted(store_client.scan_iter())}
    store_client.flushall()
    store_client.function_flush("SYNC")
    store.put_similar(both)
    assert {key: store_client.type(key) for key in sorted(store_client.scan_iter())} == before


def test_a_model_bundle_leaves_alone_what_the_similarity_job_writes(
    store: SimilarityStore, store_client: Any
) -> None:
    def activate() -> None:
        ids = ["a", "b", "new"]
        write_model_views(
            store_client, item_ids=ids, categories=["toys"] * 3, prices=[1.0] * 3, trending=[9.0, 8.0, 7.0],
            neighbour_offsets=[0, 1, 2, 3], neighbour_rows=[2, 2, 0], neighbour_scores=[0.9] * 3,
            current={"epoch": 1, "model_version": "m"},
        )  # fmt: skip

    activate()
    assert ranking(store_client, item_sim_key("default", "a")) == {"new": 0.9}
    store.put_similar(by_key(counts("a", 4.0, [("b", 2.0)], [("b", 1.0)]), counts("b", 4.0)))
    activate()
    reader = RecommendationReader(store_client)
    assert reader.similar("a") == [("b", 0.5)]
    assert reader.bought_with("a") == [("b", 0.5)]
    assert reader.similar("new") == [("a", 0.9)]
    assert {item for item, _ in reader.trending()} == {"a", "b"}
    assert reader.item_features("a")["category"] == "toys"
    store_client.delete(SIMILARITY_LIVE)  # a day after the job's end
    activate()
    assert reader.similar("a") == [("new", 0.9)]
