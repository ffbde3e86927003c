"""The similarity job behind the recommend job, a TaskManager killed in the middle: the figures of a batch."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flink_jobs.settings import load
from schemas.records import SessionDelta
from schemas.redis_keys import item_bought_key, item_features_key, item_sim_key, stats_key, trending_key
from tailrace import flink_client
from tailrace.job_counts import sum_counts
from tests.stack.conftest import SharedStack
from tests.stack.deployment import Deployment, until
from tests.stack.plain_run import Row
from tests.stack.running_shop import SESSIONS, RunningShop
from udfs.similarity.count_kernel import HalfLives
from udfs.similarity.country_trends import MAX_COUNTRIES
from udfs.similarity.item_counts import MAX_BOUGHT, MAX_VIEWED
from udfs.similarity.reference import ReferenceCounts
from udfs.similarity.scores import timeless
from udfs.similarity.session_step import item_key

pytestmark = pytest.mark.stack
EVENTS, STEPS, PER_S = 9_000, 6_000, 1_500
DAY_MS = 86_400_000
HALF_LIVES = HalfLives(60 * DAY_MS, 7 * DAY_MS)
QUICK = {
    "batch_ms": 200,
    "item_batch_ms": 300,
    "tick_ms": 1_000,
    "publish_interval_ms": 1_000,
    "publish_items_per_tick": 500,
    "sweep_items_per_tick": 200,
    "list_size": 50,
}
WITHIN = 1e-4


@pytest.fixture
def similar(stack: SharedStack, shop: RunningShop, tmp_path: Path) -> Iterator[Deployment]:
    """A deployment whose job is to be the similarity job; the shop's stops for it."""
    given = stack.deployment("similar").settings.model_dump(exclude_unset=True)
    deployment = Deployment(stack.stack, load(environment={}, **given, similarity=QUICK), tmp_path)
    yield deployment
    deployment.cancel()


def test_a_killed_similarity_job_leaves_the_figures_of_the_batch_reference(
    shop: RunningShop, similar: Deployment
) -> None:
    shop.deployment.produce(shop.next_traffic(EVENTS))
    shop.catch_up()
    shop.check_deltas()
    rows = shop.deployment.rows(SESSIONS)[-STEPS:]
    deltas: list[SessionDelta] = shop.deployment.records(SESSIONS, "SessionDelta")[-STEPS:]
    shop.deployment.stop()
    for item in shop.items:  # of half of them the catalogue tells the category
        if item_key("default", item.item_id) % 2:
            similar.redis.hset(item_features_key("default", item.item_id), "category", item.category)
    similar.job_id = flink_client.submit(similar.settings, "similarity", similar.jobmanager, similar.config)
    similar.wait_until_running()

    sending = threading.Thread(target=send, args=(similar, rows))
    sending.start()
    until(lambda: counts(similar).get("applied", 0) > 0, 240, "items to count", 0.02)
    os.kill(similar.stack.pids()["taskmanager-1"], signal.SIGKILL)
    sending.join()
    until(lambda: failures(similar) > 0, 240, "the job to fail")
    until(
        lambda: (
            counts(similar).get("session_steps") == len(deltas)
            and counts(similar).get("contributions") == counts(similar).get("applied")
        ),
        300,
        lambda: f"{len(deltas)} steps in the counts, there are {counts(similar)}",
    )
    as_of_ms = max(delta.event_time for delta in deltas)
    wanted = ReferenceCounts(deltas, as_of_ms, HALF_LIVES, similar.settings.similarity.max_session_events)
    names = {item_key(delta.tenant, delta.item_id): delta.item_id for delta in deltas}
    names = {item: names[item] for item in wanted.viewed}  # some stand only behind the end of long sessions
    until(lambda: not differences(similar, wanted, names, as_of_ms), 240,
          lambda: f"the figures of the batch: {differences(similar, wanted, names, as_of_ms)[:5]}", 1.0)  # fmt: skip
    assert len(names) > 500
    check_trending(similar, wanted, names, as_of_ms, shop)


