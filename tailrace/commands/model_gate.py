"""`tailrace models gate`: a candidate measured beside what serves, and a verdict that the switch asks for."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from flink_jobs.settings import Settings, load
from tailrace import example_log, model_epochs, model_verdict
from tailrace.commands.eval.surroundings import Seed, import_evaluation
from tailrace.commands.options import Config, Json
from tailrace.errors import ExitCode, UserError
from tailrace.model_registry import record_verdict
from tailrace.phase_progress import phase_progress
from udfs.model.gate import Verdict

if TYPE_CHECKING:
    from schemas.records import Example

MOST_EXAMPLES = 20_000


def gate(
    candidate: Annotated[int, typer.Argument(min=1, help="Epoch of the bundle to measure.")],
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Events that go on behind its training; default: the lake."),
    ] = None,
    against: Annotated[
        int | None, typer.Option("--against", min=1, help="Epoch to beat; default: what serves.")
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(
            "--examples", help="A file of `tailrace eval policy --keep`; default: the topic, if there is one."
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key", envvar="TAILRACE_SIGNING_KEY", exists=True, dir_okay=False, help="Sign the verdict."
        ),
    ] = None,
    config: Config = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure a bundle and what serves on the same later events, and write the verdict beside the bundle.

    Exit code 1 when a check is not passed: then `tailrace models promote` refuses the bundle.
    """
    settings = load(config)
    beaten = model_epochs.active_epoch(settings) if against is None else against
    with phase_progress(shown=not as_json, width=6) as tell:
        verdict = gate_bundle(
            settings,
            candidate,
            None if beaten == candidate else beaten,
            settings.lake.root if data is None else data,
            newest_examples(settings) if examples is None else list(example_log.from_file(examples)),
            key,
            seed,
            lambda share: tell("replay", share) if tell is not None else None,
        )
    if as_json:
        typer.echo(verdict.to_json().decode())
    else:
        show(verdict)
    if not verdict.passed:
        raise typer.Exit(int(ExitCode.FAILED))


def gate_bundle(
    settings: Settings,
    candidate: int,
    against: int | None,
    data: Path,
    examples: list[Example],
    key: Path | None = None,
    seed: int = 0,
    tell: Callable[[float], None] = lambda share: None,
) -> Verdict:
    """Open both bundles as a worker does, measure them, and write the verdict.

    Raises
    ------
    UserError
        TR-350 or TR-351 for a bundle that is not here or refused, TR-383 for data that cannot be used.
    """
    import_evaluation()
    from model_export.gate.gate import GateError
    from model_export.gate.gate import gate as judge
    from model_export.sources import SourceError
    from tailrace.commands.train import train_settings

    opened = model_epochs.open_bundle(settings, candidate)
    serving = None if against is None else model_epochs.open_bundle(settings, against)
    how = train_settings(settings)
    try:
        verdict = judge(
            opened,
            serving,
            data,
            examples,
            settings.gate.limits,
            how.rank,
            how.logic,
            made_ms=time.time_ns() // 1_000_000,
            seed=seed,
            tell=tell,
        )
    except (GateError, SourceError, OSError) as error:
        raise UserError(
            "TR-383",
            f"epoch {candidate}: nothing to measure on: {error}",
            "the data end where the newer bundle's training ended, or cannot be read",
            "tailrace models gate EPOCH --data FILE, with later events; tailrace lake run --once",
            ExitCode.USAGE,
        ) from error
    model_verdict.write_verdict(settings, verdict, key)
    record_verdict(settings.registry, verdict)
    return verdict


def show(verdict: Verdict) -> None:
    """Print a verdict for people."""
    console = Console(highlight=False)
    table = Table(box=None, header_style="bold")
    for title in ("check", "figure", "wanted", "", "note"):
        table.add_column(title, justify="right" if title == "figure" else "left")
    for check in verdict.checks:
        table.add_row(
            check.name,
            "-" if check.value is None else f"{check.value:,.6g}",
            "" if check.limit is None else f"{check.wanted} {check.limit:,.6g}",
            "[green]passed[/]" if check.passed else "[red]not passed[/]",
            check.note,
        )
    console.print(table)
    beside = "nothing, as nothing serves" if verdict.against is None else f"epoch {verdict.against}"
    word = "passes" if verdict.passed else "does not pass"
    console.print(f"epoch {verdict.epoch} {word} the gate, measured beside {beside}", soft_wrap=True)


def newest_examples(settings: Settings) -> list[Example]:
    """Return the product's newest examples; none without a broker or topic, which is no reason not to measure."""
    try:
        return list(example_log.from_topic(settings, MOST_EXAMPLES))
    except UserError:
        return []
