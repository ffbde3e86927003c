"""Models change under a running job: every list is of one epoch, and a bad bundle changes nothing."""

from __future__ import annotations

import json
import shutil
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from schemas.ids import user_key
from schemas.records import ServedList
from tailrace import model_canary, model_epochs
from tailrace.cli import app
from tailrace.experiment_orders import read_running
from tests.stack.deployment import until
from tests.stack.running_shop import SERVED, RunningShop
from udfs.experiments.canary import CanaryPlan
from udfs.experiments.running import RunningExperiments
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.rank import rank_batch
from udfs.ranking.snapshot import Snapshot

pytestmark = pytest.mark.stack
TRAFFIC, PER_S = 12_000, 1_500


def run(shop: RunningShop, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*words, "--config", str(shop.deployment.config)])
    return done.exit_code, done.output + str(done.exception or "")


def check_each_by_its_bundle(shop: RunningShop, lists: list[ServedList]) -> None:
    """Every list is what its own epoch makes of its own snapshot."""
    groups: dict[tuple[int, int], list[ServedList]] = defaultdict(list)
    for list_ in lists:
        groups[list_.epoch, list_.index_mark].append(list_)
    for (epoch, mark), group in groups.items():
        bundle = shop.bundles[epoch]
        view = CatalogueView(bundle, shop.plain.arrivals)
        for item in shop.items[:mark]:
            view.apply(item)
        view.mark = mark
        snapshots = [
            Snapshot(
                user_key(list_.tenant, list_.user_id),
                list_.tenant,
                list_.user_id,
                list_.version,
                list_.event_time,
                epoch,
                list_.snapshot,
            )
            for list_ in group
        ]
        for list_, ranked in zip(group, rank_batch(bundle, snapshots, view, shop.rank_settings), strict=True):
            assert (list_.rec_id, list_.model_version, list(list_.items)) == (
                ranked.rec_id,
                bundle.model_version,
                ranked.items,
            )


@contextmanager
def flowing(shop: RunningShop) -> Iterator[None]:
    """Let events flow from before this is entered until behind its end, however long it takes."""
    traffic, over = shop.next_traffic(TRAFFIC), threading.Event()

    def send() -> None:
        shop.deployment.produce(traffic, PER_S)
        is_last = False
        while not is_last:
            is_last = over.is_set()
            shop.deployment.produce([shop.event("search", f"flows-{n}") for n in range(100)], 100)

    read = shop.deployment.counts().get("events", 0)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        until(lambda: shop.deployment.counts().get("events", 0) > read, 60, "events to flow", 0.02)
        yield
    finally:
        over.set()
        sender.join()


def test_a_model_changes_under_flowing_events_and_every_list_is_of_one_epoch(shop: RunningShop) -> None:
    before = shop.catch_up_with_log()
    try:
        with flowing(shop):
            second = 1 + shop.deployment.activate(2, serving_timeout_s=60.0)
        between = shop.catch_up_with_log()
        lists = shop.deployment.records(SERVED, "ServedList", before)
        assert {list_.epoch for list_ in lists} == {1, 2}
        check_each_by_its_bundle(shop, lists)
        for list_ in lists:
            assert (list_.epoch == 2) == (int(list_.version[-12:], 16) == second)

        shop.deployment.produce(shop.probes("second"))
        shop.catch_up_with_log()
        new = shop.deployment.records(SERVED, "ServedList", between)
        assert len({list_.user_id for list_ in new}) == shop.deployment.settings.job.shards
        assert {list_.epoch for list_ in new} == {2}
        check_each_by_its_bundle(shop, new)
    finally:
        code, said = run(shop, "models", "rollback")
    assert code == 0, said
    # The items and categories of both bundles are equal, so states know no difference but the vector.
    shop.check_states()
    shop.check_lists()
    assert shop.deployment.redis.hget("model:current", "epoch") == "1"


