"""A model on a share of the users: promoted where it does no harm, taken back by itself where it does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bundles import NOW_MS, make_bundle
from typer.testing import CliRunner

from flink_jobs.settings import Settings, load
from schemas.ids import user_key
from schemas.records import Example, ExampleItem
from tailrace import model_canary, model_switch
from tailrace.cli import app
from tailrace.counted_examples import sum_variants
from tailrace.errors import UserError
from tailrace.experiment_orders import Standing, standing
from tailrace.model_switch import Activated
from udfs.experiments.canary import (
    CANDIDATE,
    PROMOTE,
    REVERT,
    SERVING,
    WAIT,
    CanaryPlan,
    canary_experiment,
    decide,
)
from udfs.experiments.experiment import Experiment, Variant
from udfs.experiments.running import RunningExperiments
from udfs.experiments.variant_sums import VariantSums
from udfs.experiments.verdict import Verdict

PLAN = CanaryPlan(3, 0.1, hours=48.0, least_lists=500)
START_S = 1_800_000_000
NOBODY = RunningExperiments()


def examples(experiment: Experiment, rates: dict[str, float], users: int, seed: int = 0) -> Iterator[Example]:
    """Lists of users, dealt as the job deals them, clicked as often as their variant's rate says."""
    rng, running = np.random.default_rng(seed), RunningExperiments((experiment,))
    for user in range(users):
        label, _ = running.of_user(user_key("default", f"u{user}"))
        if not label:
            continue
        rate = rates[label.split("=")[1]]
        for number in range(2):
            clicked = bool(rng.random() < rate)
            slot = ExampleItem("a", 0, 0, "ranker", 1.0, 0.9, "click", float(clicked), clicked, False, False, 0.0,
                               0.0)  # fmt: skip
            yield Example(f"{user}/{number}", "default", f"u{user}", "0", NOW_MS, NOW_MS, NOW_MS, 1, "m", label, 0,
                          (slot,), b"")  # fmt: skip


def look_at(rates: dict[str, float], users: int) -> Standing:
    experiment = canary_experiment(CanaryPlan(3, 0.5), NOBODY, START_S, "list")
    return standing(experiment, sum_variants(examples(experiment, rates, users)))


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5, 0.8])
def test_the_candidate_gets_the_share_of_the_users_that_was_asked_for(share: float) -> None:
    experiment = canary_experiment(CanaryPlan(3, share), NOBODY, START_S, "list")
    running = NOBODY.start(experiment)
    settings = [running.of_user(user_key("default", f"u{user}"))[1] for user in range(20_000)]
    given = np.mean([one.get("epoch") == 3 for one in settings])
    assert given == pytest.approx(share, abs=0.01)
    assert running.epochs() == [3]


def test_a_canary_takes_users_that_no_other_experiment_has() -> None:
    other = Experiment("spread", "list", 0, 3_000, (Variant("a", 1, {}), Variant("b", 1, {"diversity": 0.3})))
    running = NOBODY.start(other)
    experiment = canary_experiment(PLAN, running, START_S, "list")
    assert experiment.first_bucket == 3_000
    running.start(experiment)
    with pytest.raises(ValueError, match="users left"):
        canary_experiment(CanaryPlan(3, 0.8), running, START_S, "list")
    with pytest.raises(ValueError, match="share"):
        canary_experiment(CanaryPlan(3, 1.0), NOBODY, START_S, "list")


def test_a_harmful_model_is_taken_back_before_its_time_is_over() -> None:
    found = look_at({SERVING: 0.30, CANDIDATE: 0.20}, 6_000)
    assert decide(PLAN, found.verdict, found.sums[CANDIDATE], 1.0)[0] == REVERT


def test_a_better_model_is_promoted_before_its_time_is_over() -> None:
    found = look_at({SERVING: 0.20, CANDIDATE: 0.30}, 6_000)
    assert decide(PLAN, found.verdict, found.sums[CANDIDATE], 1.0) == (
        PROMOTE,
        "its ctr is certainly higher",
    )


