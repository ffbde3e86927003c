"""The `tailrace` command."""

from __future__ import annotations

import sys

import typer

from flink_jobs.settings import SettingsError
from tailrace.commands import (
    ab,
    bench,
    counts,
    demo,
    dlq,
    doctor,
    eval,
    fed,
    lake,
    models,
    recs,
    replay,
    retrain,
    stack,
    submit,
    train,
    watch,
)
from tailrace.errors import ExitCode, UserError

app = typer.Typer(
    name="tailrace",
    help="Real-time recommendations: run the stack, submit jobs, read lists.",
    epilog=f"Exit codes: {ExitCode.table()}.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
COMMANDS = (
    demo,
    stack,
    doctor,
    submit,
    train,
    retrain,
    models,
    replay,
    recs,
    watch,
    counts,
    dlq,
    eval,
    ab,
    fed,
    lake,
    bench,
)
for commands in COMMANDS:
    commands.register(app)


def main() -> None:
    """Run the command; a `UserError` becomes its exit code and a readable text, or JSON with `--json`."""
    try:
        if "--json" in sys.argv:
            raise SystemExit(_answer())
        app()
    except SettingsError as error:
        _fail(UserError("TR-100", str(error), exit_code=ExitCode.USAGE))
    except UserError as error:
        _fail(error)


def _answer() -> int:
    """Run the command for a program, and return its exit code: wrong words are an error like any other.

    Raises
    ------
    UserError
        TR-108.
    """
    try:
        return int(app(standalone_mode=False) or 0)
    except typer.Abort:
        return int(ExitCode.FAILED)
    except typer.TyperException as error:
        where = getattr(getattr(error, "ctx", None), "command_path", "tailrace")
        raise UserError(
            "TR-108", error.format_message(), fix=f"{where} --help", exit_code=ExitCode.USAGE
        ) from error


def _fail(error: UserError) -> None:
    print(error.as_json() if "--json" in sys.argv else error, file=sys.stderr)
    raise SystemExit(int(error.exit_code)) from None


if __name__ == "__main__":
    main()
