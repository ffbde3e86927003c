"""`tailrace models ls|keygen|sign|gate|shadow|canary|publish|promote|rollback`, and `tailrace republish`."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from flink_jobs.settings import Settings, load
from tailrace import bundle_keys, model_epochs, model_switch, model_verdict
from tailrace.commands.model_canary import canary
from tailrace.commands.model_gate import gate
from tailrace.commands.model_shadow import shadow
from tailrace.commands.options import Config, Json
from tailrace.connections import store
from tailrace.errors import UserError
from tailrace.model_registry import record_switch
from tailrace.model_switch import Activated

Epoch = Annotated[int, typer.Argument(min=1, help="Number of the folder under model.root.")]
KeyFile = Annotated[Path, typer.Argument(help="Where to write the private key; it must not exist.")]
SigningKey = Annotated[
    Path,
    typer.Option("--key", envvar="TAILRACE_SIGNING_KEY", exists=True, dir_okay=False, help="Private key."),
]
Wait = Annotated[
    bool,
    typer.Option("--wait/--no-wait", help="For every rank worker to load it before the switch."),
]
Force = Annotated[bool, typer.Option("--force", help="Also without a passed gate.")]
Timeout = Annotated[float, typer.Option(min=1, help="Seconds to wait for the workers.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        name="models",
        no_args_is_help=True,
        help="Model bundles: which there are, which serves, switching and going back.",
    )
    for command in (ls, keygen, sign, gate, shadow, canary, publish, promote, rollback):
        group.command()(command)
    app.add_typer(group)
    app.command()(republish)


def ls(config: Config = None, as_json: Json = False) -> None:
    """List the bundles under model.root: checked as a worker checks them, and which one serves."""
    settings = load(config)
    bundles = model_epochs.bundles_on_disk(settings.model)
    active: int | None = None
    untold = ""
    try:
        active = model_epochs.serving_epoch(settings)
    except UserError as error:
        untold = f"which one serves is not known: {error.number}: {error.what}; {error.fix}"
    if as_json:
        rows = [
            dataclasses.asdict(bundle) | {"path": str(bundle.path), "active": bundle.epoch == active}
            for bundle in bundles
        ]
        told = {"root": str(settings.model.root), "active": active, "bundles": rows}
        typer.echo(json.dumps(told | ({"active_unknown": untold} if untold else {})))
        return
    console = Console(highlight=False)
    if not bundles:
        console.print(f"no bundles in {settings.model.root}; `tailrace train` makes one")
        return
    table = Table(box=None, header_style="bold")
    for title in ("epoch", "state", "model version", "trained until", "items", "metrics"):
        table.add_column(title, justify="right" if title in ("epoch", "items") else "left")
    for bundle in bundles:
        state = (
            "[red]refused[/]" if bundle.refusal else "[green]active[/]" if bundle.epoch == active else "ok"
        )
        until = _day(bundle.data.get("cut_ms") or bundle.created_ms)
        table.add_row(
            str(bundle.epoch),
            state,
            bundle.model_version,
            str(until),
            f"{bundle.items:,}",
            headline(bundle.metrics),
        )
    console.print(table)
    for bundle in bundles:
        if bundle.refusal:
            console.print(f"epoch {bundle.epoch} is refused: {bundle.refusal}", markup=False, soft_wrap=True)
    if untold:
        console.print(untold, markup=False, soft_wrap=True)
    elif active is None:
        console.print("none serves; `tailrace models promote EPOCH`")
    elif waiting := model_epochs.unknown_items(settings):
        console.print(
            f"{waiting:,} records of items that epoch {active} does not know wait for the next model: workers rank "
            f"the newest {settings.model.arrivals:,} (model.arrivals), where the bundle has a vocabulary",
            soft_wrap=True,
        )


def keygen(file: KeyFile, as_json: Json = False) -> None:
    """Write a new private key, readable by you alone, and print the public key for `model.trusted_keys`.

    Whoever has the file can put a model in front of your customers. Keep it where you train, not where you serve.
    """
    public = bundle_keys.write_new_key(file)
    if as_json:
        typer.echo(json.dumps({"private_key": str(file), "public_key": public}))
        return
    console = Console(highlight=False)
    console.print(f"private key: {file}", markup=False, soft_wrap=True)
    console.print(
        f'public key, for the settings of every worker:\n\n[model]\ntrusted_keys = ["{public}"]', markup=False
    )


def sign(epoch: Epoch, key: SigningKey, config: Config = None, as_json: Json = False) -> None:
    """Sign a bundle: its manifest, which names every other file by its hash."""
    settings = load(config)
    public = bundle_keys.sign_bundle(settings.model.root / str(epoch), key)
    trusted = public in settings.model.trusted_keys
    if as_json:
        typer.echo(json.dumps({"epoch": epoch, "public_key": public, "trusted_here": trusted}))
        return
    note = "" if trusted or not settings.model.trusted_keys else "; model.trusted_keys does not name that key"
    typer.echo(f"epoch {epoch}: signed by {public}{note}")


def publish(epoch: Epoch, config: Config = None, as_json: Json = False) -> None:
    """Check a bundle and announce it in recs.models.v1, without serving it."""
    settings = load(config)
    bundle = model_epochs.open_bundle(settings, epoch)
    pointer = model_switch.publish_pointer(settings, bundle, "publish")
    if as_json:
        typer.echo(json.dumps(pointer._asdict()))
    else:
        typer.echo(f"published epoch {epoch} ({pointer.model_version}); `tailrace models promote {epoch}`")


def promote(
    epoch: Epoch,
    config: Config = None,
    wait: Wait = True,
    timeout: Timeout = 60.0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make a bundle serve: gate passed, loaded and acknowledged by every worker, and only then switched to.

    When the bundle is refused, here or by a worker, nothing changes and the exit code is not 0.
    """
    settings = load(config)
    bundle = model_epochs.open_bundle(settings, epoch)
    if not force:
        model_verdict.require_passed(settings, bundle, model_epochs.active_epoch(settings))
    _switch(settings, epoch, "promote", wait, timeout, as_json)


