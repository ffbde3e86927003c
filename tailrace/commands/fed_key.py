"""`tailrace fed key`: what the holder of the key of encrypted heads does."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from flink_jobs.settings import load
from tailrace.commands.options import Config, Json
from tailrace.federated_key import VARIABLE, new_keys, open_sums

commands = typer.Typer(
    help="For the holder of the key of encrypted heads, who should not be the operator of the job.",
    no_args_is_help=True,
)


@commands.command()
def new(
    out: Annotated[Path, typer.Option(help="Folder for both keys; made if it is not there.")],
    as_json: Json = False,
) -> None:
    """Draw a pair of keys: heads.public for devices, heads.secret for nobody else."""
    keys = new_keys(out)
    if as_json:
        typer.echo(
            json.dumps({"folder": str(out), "encryption_key": keys.name, "public_bytes": len(keys.public)})
        )
        return
    typer.echo(f"{out}/heads.public  give it to devices, not by way of the job's operator")
    typer.echo(f"{out}/heads.secret  keep it; without it nothing can be opened, with it every head")
    typer.echo(f'encryption_key = "{keys.name}"  # in [federate.lines.NAME]')


@commands.command("open")
def open_(
    line: Annotated[str, typer.Argument(help="A model line with encryption_key.")],
    secret: Annotated[
        Path, typer.Option(envvar=VARIABLE, help="The secret key's file, readable by you alone.")
    ],
    every_s: Annotated[
        float | None, typer.Option("--every", min=0.1, help="Seconds between looks; default: look once.")
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Open the sums that the job sealed, each of cohort_min heads or more, and publish their versions."""
    settings = load(config)
    while True:
        made = open_sums(settings, line, secret)
        for model in made if not as_json else ():
            typer.echo(
                f"{line} {model.version}: K {model.cohort_size} ({model.trigger}), {model.mode} mode, epsilon "
                f"{model.epsilon:.3g} a contribution at delta {model.delta:g} per {model.unit} ({model.adjacency})"
            )
        if as_json:
            found = [
                {"version": one.version, "cohort_size": one.cohort_size, "trigger": one.trigger}
                for one in made
            ]
            typer.echo(json.dumps({"line": line, "opened": found}))
        elif every_s is None and not made:
            typer.echo(f"{line}: no sum is waiting")
        if every_s is None:
            return
        time.sleep(every_s)