def test_a_model_as_good_waits_and_is_promoted_at_the_end() -> None:
    found = look_at({SERVING: 0.25, CANDIDATE: 0.25}, 4_000)
    assert decide(PLAN, found.verdict, found.sums[CANDIDATE], 47.9)[0] == WAIT
    assert decide(PLAN, found.verdict, found.sums[CANDIDATE], 48.0)[0] == PROMOTE


def test_of_which_too_little_is_known_at_the_end_is_taken_back() -> None:
    few = VariantSums(users=100, lists=499)
    assert decide(PLAN, Verdict("running", "", ()), few, 47.0)[0] == WAIT
    word, why = decide(PLAN, Verdict("running", "", ()), few, 48.0)
    assert word == REVERT and "nothing is known" in why


def test_users_that_were_not_dealt_as_planned_end_it() -> None:
    assert decide(PLAN, Verdict("sample_ratio", "", ()), VariantSums(lists=9_000), 1.0)[0] == REVERT


class World:
    """Broker and job in memory: what was ordered, and what time it is."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, rates: dict[str, float], active: int | None = 1
    ) -> None:
        self.running, self.activated, self.now_s, self.down = NOBODY, list[int](), float(START_S), 0
        self.rates, self.orders = rates, list[str]()
        patch = monkeypatch.setattr
        patch(model_canary, "read_running", lambda _: self.running)
        patch(model_canary, "order_running", lambda _, running, reason: setattr(self, "running", running))
        patch(model_canary.model_epochs, "active_epoch", lambda _: active)
        patch(model_canary.model_switch, "preload", lambda *_: 2)
        patch(model_canary.model_switch, "publish_pointer", lambda *_: None)
        patch(model_canary.model_switch, "send_order", lambda _, kind, reason: self.orders.append(kind))
        patch(model_canary.model_switch, "activate", self.activate)
        patch(model_canary.time, "time", lambda: self.now_s)

    def activate(self, _: Settings, epoch: int, **__: object) -> Activated:
        self.activated.append(epoch)
        return Activated(epoch, "toy", "ab", 2, True, 0, 0.1)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def look(self, experiment: Experiment) -> Standing:
        """More users come every hour; now and then the broker is away."""
        hours = (self.now_s - START_S) / 3_600
        self.down += 1
        if self.down % 3 == 0:
            raise UserError("TR-300", "no broker")
        return standing(experiment, sum_variants(examples(experiment, self.rates, int(400 * hours), 1)))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(
        model={"root": tmp_path / "models"}, redis={"url": "redis://127.0.0.1:1/0"}, registry={"uri": ""}
    )


def run(world: World, settings: Settings, plan: CanaryPlan) -> model_canary.CanaryEnd:
    make_bundle(settings.model.root / "3", epoch=3)
    experiment = model_canary.start(settings, plan, force=True)
    assert world.running.find(experiment.name) == experiment and not world.activated
    found = model_canary.watch(
        settings,
        plan,
        experiment,
        every_s=3_600.0,
        look=lambda: world.look(experiment),
        sleep=world.sleep,
        clock=lambda: world.now_s,
    )
    model_canary.end(settings, plan, found)
    model_canary.clear(settings, found)
    return found


def test_from_the_start_to_the_way_back_without_anybody(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(monkeypatch, {SERVING: 0.30, CANDIDATE: 0.15})
    found = run(world, settings, CanaryPlan(3, 0.5, hours=40.0, least_lists=500))
    assert found.word == REVERT and found.looks > 1
    assert world.now_s < START_S + 40 * 3_600, "before its time was over"
    assert world.running == NOBODY and world.activated == []
    assert world.orders == ["republish"], "users who have its lists do not keep them"


def test_from_the_start_to_the_promotion_without_anybody(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(monkeypatch, {SERVING: 0.25, CANDIDATE: 0.25})
    found = run(world, settings, CanaryPlan(3, 0.5, hours=10.0, least_lists=500))
    assert found.word == PROMOTE and "no harm" in found.why
    assert world.running == NOBODY and world.activated == [3] and world.orders == []
    assert model_canary.plain(found)["lists"][CANDIDATE] >= 500


def test_a_canary_that_somebody_stops_is_over_at_the_next_look(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(monkeypatch, {SERVING: 0.25, CANDIDATE: 0.25})

    def sleep(seconds: float) -> None:
        world.sleep(seconds)
        world.running = NOBODY

    make_bundle(settings.model.root / "3", epoch=3)
    plan = CanaryPlan(3, 0.5)
    experiment = model_canary.start(settings, plan, force=True)
    found = model_canary.watch(
        settings,
        plan,
        experiment,
        look=lambda: world.look(experiment),
        sleep=sleep,
        clock=lambda: world.now_s,
    )
    assert (found.word, found.why, found.looks) == (REVERT, "somebody has stopped it", 2)
    model_canary.end(settings, plan, found)
    assert world.running == NOBODY and world.activated == []


def test_a_canary_that_runs_is_watched_on_and_not_started_twice(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(monkeypatch, {})
    make_bundle(settings.model.root / "3", epoch=3)
    first = model_canary.start(settings, PLAN, force=True)
    world.sleep(100.0)
    assert model_canary.start(settings, PLAN, force=True) == first
    assert len(world.running.experiments) == 1


def test_without_a_passed_gate_or_beside_nothing_no_user_gets_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(monkeypatch, {})
    make_bundle(settings.model.root / "3", epoch=3)
    with pytest.raises(UserError, match="no verdict"):
        model_canary.start(settings, PLAN)
    World(monkeypatch, {}, active=None)
    with pytest.raises(UserError, match="nothing serves"):
        model_canary.start(settings, PLAN, force=True)
    World(monkeypatch, {}, active=3)
    with pytest.raises(UserError, match="serves already"):
        model_canary.start(settings, PLAN, force=True)
    assert world.running == NOBODY


def test_a_worker_that_refuses_the_bundle_ends_it_before_it_starts(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(monkeypatch, {})

    def refuse(*_: object) -> int:
        raise UserError("TR-352", "epoch 3: worker w refuses it")

    monkeypatch.setattr(model_canary.model_switch, "preload", refuse)
    make_bundle(settings.model.root / "3", epoch=3)
    with pytest.raises(UserError, match="refuses it"):
        model_canary.start(settings, PLAN, force=True)
    assert world.running == NOBODY


def test_an_activation_ends_an_epoch_that_an_experiment_has_promoted(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordered: list[RunningExperiments] = []
    promoted = RunningExperiments(promoted={"epoch": 2, "diversity": 0.3})
    monkeypatch.setattr(model_switch, "read_running", lambda _: promoted)
    monkeypatch.setattr(model_switch, "order_running", lambda _, running, reason: ordered.append(running))
    model_switch._drop_promoted_epoch(settings, 3)
    assert [one.promoted for one in ordered] == [{"diversity": 0.3}]


def test_the_command_says_how_it_ended(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ends = iter([PROMOTE, REVERT])
    experiment = canary_experiment(PLAN, NOBODY, START_S, "list")
    monkeypatch.setattr(model_canary, "start", lambda *_, **__: experiment)
    monkeypatch.setattr(
        model_canary, "watch",
        lambda *_, **__: model_canary.CanaryEnd(next(ends), "a reason", experiment.name, 1, None),
    )  # fmt: skip
    monkeypatch.setattr(model_canary, "end", lambda *_, **__: None)
    cleared: list[str] = []
    monkeypatch.setattr(model_canary, "clear", lambda _, found: cleared.append(found.word))
    done = CliRunner().invoke(app, ["models", "canary", "3", "--share", "0.1"])
    assert done.exit_code == 0 and "epoch 3 is promoted: a reason" in done.output
    done = CliRunner().invoke(app, ["models", "canary", "3", "--json"])
    assert done.exit_code == 1 and '"ended": "revert"' in done.output
    assert cleared == [PROMOTE, REVERT]
