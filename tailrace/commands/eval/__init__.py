"""`tailrace eval`: how good the recommendations are, on files of real behaviour."""

from __future__ import annotations

import typer

from tailrace.commands.eval.bandit import bandit
from tailrace.commands.eval.baskets import baskets
from tailrace.commands.eval.federated import federated
from tailrace.commands.eval.policy import policy
from tailrace.commands.eval.ratings import ratings
from tailrace.commands.eval.sessions import sessions

commands = typer.Typer(help="Measure recommendation quality by a published protocol.", no_args_is_help=True)
PROTOCOLS = (sessions, ratings, baskets, bandit, policy, federated)
for protocol in PROTOCOLS:
    commands.command()(protocol)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(commands, name="eval")