def send(similar: Deployment, rows: list[Row]) -> None:
    for start in range(0, len(rows), PER_S // 10):
        some = [(row.key, row.value) for row in rows[start : start + PER_S // 10]]
        similar.produce_raw(SESSIONS, some, time.time_ns() // 1_000_000)
        time.sleep(0.1)


def counts(similar: Deployment) -> dict[str, int]:
    return sum_counts(
        similar.redis.hgetall(stats_key("similarity", similar.settings.kafka.topic_prefix))
    ).total


def failures(similar: Deployment) -> int:
    return len(similar.flink(f"/jobs/{similar.job_id}/exceptions")["exceptionHistory"]["entries"])


def differences(
    similar: Deployment, wanted: ReferenceCounts, names: dict[int, str], as_of_ms: int
) -> list[str]:
    """Tell where Redis is not what the reference says. Beyond its cap an item may show less, and never more."""
    items = list(names)
    with similar.redis.pipeline(transaction=False) as pipeline:
        for item in items:
            pipeline.zrange(item_sim_key("default", names[item]), 0, -1, withscores=True)
            pipeline.zrange(item_bought_key("default", names[item]), 0, -1, withscores=True)
            pipeline.hgetall(item_features_key("default", names[item]))
        stored = pipeline.execute()
    found = []
    size = similar.settings.similarity.list_size
    viewed: dict[int, dict[str, float]] = {item: {} for item in items}
    bought: dict[int, dict[str, float]] = {item: {} for item in items}
    for item, other in wanted.viewed_with:
        viewed[item][names[other]] = wanted.cosine(item, other)
    for item, other in wanted.bought_with:
        bought[item][names[other]] = wanted.conditional(item, other)
    for place, item in enumerate(items):
        similar_list, bought_list, fields = stored[3 * place : 3 * place + 3]
        found += compare(names[item], dict(similar_list), viewed[item], MAX_VIEWED, size)
        found += compare(names[item], dict(bought_list), bought[item], MAX_BOUGHT, size)
        if "_sim_wm" not in fields:
            found.append(f"{names[item]}: no counts")
            continue
        left = 0.5 ** ((as_of_ms - int(fields["_sim_wm"])) / HALF_LIVES.together_ms)
        for name, exact in (("viewed", wanted.viewed[item]), ("bought", wanted.bought.get(item, 0.0))):
            if not math.isclose(float(fields[name]) * left, exact, rel_tol=WITHIN, abs_tol=1e-12):
                found.append(f"{names[item]}.{name}: {float(fields[name]) * left}, wanted {exact}")
    return found


def compare(name: str, found: dict[str, float], exact: dict[str, float], cap: int, size: int) -> list[str]:
    known = [other for other, score in found.items() if score > exact.get(other, 0.0) + WITHIN]
    if known:
        return [f"{name}: more than there is of {known[:3]}"]
    if len(exact) > cap:
        return []
    best = sorted(exact.values(), reverse=True)[:size]
    scores = sorted(found.values(), reverse=True)
    if len(best) != len(scores) or any(abs(a - b) > WITHIN for a, b in zip(best, scores, strict=True)):
        return [f"{name}: {scores[:3]} of {len(scores)}, wanted {best[:3]} of {len(best)}"]
    return []


def check_trending(
    similar: Deployment, wanted: ReferenceCounts, names: dict[int, str], as_of_ms: int, shop: RunningShop
) -> None:
    trend = {names[item]: weight for item, weight in wanted.trend.items()}
    categories = {item.item_id: item.category for item in shop.items}
    told = {name: categories[name] for item, name in names.items() if item % 2 and categories.get(name)}
    scopes: dict[str, dict[str, float]] = {"overall": trend}
    for name, category in told.items():
        scopes.setdefault(category, {})[name] = trend[name]
    of_item = Counter(item for item, _ in wanted.trend_in)
    assert max(of_item.values()) <= MAX_COUNTRIES
    for (item, country), weight in wanted.trend_in.items():
        scopes.setdefault(country, {})[names[item]] = weight
    assert {"United Kingdom", "France"} < scopes.keys()
    for scope, weights in scopes.items():
        found: list[tuple[str, Any]] = similar.redis.zrevrange(trending_key(scope), 0, -1, withscores=True)
        best = sorted(weights.values(), reverse=True)[:100]
        now = [timeless(weight, as_of_ms, HALF_LIVES.trend_ms) for weight in best]
        assert [place for _, place in found] == pytest.approx(now, abs=WITHIN)
    assert len(scopes) > 2
