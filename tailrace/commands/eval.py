"""`tailrace eval`: how good the recommendations are, on files of real behaviour."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from tailrace.commands.options import Json
from tailrace.errors import ExitCode, UserError
from tailrace.phase_progress import phase_progress

if TYPE_CHECKING:
    from model_export.protocols.session_report import SessionReport

commands = typer.Typer(help="Measure recommendation quality by a published protocol.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(commands, name="eval")


@commands.command()
def sessions(
    data: Annotated[Path, typer.Option("--data", help="A .parquet file with session, item and period.")],
    setting: Annotated[
        str, typer.Option("--setting", help="online: learn after each prediction; periodic: between periods.")
    ] = "both",
    sample: Annotated[float, typer.Option("--sample", help="Share of the sessions, 0 to 1.")] = 1.0,
    periods: Annotated[
        str, typer.Option("--periods", help="Periods to test, such as 1-4; default: all.")
    ] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of all random numbers.")] = 0,
    baselines: Annotated[bool, typer.Option("--baselines/--no-baselines", help="Run them too.")] = True,
    as_json: Json = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the figures as a section of this Markdown file.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw R@20 over the periods: an .svg.")] = None,
) -> None:
    """Next clicks by the continual protocol of ADER (RecSys 2020): rank all known items."""
    _import_evaluation()
    from model_export.protocols import session_report as report
    from model_export.protocols.session_log import SessionLogError, read_session_log
    from model_export.protocols.sessions import SETTINGS

    if setting not in (*SETTINGS, "both"):
        raise _usage(f"--setting: wanted {', '.join(SETTINGS)} or both, got {setting!r}")
    if not 0.0 < sample <= 1.0:
        raise _usage(f"--sample: wanted a share above 0 and at most 1, got {sample}")
    if plot is not None and plot.suffix != ".svg":
        raise _usage(f"--plot: wanted a name that ends in .svg, got {plot}")
    chosen = SETTINGS if setting == "both" else (setting,)
    try:
        log = read_session_log(data, sample, seed)
        tested = report.periods_to_test(log, periods)
    except SessionLogError as error:
        raise UserError("TR-700", str(error), exit_code=ExitCode.USAGE) from error
    with phase_progress(shown=not as_json, width=28) as tell:
        found = report.run(log, chosen, tested, seed, sample, with_baselines=baselines, tell=tell)
    if out is not None:
        command = f"tailrace eval sessions --data {data.name} --seed {seed}"
        if sample < 1.0:
            command += f" --sample {sample}"
        if periods:
            command += f" --periods {periods}"
        report.write_section(out, found, command, _commit())
    if plot is not None:
        plot.parent.mkdir(parents=True, exist_ok=True)
        plot.write_text(found.chart(), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
    else:
        _show(found)


def _usage(text: str) -> UserError:
    return UserError("TR-701", text, fix="tailrace eval sessions --help", exit_code=ExitCode.USAGE)


def _import_evaluation() -> None:
    try:
        import numba  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UserError(
            "TR-702",
            f"an evaluation needs {error.name}, which is not installed",
            "the extra `training` was left out",
            "uv pip install 'tailrace[training]'",
            ExitCode.ENVIRONMENT,
        ) from error


def _commit() -> str:
    """Return the commit of this source tree, `unknown` outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parents[2]), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _show(found: SessionReport) -> None:
    console = Console()
    head, *rows = found.table()
    table = Table(box=None, header_style="bold")
    for name in head:
        table.add_column(name, justify="left" if name in ("model", "setting") else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in found.remarks():
        console.print(line, soft_wrap=True, highlight=False)
