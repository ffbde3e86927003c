"""`tailrace models canary`: a model on a share of the users, until it is promoted or taken back."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from flink_jobs.settings import load
from tailrace.commands.options import Config, Json
from tailrace.errors import ExitCode
from udfs.experiments.canary import PROMOTE, CanaryPlan
from udfs.experiments.experiment import METRICS

_PLAN = CanaryPlan(1)


def canary(
    epoch: Annotated[int, typer.Argument(min=1, help="Of the candidate.")],
    share: Annotated[
        float, typer.Option(min=0.0001, max=0.9, help="Of the users that get it.")
    ] = _PLAN.share,
    metric: Annotated[str, typer.Option(help=f"What decides: {', '.join(METRICS)}.")] = _PLAN.metric,
    most_drop: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="What the metric may lose at most.")
    ] = _PLAN.most_drop,
    hours: Annotated[
        float, typer.Option(min=0.0, help="After which one that did no harm is promoted.")
    ] = _PLAN.hours,
    least_lists: Annotated[
        int, typer.Option(min=0, help="Of the candidate by then; with fewer it is taken back.")
    ] = _PLAN.least_lists,
    every: Annotated[float, typer.Option(min=1.0, help="Seconds between two looks.")] = 60.0,
    layer: Annotated[str, typer.Option(help="Of experiments, see `tailrace ab start`.")] = "list",
    force: Annotated[bool, typer.Option("--force", help="Also without a passed gate.")] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Try a model on a share of the users, and promote it or take it back by what they do.

    Needs the feedback job: a list counts when its windows are over. Ended by Ctrl-C or a kill, the canary runs on;
    the same command watches it again, and `tailrace ab stop NAME` ends it. Exit code 1 when it was taken back.
    """
    from tailrace import model_canary

    settings, plan = load(config), CanaryPlan(epoch, share, metric, most_drop, hours, least_lists)
    console = Console(stderr=True, highlight=False, quiet=as_json)
    experiment = model_canary.start(settings, plan, force=force, layer=layer)
    console.print(f"{experiment.name} runs; tailrace ab report {experiment.name}", soft_wrap=True)
    with console.status("watching") as status:
        found = model_canary.watch(settings, plan, experiment, every_s=every, say=status.update)
    model_canary.end(settings, plan, found, say=lambda line: console.print(line, soft_wrap=True))
    model_canary.clear(settings, found)
    if as_json:
        typer.echo(json.dumps(model_canary.plain(found)))
    else:
        word = "promoted" if found.word == PROMOTE else "taken back"
        typer.echo(f"epoch {epoch} is {word}: {found.why}")
    if found.word != PROMOTE:
        raise typer.Exit(int(ExitCode.FAILED))
