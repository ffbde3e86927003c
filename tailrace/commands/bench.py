"""`tailrace bench`: the figures of the job on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from flink_jobs.settings import load
from tailrace.commands.options import Config, Json
from tailrace.errors import ExitCode, UserError
from tailrace.stack.local import LocalStack

commands = typer.Typer(help="Measure the job on this machine.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(commands, name="bench")


@commands.command()
def smoke(
    config: Config = None,
    epoch: Annotated[
        int | None, typer.Option(help="Bundle to serve; default: one trained as the demo's.")
    ] = None,
    rates: Annotated[
        str, typer.Option(help="Throughput: rising rates to try, events/s; stops at the first not held.")
    ] = "3000,3500,4500,5000,6000,8000",
    mix: Annotated[
        Literal["click", "shop"],
        typer.Option(
            help="click: every event is ranked at once, the worst case; shop: nine of ten are views."
        ),
    ] = "click",
    warm_up_s: Annotated[
        float, typer.Option(min=0, help="Load before anything is measured: the JVM compiles for minutes.")
    ] = 120.0,
    out: Annotated[Path | None, typer.Option(help="Write the figures to this file too.")] = None,
    as_json: Json = False,
) -> None:
    """Throughput, cost, freshness, bytes and recovery, on a stack of its own; about nine minutes."""
    from benchmarks import smoke as bench
    from model_export.sources.event_log import file_sha256
    from tailrace.demo_model import ensure_bundle
    from tailrace.demo_story import CUT, DATA
    from tailrace.event_replay import moment_ms

    settings = load(config)
    try:
        ladder = [float(rate) for rate in rates.split(",")]
    except ValueError as error:
        raise UserError("TR-601", f"--rates {rates!r}: {error}", exit_code=ExitCode.USAGE) from error
    if LocalStack(settings).running():
        raise UserError(
            "TR-600",
            f"the local stack of {settings.stack.home} runs",
            "it would share the cores and the ports of the one that is measured",
            "tailrace down",
            ExitCode.USAGE,
        )

    def say(line: str) -> None:
        typer.echo(line, err=True)

    if epoch is None:
        epoch, origin = ensure_bundle(
            settings, DATA, file_sha256(DATA), moment_ms(CUT), CUT, lambda phase, share: None
        )
        say(f"model: epoch {epoch}, {origin}")
    figures = bench.run(settings, epoch, say, ladder, bench.Load(mix, warm_up_s))
    text = json.dumps(figures)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if not as_json:
        for name, value in figures.items():
            typer.echo(f"{name:>24}  {value}")
    typer.echo(text)
