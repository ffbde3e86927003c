"""The life of a model beside a running job: learnt from the lake, refused or tried on users, promoted or taken back.

Users' events, lists, impressions and clicks go through Kafka, and the verdict is that of `recs.examples.v1`. What the
feedback job would write there is joined by its reference: it needs the slots of the recommend job, and
`test_feedback.py` compares the two.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from typer.testing import CliRunner

from flink_jobs.settings import Settings, load
from schemas.codec import encode
from schemas.ids import user_key
from schemas.records import Event, EventItem, ServedList
from tailrace import bundle_keys, model_canary, model_epochs
from tailrace.cli import app
from tailrace.experiment_orders import order_running, read_running
from tailrace.model_retraining import JOURNAL, RetrainPlan, RetrainRun, retrain
from tests.stack.deployment import until
from tests.stack.feedback_log import Sent, wanted
from tests.stack.running_shop import EVENTS, SERVED, RunningShop
from tests.stack.shop import CUT_MS, DAY_MS, HOUR_MS
from udfs.experiments.canary import CANDIDATE, PROMOTE, REVERT, SERVING, CanaryPlan
from udfs.experiments.running import RunningExperiments
from udfs.model.bundle import Bundle
from udfs.model.signature import SIGNATURE

pytestmark = pytest.mark.stack
EXAMPLES = "recs.examples.v1"
WALKERS, DAYS, VISITORS = 100, 10, 300
OTHERS = 9
"""A folder beside the bundles, so that what is made here has numbers that no other test has."""


def walks(shop: RunningShop) -> list[Event]:
    """Users who come every day and go on along the items where they stopped: what a model learns in a second."""
    items, made = shop.known_items(300), []
    newest_ms = max(shop.now_ms, CUT_MS + DAY_MS) // DAY_MS * DAY_MS
    now_ms = max(shop.now_ms, newest_ms + HOUR_MS)
    for day in range(DAYS):
        for user in range(WALKERS):
            for step in range(3):
                at_ms = newest_ms - (DAYS - 1 - day) * DAY_MS + 10_000 * user + 3_000 * step
                item = items[(7 * user + 2 * day + step) % len(items)]
                event = shop.event("view", f"walker-{user}", item)
                made.append(event._replace(event_time=at_ms, received_time=at_ms))
    shop.now_ms = now_ms
    return made


@pytest.fixture
def learning(shop: RunningShop, tmp_path: Path) -> Iterator[Settings]:
    """The shop with a lake and a key that is trusted; what the tests make is gone afterwards."""
    root, key = shop.deployment.settings.model.root, tmp_path / "key.pem"
    given = shop.deployment.settings.model_dump(exclude_unset=True)
    given["lake"] = {"root": str(tmp_path / "lake")}
    given["model"]["trusted_keys"] = [bundle_keys.write_new_key(key)]
    given["registry"], given["gate"] = {"uri": ""}, {"most_calibration_error": 5.0}
    before = set(root.iterdir())
    (root / str(OTHERS)).mkdir()
    bundle_keys.sign_bundle(root / "1", key)
    yield load(environment={}, **given)
    (root / "1" / SIGNATURE).unlink()
    for path in set(root.iterdir()) - before:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_a_model_learnt_from_the_lake_is_refused_by_the_gate_or_tried_on_users_and_serves(
    shop: RunningShop, learning: Settings, tmp_path: Path
) -> None:
    deployment, settings, key = shop.deployment, learning, tmp_path / "key.pem"
    deployment.produce(walks(shop))
    shop.catch_up()
    config = deployment.write_config("life.toml", settings)
    copied = CliRunner().invoke(app, ["lake", "run", "--once", "--json", "--config", str(config)])
    assert copied.exit_code == 0, copied.output

    plan = RetrainPlan(DAYS + 1.0, key=key, canary=CanaryPlan(1, 0.5), look_every_s=0.5)
    strict = settings.gate.model_copy(update={"least_over_popularity": 1e6})
    refused = retrain(settings.model_copy(update={"gate": strict}), plan)
    assert (refused.epoch, refused.outcome) == (OTHERS + 1, "not passed")
    assert refused.why.startswith("ndcg_over_popularity")
    assert read_running(settings).experiments == ()
    assert refused.epoch not in {one.epoch for one in model_epochs.read_pointers(settings)}

    epoch, runs = OTHERS + 2, list[RetrainRun]()
    Thread(target=lambda: runs.append(retrain(settings, plan)), daemon=True).start()
    try:
        until(lambda: runs or read_running(settings).experiments, 180, "the canary to start")
        assert not runs, runs
        shown = visit(shop, "retrained", CANDIDATE)
        # Somebody comes now and then: the switch waits for a first list of the new epoch.
        until(lambda: nudge(shop, shown[0].user_id) or runs, 120, "the canary to end", 0.3)
    finally:
        if not runs:
            order_running(settings, RunningExperiments(), "a test has failed")
    (done,) = runs
    assert {one.epoch for one in shown} == {1, epoch}
    try:
        assert (done.outcome, done.why) == ("serves", "its ctr is certainly higher")
        assert list(done.steps) == ["lake", "train", "sign", "gate", "canary"]
        assert Bundle.open(
            settings.model.root / str(epoch), trusted_keys=settings.model.trusted_keys
        ).epoch == epoch  # fmt: skip
        journal = (settings.model.root / JOURNAL).read_text().splitlines()
        assert [json.loads(line)["outcome"] for line in journal] == ["not passed", "serves"]
        assert model_epochs.active_epoch(settings) == epoch and not read_running(settings).experiments
        walkers = [user_key("default", f"walker-{user}") for user in range(WALKERS)]
        deployment.order("republish")
        until(
            lambda: {one.get("_epoch") for one in deployment.lists(walkers).values()} == {str(epoch)},
            60,
            "every walker's list to be the new model's",
        )
        following = [
            item.item_id
            for one in deployment.lists(walkers).values()
            for item in one["items"][:3]
        ]  # fmt: skip
        assert len(set(following)) > 50
    finally:
        deployment.activate(1)
    # The plain run has one bundle's categories: who clicked beside another is forgotten.
    deployment.produce(shop.event("view", one.user_id, "any", consent="none") for one in shown)
    deployment.wait_until_read()
    shop.skip_to(deployment.rows(EVENTS))
    shop.check_states()
    shop.check_lists()


def test_a_model_that_users_turn_away_from_is_taken_back_from_what_they_did(shop: RunningShop) -> None:
    settings, plan = shop.deployment.settings, CanaryPlan(2, share=0.5)
    experiment = model_canary.start(settings, plan, force=True, timeout_s=120.0)
    shown = visit(shop, "harmed", SERVING)
    assert {one.epoch for one in shown} == {1, 2}
    found = model_canary.watch(settings, plan, experiment, every_s=0.5)
    assert (found.word, found.why) == (
        REVERT,
        "its ctr is certainly more than 5 % below that of what serves",
    )
    assert found.last is not None
    assert found.last.sums[CANDIDATE].lists + found.last.sums[SERVING].lists == VISITORS
    assert found.word != PROMOTE
    model_canary.end(settings, plan, found)
    assert model_epochs.active_epoch(settings) == 1 and not read_running(settings).experiments
    before = shop.catch_up_with_log()
    shop.deployment.produce(shop.event("search", one.user_id) for one in shown)
    shop.catch_up()
    shop.catch_up_with_log()
    after = shop.deployment.records(SERVED, "ServedList", before)
    assert {one.epoch for one in after} == {1} and {one.user_id for one in shown} <= {
        one.user_id for one in after
    }
    shop.check_lists()


def nudge(shop: RunningShop, user_id: str) -> None:
    """Let a user search."""
    shop.deployment.produce([shop.event("search", user_id)])


def visit(shop: RunningShop, name: str, answers: str) -> list[ServedList]:
    """Let visitors see their lists and click, in one variant each and else each third; write the examples."""
    deployment = shop.deployment
    served, sent = len(deployment.rows(SERVED)), len(deployment.rows(EVENTS))
    users = {f"{name}-{number}" for number in range(VISITORS)}
    deployment.produce(shop.event("search", user) for user in sorted(users))
    lists: dict[str, ServedList] = {}

    def all_there() -> bool:
        lists.update(
            (one.user_id, one)
            for one in deployment.records(SERVED, "ServedList", served)
            if one.user_id in users
        )
        return len(lists) == VISITORS

    until(all_there, 60, lambda: f"{VISITORS} lists, there are {len(lists)}", 0.3)
    did: list[Event] = []
    for number, one in enumerate(lists.values()):
        items = tuple(EventItem(item.item_id, place) for place, item in enumerate(one.items))
        did.append(shop.event("impression", one.user_id, rec_id=one.rec_id, items=items))
        if one.variant.endswith(f"={answers}") or number % 3 == 0:
            did.append(shop.event("click", one.user_id, one.items[0].item_id, rec_id=one.rec_id))
    deployment.produce(did)
    deployment.wait_until_read()
    records = [Sent(one.timestamp, SERVED, one.key or b"", one.value or b"")
               for one in deployment.rows(SERVED)[served:]]  # fmt: skip
    records += [Sent(one.timestamp, EVENTS, one.key or b"", one.value or b"")
                for one in deployment.rows(EVENTS)[sent:]]  # fmt: skip
    examples, _ = wanted(records, deployment.settings.feedback.rules)
    assert len(examples) == VISITORS
    deployment.produce_raw(
        EXAMPLES,
        [(user_key(one.tenant, one.user_id).encode(), encode(one)) for one in examples.values()],
        shop.now_ms,
    )
    return list(lists.values())
