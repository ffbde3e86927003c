"""Processes die by `kill -9` in the middle: what is left is what a plain run leaves."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest
from typer.testing import CliRunner

from schemas.records import Event
from tailrace import model_epochs
from tailrace.cli import app
from tailrace.stack.store import store_answers
from tests.stack.deployment import until
from tests.stack.running_shop import RunningShop

pytestmark = pytest.mark.stack
AT_ONCE, PER_S = 16_000, 3_000
SHARED = ("item:sim:*", "item_features:*", "trending:*")


@contextmanager
def flowing(shop: RunningShop, events: list[Event], before: int = 2_000) -> Iterator[None]:
    """Send events in a thread, and enter when the job has read the first of them and has more to read."""
    read = shop.deployment.counts()["events"]
    thread = threading.Thread(target=shop.deployment.produce, args=(events, PER_S))
    thread.start()
    try:
        until(lambda: shop.deployment.counts().get("events", 0) > read + before, 60, "events to flow", 0.02)
        yield
    finally:
        thread.join()


def kill_taskmanager(shop: RunningShop) -> None:
    os.kill(shop.deployment.stack.pids()["taskmanager-1"], signal.SIGKILL)


def kill_rank_worker(shop: RunningShop) -> None:
    """Kill the Python process that ranks, a child of a TaskManager of this stack."""
    manager = psutil.Process(shop.deployment.stack.pids()["taskmanager-2"])
    workers = [
        child
        for child in manager.children(recursive=True)
        if any("beam_boot" in word for word in child.cmdline())
    ]
    workers[0].send_signal(signal.SIGKILL)


def last_failure_ms(shop: RunningShop) -> int:
    """Give when the job last failed; 0: never. (Flink's count of restarts is up to ten seconds old.)"""
    history = shop.deployment.flink(f"/jobs/{shop.deployment.job_id}/exceptions")["exceptionHistory"]
    return max((int(entry["timestamp"]) for entry in history["entries"]), default=0)


def check_all(shop: RunningShop) -> None:
    shop.check_counts()
    shop.check_states()
    shop.check_lists()
    shop.check_deltas()


@pytest.mark.parametrize("kill", [kill_taskmanager, kill_rank_worker])
def test_a_killed_process_costs_no_event_and_doubles_none(
    shop: RunningShop, kill: Callable[[RunningShop], None]
) -> None:
    before = last_failure_ms(shop)
    with flowing(shop, shop.next_traffic(AT_ONCE)):
        kill(shop)
        until(lambda: last_failure_ms(shop) > before, 60, "the job to fail")
    shop.catch_up()
    shop.check_lists()
    check_all(shop)


def test_a_killed_store_stops_no_job_and_is_rebuilt_by_a_republish(shop: RunningShop) -> None:
    before = last_failure_ms(shop)
    with flowing(shop, shop.next_traffic(AT_ONCE)):
        os.kill(shop.deployment.stack.pids()["store"], signal.SIGKILL)
    until(lambda: store_answers(shop.deployment.settings), 30, "the store to be back")
    # Until someone asks for the rest, the store holds what came after: new lists, new acknowledgements.
    until(lambda: model_epochs.workers(shop.deployment.redis), 60, "a worker to acknowledge again")
    # Each shard tells its counts again. An order amid the traffic would not be an order after it: an event that
    # asks for no list leaves the order's list as it is.
    shop.deployment.produce(shop.probes("store-killed"))
    shop.deployment.wait_until_read()
    republish(shop)
    check_all(shop)
    assert last_failure_ms(shop) == before


def test_a_flushed_store_is_rebuilt_whole_by_the_command(shop: RunningShop) -> None:
    shop.check_states()
    client = shop.deployment.redis
    views = shared_views(shop)
    assert min(len([key for key in views if key.startswith(name[:-1])]) for name in SHARED) > 5
    client.flushdb()
    time.sleep(1.0)
    republish(shop)
    shop.check_lists()
    shop.check_views(shop.plain.ranked)
    shop.check_counts()
    assert shared_views(shop) == views
    assert client.hget("model:current", "epoch") == "1"


def republish(shop: RunningShop) -> None:
    """Rebuild the store as an operator does."""
    done = CliRunner().invoke(app, ["republish", "--config", str(shop.deployment.config)])
    assert done.exit_code == 0, done.output
    shop.catch_up_after_republish()


def shared_views(shop: RunningShop) -> dict[str, object]:
    """Everything in the store that belongs to no user."""
    client = shop.deployment.redis
    rankings = [*client.scan_iter("item:sim:*", 5_000), *client.scan_iter("trending:*", 5_000)]
    hashes = list(client.scan_iter("item_features:*", 5_000))
    with client.pipeline(transaction=False) as pipeline:
        for key in rankings:
            pipeline.zrange(key, 0, -1, withscores=True)
        for key in hashes:
            pipeline.hgetall(key)
        return dict(zip([*rankings, *hashes], pipeline.execute(), strict=True))
