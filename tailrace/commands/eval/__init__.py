"""`tailrace eval`: how good the recommendations are, on files of real behaviour."""

from __future__ import annotations

import typer

from tailrace.commands.eval.sessions import sessions

commands = typer.Typer(help="Measure recommendation quality by a published protocol.", no_args_is_help=True)
PROTOCOLS = (sessions,)
for protocol in PROTOCOLS:
    commands.command()(protocol)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(commands, name="eval")
