"""Retraining from the lake: train, sign, gate, then a canary or a switch, with a line in a journal for each try."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from flink_jobs.settings import Settings
from tailrace import bundle_keys, model_canary, model_epochs, model_switch
from tailrace.commands.model_gate import gate_bundle, newest_examples
from tailrace.commands.train import train_settings
from tailrace.errors import UserError
from tailrace.model_registry import record_switch, record_training
from udfs.experiments.canary import PROMOTE, CanaryPlan

JOURNAL = "retraining.jsonl"
CANARY, SWITCH, PUBLISH = "canary", "switch", "publish"
THEN = (CANARY, SWITCH, PUBLISH)
"""What is done with a bundle that passed the gate: tried on a share of the users, switched to, or announced."""
SERVES, PUBLISHED, NOT_PASSED, TAKEN_BACK, FAILED = (
    "serves",
    "published",
    "not passed",
    "taken back",
    "failed",
)
Tell = Callable[[str, float], None]


class RetrainPlan(NamedTuple):
    """How a model is made anew.

    Attributes
    ----------
    window_days
        Of events before the cut to learn from; None: all.
    held_days
        Of the newest events that are not learnt from: the gate measures on them.
    then
        One of `THEN`.
    key
        That signs bundle and verdict; None: unsigned.
    canary
        How it is tried; its epoch is that of the new bundle.
    seed
        Of all random numbers.
    look_every_s
        Between two looks of the canary.
    """

    window_days: float | None = None
    held_days: int = 1
    then: str = CANARY
    key: Path | None = None
    canary: CanaryPlan = CanaryPlan(1)
    seed: int = 0
    look_every_s: float = 60.0


@dataclass
class RetrainRun:
    """One try, as the journal keeps it.

    Parameters
    ----------
    started
        Time in UTC.
    epoch
        Of the bundle; None: none was made.
    outcome
        One of the words above.
    why
        In a sentence.
    steps
        Name to seconds, in order; the last one is where a try that failed has failed.
    """

    started: str
    epoch: int | None = None
    outcome: str = FAILED
    why: str = ""
    steps: dict[str, float] = field(default_factory=dict)

    @property
    def succeeded(self) -> bool:
        """Whether the new model serves, or is announced as was asked."""
        return self.outcome in (SERVES, PUBLISHED)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step."""
        began_s = time.monotonic()
        try:
            yield
        finally:
            self.steps[name] = round(time.monotonic() - began_s, 3)


def retrain(
    settings: Settings,
    plan: RetrainPlan,
    *,
    say: Callable[[str], None] = lambda line: None,
    tell: Tell | None = None,
) -> RetrainRun:
    """Try once, and write the journal whatever comes of it; what serves goes on serving until the last step.

    Raises
    ------
    UserError
        With the number of the step that failed, TR-390 for a lake that cannot be read. It is in the journal too.
    """
    run = RetrainRun(datetime.now(UTC).isoformat(timespec="seconds"))
    try:
        _steps(settings, plan, run, say, tell)
    except UserError as error:
        run.why = f"{error.number}: {error.what}"
        raise
    except KeyboardInterrupt:
        run.why = "interrupted"
        raise
    finally:
        _write(settings, run)
    return run