def test_a_canary_shows_a_model_to_its_users_alone_and_is_taken_back_by_itself(shop: RunningShop) -> None:
    settings, before = shop.deployment.settings, shop.catch_up_with_log()
    plan = CanaryPlan(2, share=0.5)
    experiment = model_canary.start(settings, plan, force=True, timeout_s=180.0)
    running = RunningExperiments((experiment,))
    shop.deployment.produce(shop.probes("canary"))
    shop.catch_up_with_log()
    lists = shop.deployment.records(SERVED, "ServedList", before)
    assert {list_.epoch for list_ in lists} == {1, 2}
    for list_ in lists:
        label, changes = running.of_user(user_key(list_.tenant, list_.user_id))
        assert (list_.variant, list_.epoch) == (label, changes.get("epoch", 1))
    check_each_by_its_bundle(shop, lists)

    code, said = run(shop, "models", "shadow", "2", "--past", "--seconds", "0", "--lists", "64", "--json")
    assert code == 0, said
    found = json.loads(said)
    assert (found["serving"], found["candidate"]) == (1, 2)
    assert 0 < found["lists"] <= 64 and 0 < found["rbo"] < 1 and found["score_psi"] > 0

    shown = next(list_ for list_ in lists if list_.epoch == 2)
    code, said = run(shop, "recs", shown.user_id, "--rec-id", shown.rec_id, "--json")
    assert code == 0, said
    why = json.loads(said)["explain"]
    assert (why["rec_id"], why["epoch"], why["variant"]) == (shown.rec_id, 2, f"{experiment.name}=candidate")
    assert why["same_catalogue"] and why["same_settings"]
    for told, item in zip(why["items"], shown.items, strict=True):
        assert (told["item_id"], told["score"], told["slot_source"]) == (
            item.item_id,
            item.score,
            item.source,
        )
        assert abs(told["base"] + sum(told["contributions"].values()) - item.score) < 1e-5

    # No example tells of these lists: with its time over, nothing is known of the model.
    code, said = run(shop, "models", "canary", "2", "--hours", "0", "--least-lists", "1", "--every", "1")
    assert code == 1 and "nothing is known" in said
    assert read_running(settings).experiments == ()
    shop.catch_up_after_republish()
    shop.check_lists()  # of epoch 1, for users of the candidate too, who have done nothing since


@pytest.fixture
def spoiled(shop: RunningShop) -> Iterator[Path]:
    """A third bundle with one flipped bit."""
    root = shop.deployment.settings.model.root
    path = root / "3"
    shutil.copytree(root / "2", path)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "epoch": 3}))
    factors = bytearray((path / "factors.npy").read_bytes())
    factors[len(factors) // 2] ^= 1
    (path / "factors.npy").write_bytes(factors)
    yield path
    shutil.rmtree(path)


def test_a_spoiled_bundle_is_refused_with_a_reason_and_the_old_one_serves(
    shop: RunningShop, spoiled: Path
) -> None:
    code, said = run(shop, "models", "promote", "3")
    assert code == 1 and "hash" in said and "factors.npy" in said

    # Sent past the command, as by another release of it.
    shop.deployment.order("preload_epoch", epoch=3)
    until(
        lambda: any(
            "factors.npy" in worker.refused.get(3, "")
            for worker in model_epochs.workers(shop.deployment.redis)
        ),
        60,
        "a worker to say why it refuses the bundle",
    )
    offset = shop.deployment.order("activate_epoch", epoch=3)

    def letters() -> list:
        return [
            letter
            for letter in shop.deployment.records("recs.dead-letters.v1", "DeadLetter")
            if (letter.topic, letter.offset) == ("recs.control.v1", offset)
        ]

    until(lambda: letters(), 60, "the dead letter of the order")
    (letter,) = letters()
    assert letter.reason == "no_bundle" and "factors.npy" in letter.detail
    shop.deployment.produce(shop.probes("spoiled"))
    shop.catch_up()
    assert shop.deployment.state_of_job() == "RUNNING"
    shop.check_lists()
    for list_ in shop.deployment.records(SERVED, "ServedList")[-32:]:
        assert list_.epoch == 1
