"""A canary: started after the gate, watched, and ended by itself in a promotion or a way back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from flink_jobs.settings import Settings
from tailrace import model_epochs, model_switch, model_verdict
from tailrace.connections import store
from tailrace.errors import ExitCode, UserError
from tailrace.experiment_orders import Standing, order_running, read_running
from tailrace.model_registry import record_switch
from tailrace.running_standing import RunningStanding
from udfs.experiments.canary import (
    CANDIDATE,
    PROMOTE,
    REVERT,
    WAIT,
    CanaryPlan,
    canary_experiment,
    canary_prefix,
    decide,
)
from udfs.experiments.experiment import Experiment

HOUR_S = 3_600.0
Say = Callable[[str], None]


class CanaryEnd(NamedTuple):
    """How a canary ended: `promote` or `revert`, why, its experiment, and the last look."""

    word: str
    why: str
    experiment: str
    looks: int
    last: Standing | None


def start(
    settings: Settings, plan: CanaryPlan, *, force: bool = False, layer: str = "list", timeout_s: float = 60.0
) -> Experiment:
    """Start a canary, or give the one of this epoch that runs already.

    Raises
    ------
    UserError
        As `model_verdict.require_passed`; TR-352 or TR-353 when a worker does not take the bundle; TR-385 where
        nothing serves, the epoch serves already, or the layer has no room.
    """
    running = read_running(settings)
    for one in running.experiments:
        if one.name.startswith(canary_prefix(plan.epoch)):
            return one
    active = model_epochs.active_epoch(settings)
    if active is None or active == plan.epoch:
        what = "nothing serves that it could be tried beside" if active is None else "it serves already"
        raise UserError(
            "TR-385", f"epoch {plan.epoch}: {what}", fix="tailrace models ls", exit_code=ExitCode.USAGE
        )
    bundle = model_epochs.open_bundle(settings, plan.epoch)
    if not force:
        model_verdict.require_passed(settings, bundle, active)
    try:
        experiment = canary_experiment(plan, running, int(time.time()), layer)
        started = running.start(experiment)
    except ValueError as error:
        fix = "tailrace ab report; tailrace models canary --help"
        raise UserError("TR-385", str(error), fix=fix, exit_code=ExitCode.USAGE) from error
    with store(settings) as client:
        model_switch.preload(settings, client, plan.epoch, timeout_s)
    model_switch.publish_pointer(settings, bundle, "publish")
    order_running(settings, started, f"canary of epoch {plan.epoch}")
    return experiment


def watch(
    settings: Settings,
    plan: CanaryPlan,
    experiment: Experiment,
    *,
    every_s: float = 60.0,
    say: Say = lambda line: None,
    look: Callable[[], Standing] | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> CanaryEnd:
    """Look again and again until the canary is decided; it is not ended here, see `end`.

    A broker or store that is away for a while does not decide anything: the next look does. One that somebody has
    stopped is over.

    Parameters
    ----------
    look
        How the experiment stands; None: by the topic of examples, of which each look reads what is new.
    """
    standings = RunningStanding(settings, (experiment,))
    look = look or (lambda: standings.look()[0])
    started_s, looks, last = float(experiment.name.rsplit("-", 1)[1]), 0, None
    while True:
        hours = (clock() - started_s) / HOUR_S
        try:
            last = look()
            looks += 1
        except UserError as error:
            say(f"could not look: {error.what}")
        if last is not None:
            word, why = decide(plan, last.verdict, last.sums[CANDIDATE], hours)
            say(f"{experiment.name}: {word}, {why}")
            if word == WAIT and not _runs(settings, experiment):
                word, why = REVERT, "somebody has stopped it"
            if word != WAIT:
                return CanaryEnd(word, why, experiment.name, looks, last)
        sleep(every_s)


def _runs(settings: Settings, experiment: Experiment) -> bool:
    """Whether the newest order names it; a broker that is away has said nothing."""
    try:
        return experiment.name in {one.name for one in read_running(settings).experiments}
    except UserError:
        return True


def end(settings: Settings, plan: CanaryPlan, found: CanaryEnd, *, say: Say = lambda line: None) -> None:
    """Do what was decided: switch everybody to the epoch, or nobody."""
    if found.word == PROMOTE:
        done = model_switch.activate(settings, plan.epoch, say=say)
        record_switch(settings.registry, done.manifest_sha256, plan.epoch, "canary")
    running = read_running(settings)
    try:
        left = running.stop(found.experiment)
    except ValueError:  # somebody has stopped it
        return
    order_running(settings, left, f"{found.experiment}: {found.word}, {found.why}")


def clear(settings: Settings, found: CanaryEnd) -> None:
    """Have all lists written again after a model was taken back: else its own stand until their users' next event."""
    if found.word != PROMOTE:
        model_switch.send_order(settings, "republish", reason=f"{found.experiment}: {found.word}")


def plain(found: CanaryEnd) -> dict[str, Any]:
    """Return plain values for JSON."""
    variants = {} if found.last is None else found.last.sums
    return {
        "ended": found.word,
        "why": found.why,
        "experiment": found.experiment,
        "looks": found.looks,
        "lists": {name: sums.lists for name, sums in variants.items()},
        "ctr": {name: sums.value("ctr") for name, sums in variants.items()},
    }