def retrain_every(
    settings: Settings,
    plan: RetrainPlan,
    every_s: float,
    *,
    say: Callable[[str], None],
    tell: Tell | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Try again and again, each time `every_s` after the last try began, until interrupted."""
    while True:
        began_s = clock()
        try:
            run = retrain(settings, plan, say=say, tell=tell)
            say(f"{run.outcome}: {run.why}")
        except UserError as error:
            say(f"{FAILED}: {error}")
        sleep(max(every_s - (clock() - began_s), 0.0))


def _steps(
    settings: Settings, plan: RetrainPlan, run: RetrainRun, say: Callable[[str], None], tell: Tell | None
) -> None:
    with run.step("lake"):
        until = _last_day(settings.lake.root) - timedelta(days=plan.held_days - 1)
    epoch = 1 + max((bundle.epoch for bundle in model_epochs.bundles_on_disk(settings.model)), default=0)
    say(f"epoch {epoch}: learns from what lies before {until:%Y-%m-%d}")
    with run.step("train"):
        folder = _train(settings, plan, f"{until:%Y-%m-%d}", epoch, tell)
        run.epoch = epoch
    if plan.key is not None:
        with run.step("sign"):
            bundle_keys.sign_bundle(folder, plan.key)
    bundle = model_epochs.open_bundle(settings, epoch)
    record_training(settings.registry, bundle.manifest, bundle.manifest_sha256, folder)
    active = model_epochs.active_epoch(settings)
    with run.step("gate"):
        verdict = gate_bundle(
            settings, epoch, active, settings.lake.root, newest_examples(settings), plan.key, plan.seed
        )
    if not verdict.passed:
        run.outcome, run.why = NOT_PASSED, "; ".join(verdict.failures())
    elif plan.then == PUBLISH:
        with run.step("publish"):
            model_switch.publish_pointer(settings, bundle, "publish")
        run.outcome, run.why = PUBLISHED, f"tailrace models promote {epoch}"
    elif plan.then == SWITCH or active is None:  # beside nothing there is nothing to compare with
        with run.step("switch"):
            done = model_switch.activate(settings, epoch, say=say)
        record_switch(settings.registry, done.manifest_sha256, epoch, "retrain")
        run.outcome, run.why = SERVES, "it passed the gate"
    else:
        with run.step("canary"):
            found = _try_on_users(settings, plan.canary._replace(epoch=epoch), plan.look_every_s, say)
        run.outcome, run.why = (SERVES if found.word == PROMOTE else TAKEN_BACK), found.why


def _try_on_users(
    settings: Settings, plan: CanaryPlan, every_s: float, say: Callable[[str], None]
) -> model_canary.CanaryEnd:
    experiment = model_canary.start(settings, plan)
    found = model_canary.watch(settings, plan, experiment, every_s=every_s, say=say)
    model_canary.end(settings, plan, found, say=say)
    model_canary.clear(settings, found)
    return found


def _last_day(lake: Path) -> datetime:
    """Return the newest day of events in the lake.

    Raises
    ------
    UserError
        TR-390 when the folder is not there, or holds no events.
    """
    from model_export.lake.files import files_of
    from schemas.topics import EVENTS

    try:
        days = [file.day for file in files_of(lake, EVENTS.name)] if lake.is_dir() else []
    except OSError as error:
        raise _no_lake(lake, str(error)) from error
    if not days:
        raise _no_lake(lake, "no events there" if lake.is_dir() else "no such folder")
    return datetime.combine(max(days), datetime.min.time(), UTC)


def _no_lake(lake: Path, detail: str) -> UserError:
    return UserError(
        "TR-390",
        f"the lake {lake} cannot be learnt from: {detail}",
        "its disk is away, lake.root names another folder, or nothing was copied yet",
        "tailrace lake ls; tailrace lake run --once",
    )


def _train(settings: Settings, plan: RetrainPlan, until: str, epoch: int, tell: Tell | None) -> Path:
    from model_export.sources import SourceError
    from model_export.train import TrainingError, train

    try:
        return train(
            train_settings(settings),
            settings.lake.root,
            until,
            epoch,
            root=settings.model.root,
            seed=plan.seed,
            created_ms=time.time_ns() // 1_000_000,
            tell=tell,
            window_days=plan.window_days,
        ).path
    except (SourceError, TrainingError, FileExistsError) as error:
        raise UserError("TR-501", str(error), fix="tailrace lake ls; tailrace models ls") from error
    except OSError as error:
        raise _no_lake(settings.lake.root, str(error)) from error


def _write(settings: Settings, run: RetrainRun) -> None:
    """Append to the journal; one line a try, so that what was written before stands whatever happens."""
    settings.model.root.mkdir(parents=True, exist_ok=True)
    line = json.dumps(vars(run)) + "\n"
    with (settings.model.root / JOURNAL).open("a", encoding="utf-8") as journal:
        journal.write(line)
