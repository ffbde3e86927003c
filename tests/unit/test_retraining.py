"""Retraining: each step in its place, a line in the journal for each try, what serves left alone when one fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import NOW_MS, make_bundle, toy_trees
from typer.testing import CliRunner

from flink_jobs.settings import Settings, load
from model_export import sources
from model_export.lake.files import RawRecord, write_run
from schemas.codec import encode
from schemas.ids import user_key
from schemas.topics import EVENTS
from tailrace import model_retraining
from tailrace.bundle_keys import write_new_key
from tailrace.cli import app
from tailrace.commands.retrain import seconds_of
from tailrace.errors import UserError
from tailrace.model_canary import CanaryEnd
from tailrace.model_retraining import JOURNAL, RetrainPlan, retrain, retrain_every
from tailrace.model_switch import Activated
from tests.gate_shop import events_file
from udfs.experiments.canary import PROMOTE, REVERT, CanaryPlan
from udfs.model.bundle import Bundle


def write_lake(root: Path, folder: Path) -> None:
    """Write the shop of the gate's tests as a lake, a record an event."""
    log = sources.read(events_file(folder / "shop.jsonl"))
    write_run(
        root,
        EVENTS.name,
        [
            RawRecord(0, n, event.event_time, user_key(event.tenant, event.user_id).encode(), encode(event))
            for n, event in enumerate(log)
        ],
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    root = tmp_path / "lake"
    write_lake(root, tmp_path)
    return load(
        model={"root": tmp_path / "models"},
        lake={"root": root},
        registry={"uri": ""},
        gate={"most_calibration_error": 5.0},
    )


class World:
    """What serves, and what a training makes: a toy bundle, as good or bad as asked."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, settings: Settings, active: int | None = None
    ) -> None:
        self.active, self.good, self.asked = active, True, list[Any]()
        self.calls: list[str] = []
        self.end = CanaryEnd(PROMOTE, "no harm", "canary-2-1", 3, None)
        self._settings = settings
        patch = monkeypatch.setattr
        patch(model_retraining, "_train", self.train)
        patch(model_retraining, "newest_examples", lambda _: [])
        patch(model_retraining.model_epochs, "active_epoch", lambda _: self.active)
        patch(model_retraining.model_switch, "activate", self.activate)
        patch(model_retraining.model_switch, "publish_pointer", lambda *_: self.calls.append("publish"))
        patch(model_retraining, "_try_on_users", self.try_on_users)

    def train(self, _: Settings, plan: RetrainPlan, until: str, epoch: int, tell: object) -> Path:
        self.asked.append((until, epoch, plan.window_days))
        trees = toy_trees()
        worse = trees.__class__(trees.features, trees.thresholds, -trees.leaves)
        path = self._settings.model.root / str(epoch)
        make_bundle(path, epoch=epoch, trees=trees if self.good else worse)
        return path

    def activate(self, _: Settings, epoch: int, **__: object) -> Activated:
        self.calls.append("switch")
        self.active = epoch
        return Activated(epoch, "toy", "ab", 2, True, 0, 0.1)

    def try_on_users(
        self, _: Settings, plan: CanaryPlan, every_s: float, say: Callable[[str], None]
    ) -> CanaryEnd:
        self.calls.append(f"canary {plan.epoch} {plan.share}")
        return self.end


def lines(settings: Settings) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (settings.model.root / JOURNAL).read_text().splitlines()]


def test_the_first_model_is_switched_to_and_the_next_is_tried_on_users(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(monkeypatch, settings)
    plan = RetrainPlan(window_days=30.0, canary=CanaryPlan(1, 0.2))
    first = retrain(settings, plan)
    assert (first.epoch, first.outcome, world.calls) == (1, "serves", ["switch"])
    assert list(first.steps) == ["lake", "train", "gate", "switch"]
    second = retrain(settings, plan)
    assert (second.epoch, second.outcome, world.calls[1:]) == (2, "serves", ["canary 2 0.2"])
    # The toy bundles know what came before the events of 2025-10-10: that day is held back.
    assert world.asked == [("2025-10-10", 1, 30.0), ("2025-10-10", 2, 30.0)]
    assert [line["outcome"] for line in lines(settings)] == ["serves", "serves"]
    assert NOW_MS < 1_760_054_400_000


def test_more_days_can_be_held_back(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, settings)
    retrain(settings, RetrainPlan(held_days=3))
    assert world.asked[0][0] == "2025-10-08"


def test_a_model_that_does_not_pass_the_gate_is_no_users(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(monkeypatch, settings)
    retrain(settings, RetrainPlan())
    world.good = False
    run = retrain(settings, RetrainPlan())
    assert run.outcome == "not passed" and "ndcg_over_serving" in run.why and not run.succeeded
    assert world.calls == ["switch"] and world.active == 1


def test_a_model_that_users_reject_is_in_the_journal(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(monkeypatch, settings)
    retrain(settings, RetrainPlan())
    world.end = world.end._replace(word=REVERT, why="its ctr is certainly lower")
    assert not retrain(settings, RetrainPlan()).succeeded
    assert lines(settings)[-1]["outcome"] == "taken back"


def test_only_announced_it_waits_for_somebody(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, settings, active=None)
    run = retrain(settings, RetrainPlan(then="publish"))
    assert (run.outcome, world.calls, run.why) == ("published", ["publish"], "tailrace models promote 1")


def test_with_a_key_bundle_and_verdict_are_signed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = tmp_path / "key.pem"
    public = write_new_key(key)
    trusting = settings.model_copy(
        update={"model": settings.model.model_copy(update={"trusted_keys": (public,)})}
    )
    World(monkeypatch, trusting)
    assert retrain(trusting, RetrainPlan(key=key)).succeeded
    assert Bundle.open(settings.model.root / "1", trusted_keys=[public]).epoch == 1
    with pytest.raises(UserError, match="signature"):
        retrain(trusting, RetrainPlan())


def test_a_lake_that_is_away_is_an_error_and_the_next_try_goes_well(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(monkeypatch, settings, active=None)
    away = settings.lake.root.rename(settings.lake.root.with_name("away"))
    told: list[str] = []
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 1:
            away.rename(settings.lake.root)
        else:
            raise KeyboardInterrupt

    now = iter([0.0, 10.0, 3_600.0, 9_000.0])
    with pytest.raises(KeyboardInterrupt):
        retrain_every(settings, RetrainPlan(), 3_600.0, say=told.append, sleep=sleep, clock=lambda: next(now))
    assert slept == [3_590.0, 0.0], "counted from where the last try began; a late one does not wait"
    assert "TR-390" in told[0] and "no such folder" in told[0]
    assert told[-1] == "serves: it passed the gate"
    failed, done = lines(settings)
    assert (failed["outcome"], failed["epoch"], list(failed["steps"])) == ("failed", None, ["lake"])
    assert failed["why"].startswith("TR-390") and done["outcome"] == "serves"
    assert world.calls == ["switch"]


def test_a_step_that_fails_is_the_last_one_in_the_journal(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(monkeypatch, settings)

    def refuse(*_: object, **__: object) -> Activated:
        raise UserError("TR-353", "0 of 2 rank workers hold it")

    monkeypatch.setattr(model_retraining.model_switch, "activate", refuse)
    with pytest.raises(UserError, match="rank workers"):
        retrain(settings, RetrainPlan())
    (line,) = lines(settings)
    assert (line["outcome"], line["epoch"], list(line["steps"])[-1]) == ("failed", 1, "switch")
    assert world.active is None


def test_the_command_says_by_its_exit_code_how_it_went(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = World(monkeypatch, settings)
    config = tmp_path / "tailrace.toml"
    config.write_text(
        f"[model]\nroot = '{settings.model.root}'\n[lake]\nroot = '{settings.lake.root}'\n"
        "[registry]\nuri = ''\n[gate]\nmost_calibration_error = 5.0\n"
    )

    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["retrain", *words, "--config", str(config)])

    done = run("--once", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["outcome"] == "serves"
    world.good = False
    assert run("--once").exit_code == 1
    assert getattr(run().exception, "number", "") == "TR-391"
    assert getattr(run("--once", "--then", "pray").exception, "number", "") == "TR-391"


def test_an_interval_says_its_unit() -> None:
    assert seconds_of("7d") == 7 * 86_400
    for text in ("24", "h", "0h", "-1h", "1 day"):
        with pytest.raises(UserError, match="interval"):
            seconds_of(text)
