"""`tailrace retrain`: from the lake to a model that serves, once or on a schedule."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flink_jobs.settings import load
from tailrace.commands.options import Config, Json
from tailrace.errors import ExitCode, UserError
from tailrace.phase_progress import phase_progress
from udfs.experiments.canary import CanaryPlan

_SECONDS = {"m": 60.0, "h": 3_600.0, "d": 86_400.0}
_PLAN = CanaryPlan(1)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(retrain)


def retrain(
    once: Annotated[
        bool, typer.Option("--once", help="Try once, and say by the exit code how it went.")
    ] = False,
    every: Annotated[
        str | None, typer.Option("--every", help="Try so often, as 24h, 90m or 7d, until Ctrl-C.")
    ] = None,
    then: Annotated[
        str, typer.Option("--then", help="With a model that passed the gate: canary, switch or publish.")
    ] = "canary",
    window_days: Annotated[
        float | None, typer.Option(min=1.0, help="Learn from so many days; default: all of the lake.")
    ] = None,
    held_days: Annotated[
        int, typer.Option(min=1, help="Newest days not learnt from: the gate measures on them.")
    ] = 1,
    share: Annotated[
        float, typer.Option(min=0.0001, max=0.9, help="Of the users in the canary.")
    ] = _PLAN.share,
    hours: Annotated[float, typer.Option(min=0.0, help="Of the canary.")] = _PLAN.hours,
    look_every: Annotated[
        float, typer.Option(min=0.1, help="Seconds between two looks of the canary.")
    ] = 60.0,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key",
            envvar="TAILRACE_SIGNING_KEY",
            exists=True,
            dir_okay=False,
            help="Signs bundle and verdict.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all random numbers.")] = 0,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Train on the lake, sign, gate, publish, let every worker load it, and try it on users or switch to it.

    Each try is a line in `<model.root>/retraining.jsonl`. What serves goes on serving until the last step. Exit code
    of `--once`: 0 when the model serves or is published, 1 when it did not pass, was taken back, or a step failed.
    """
    from tailrace.commands.train import import_training

    import_training()
    from tailrace.model_retraining import THEN, RetrainPlan, retrain_every
    from tailrace.model_retraining import retrain as try_once

    if once == (every is not None) or then not in THEN:
        raise UserError(
            "TR-391",
            f"wanted --once or --every, and --then of {', '.join(THEN)}; got --then {then!r}",
            fix="tailrace retrain --once",
            exit_code=ExitCode.USAGE,
        )
    settings, console = load(config), Console(stderr=True, highlight=False, quiet=as_json)
    plan = RetrainPlan(window_days, held_days, then, key, CanaryPlan(1, share, hours=hours), seed, look_every)

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, markup=False)

    if every is not None:
        retrain_every(settings, plan, seconds_of(every), say=say)
        return
    with phase_progress(shown=not as_json, width=16) as tell:
        run = try_once(settings, plan, say=say, tell=tell)
    if as_json:
        typer.echo(json.dumps(vars(run)))
    else:
        typer.echo(f"epoch {run.epoch} {run.outcome}: {run.why}")
    if not run.succeeded:
        raise typer.Exit(int(ExitCode.FAILED))


def seconds_of(text: str) -> float:
    """Return the seconds of an interval.

    Raises
    ------
    UserError
        TR-391 for a text that is none.

    Examples
    --------
    >>> seconds_of("24h"), seconds_of("90m")
    (86400.0, 5400.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])", text)
    if found is None or float(found[1]) <= 0:
        raise UserError(
            "TR-391", f"--every: wanted an interval as 24h, 90m or 7d, got {text!r}", exit_code=ExitCode.USAGE
        )
    return float(found[1]) * _SECONDS[found[2]]
