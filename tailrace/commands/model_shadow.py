"""`tailrace models shadow`: what a candidate would have said, beside what is served."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from flink_jobs.settings import load
from tailrace.commands.options import Config, Json
from tailrace.errors import ExitCode


def shadow(
    epoch: Annotated[int, typer.Argument(min=1, help="Of the candidate.")],
    lists: Annotated[int, typer.Option(min=1, help="Stop after so many.")] = 1_000,
    seconds: Annotated[float, typer.Option(min=0.0, help="Or after so long.")] = 60.0,
    past: Annotated[
        bool, typer.Option("--past", help="Begin with the newest lists that are there already.")
    ] = False,
    against: Annotated[
        int | None, typer.Option("--against", min=1, help="Epoch to compare with; default: what serves.")
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Rank the snapshots of lists as they are served with a candidate too, in this process, and compare.

    Nobody is shown what it says, and the job does not know of it. Catalogue and sessions are those of now for both.
    Exit code 1 when no list was served in that time.
    """
    from tailrace import model_shadow

    settings = load(config)
    console = Console(stderr=True, highlight=False, quiet=as_json)
    with console.status("waiting for lists") as status:
        found = model_shadow.run(
            settings, epoch, against, lists, seconds, past, lambda done: status.update(f"{done:,} lists")
        )
    if as_json:
        typer.echo(json.dumps(found))
    elif found["lists"]:
        costs = found["cpu_us_a_user"]
        typer.echo(
            f"epoch {found['candidate']} beside {found['serving']}, {found['lists']:,} lists: "
            f"rank-biased overlap {found['rbo']:.3f}, "
            f"same items {found[f'overlap_at_{settings.redis.list_size}']:.3f}, "
            f"first item changed {found['first_item_changed']:.3f}\n"
            f"scores: PSI {found['score_psi']:.3f}, KS {found['score_ks']:.3f}; "
            f"CPU-us a user {costs['serving']:,.0f} and {costs['candidate']:,.0f}"
        )
    else:
        typer.echo("no list was served in that time; --past begins with those there are")
    if not found["lists"]:
        raise typer.Exit(int(ExitCode.FAILED))