def rollback(
    epoch: Annotated[
        int | None, typer.Argument(min=1, help="One that served before; default: the one before this.")
    ] = None,
    config: Config = None,
    wait: Wait = True,
    timeout: Timeout = 60.0,
    as_json: Json = False,
) -> None:
    """Go back to an epoch that served before, by the same steps; it needs no verdict of the gate."""
    settings = load(config)
    chosen = model_switch.former_epoch(model_epochs.read_pointers(settings), epoch)
    _switch(settings, chosen, "rollback", wait, timeout, as_json)


def republish(config: Config = None, as_json: Json = False) -> None:
    """Rebuild an empty or doubtful Redis: every user's list is ranked and written again, views too.

    The job does it in chunks (job.republish_users_per_tick) beside its other work; `tailrace watch` and
    `tailrace counts` show it go on.
    """
    settings = load(config)
    epoch, views = model_epochs.active_epoch(settings), 0
    bundle = None if epoch is None else model_epochs.open_bundle(settings, epoch)
    offset = model_switch.send_order(settings, "republish")
    if bundle is not None:
        with store(settings) as client:
            views = model_epochs.write_views(settings, client, bundle)
    if as_json:
        typer.echo(json.dumps({"control_offset": offset, "epoch": epoch, "keys_written": views}))
    else:
        told = (
            "no model serves, so there were no views to write"
            if epoch is None
            else f"{views:,} keys of views"
        )
        typer.echo(f"every shard was told to republish (recs.control.v1 offset {offset}); {told}")


def _switch(settings: Settings, epoch: int, action: str, wait: bool, timeout: float, as_json: bool) -> None:
    done = _activate(settings, epoch, wait, timeout, as_json)
    record_switch(settings.registry, done.manifest_sha256, epoch, action)
    _report(done, as_json)


def _activate(settings: Settings, epoch: int, wait: bool, timeout: float, quiet: bool) -> Activated:
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        transient=True,
        disable=quiet,
    ) as bar:
        task = bar.add_task("items", total=None)
        return model_switch.activate(
            settings,
            epoch,
            wait=wait,
            timeout_s=timeout,
            say=lambda line: None if quiet else bar.console.print(line, highlight=False),
            progress=lambda done, of: bar.update(task, completed=done, total=of),
        )


def _report(done: Activated, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(done._asdict()))
        return
    typer.echo(f"epoch {done.epoch} ({done.model_version}) is active after {done.seconds:.1f} s")
    if not done.serving:
        typer.echo("no list was asked for yet; the next ones are made with it")


def headline(metrics: dict[str, Any]) -> str:
    """Give the figures on the held-out stretch that people compare: of this model's lists of all items."""
    lists = metrics.get("held_out", {}).get("model", {}).get("all", {})
    found = [f"{name.replace('_', ' ')} {lists[name]:.3f}" for name in ("hit_rate", "ndcg") if name in lists]
    return ", ".join(found)


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d") if ms else ""
