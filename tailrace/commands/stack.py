"""`tailrace up`, `down`, `status` and `logs`."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from flink_jobs.settings import Settings, load
from tailrace.commands.options import Config, Json
from tailrace.errors import ExitCode, UserError
from tailrace.stack.local import LocalStack, StackStatus, last_lines


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(logs)


def up(
    config: Config = None,
    foreground: Annotated[
        bool, typer.Option("--foreground/--detach", help="Stay, and stop all at Ctrl-C; default: return.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Start Kafka, the store and Flink on this machine, and wait until they answer."""
    settings = load(config)
    local = LocalStack(settings)
    began = time.monotonic()
    started = local.up(progress=lambda line: None if as_json else typer.echo(line), tied=foreground)
    if as_json:
        typer.echo(_as_json(local.status()))
    elif started:
        typer.echo(f"the stack is up after {time.monotonic() - began:.1f} s; {_addresses(settings)}")
    else:
        typer.echo(f"already running; {_addresses(settings)}")
    if foreground and started:
        try:
            while local.running():
                time.sleep(0.5)
        except KeyboardInterrupt:
            typer.echo("stopping")
        finally:
            local.down()


def down(
    config: Config = None,
    purge: Annotated[
        bool, typer.Option("--purge", help="Delete topics, lists, checkpoints and logs too.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before --purge.")] = False,
) -> None:
    """Stop all; data stay for the next `up`."""
    local = LocalStack(load(config))
    if purge and not yes:
        typer.confirm(f"delete {local.home} with all topics, lists and checkpoints?", abort=True)
    ran = local.down(purge)
    typer.echo(("stopped" if ran else "was not running") + (f"; {local.home} deleted" if purge else ""))


def status(config: Config = None, as_json: Json = False) -> None:
    """Show each process, the jobs and their checkpoints."""
    now = LocalStack(load(config)).status()
    if as_json:
        typer.echo(_as_json(now))
    else:
        _show(now)
    if not now.healthy:
        raise typer.Exit(ExitCode.NOT_RUNNING)


def logs(
    name: Annotated[str | None, typer.Argument(help="kafka, store, jobmanager, taskmanager-1, ...")] = None,
    config: Config = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more.")] = False,
    lines: Annotated[int, typer.Option("-n", min=0, help="How many of the last lines.")] = 40,
) -> None:
    """Show the last lines of one process's log, or of all."""
    folder = LocalStack(load(config)).home / "logs"
    known = {path.stem: path for path in sorted(folder.glob("*.log")) if not path.name.endswith(".old.log")}
    if not known:
        raise UserError(
            "TR-106", f"no logs in {folder}", "the stack never ran here", "tailrace up", ExitCode.NOT_RUNNING
        )
    if name is not None and name not in known:
        raise UserError("TR-107", f"no log {name!r}; there are {', '.join(known)}", exit_code=ExitCode.USAGE)
    chosen = {name: known[name]} if name is not None else known
    places = {path: path.stat().st_size for path in chosen.values()}
    for title, path in chosen.items():
        if len(chosen) > 1:
            typer.secho(f"==> {title}", bold=True)
        typer.echo(last_lines(path, lines) if lines else "")
    while follow:
        time.sleep(0.3)
        for title, path in chosen.items():
            places[path] = _print_new(path, places[path], f"{title}: " if len(chosen) > 1 else "")


def _print_new(path: Path, place: int, prefix: str) -> int:
    size = path.stat().st_size
    if size == place:
        return place
    with path.open("rb") as stream:
        stream.seek(place if size > place else 0)
        text = stream.read().decode("utf-8", "replace")
    for line in text.splitlines():
        typer.echo(prefix + line)
    return size


def _show(now: StackStatus) -> None:
    console = Console()
    if not now.running:
        console.print("the stack is not running; `tailrace up` starts it")
        return
    table = Table(box=None, header_style="bold")
    for title in ("process", "pid", "port", "up", "restarts", "health"):
        table.add_column(title, justify="left" if title in ("process", "health") else "right")
    for service in now.services:
        health = "ok" if service.healthy else "starting" if service.pid else f"down ({service.last_exit})"
        uptime = f"{service.uptime_s:,.0f} s"
        table.add_row(
            service.name,
            str(service.pid or "-"),
            str(service.port or "-"),
            uptime,
            str(service.restarts),
            health,
        )
    console.print(table)
    console.print(f"supervisor {now.supervisor_pid}; Flink {now.flink_url}")
    for job in now.jobs:
        console.print(
            f"job {job['name']} {job['jid']}: {job['state']}, {job['checkpoints_completed']} checkpoints",
            soft_wrap=True,
        )


def _as_json(now: StackStatus) -> str:
    return json.dumps({**asdict(now), "healthy": now.healthy}, indent=2)


def _addresses(settings: Settings) -> str:
    stack = settings.stack
    return (
        f"Kafka {stack.host}:{stack.kafka_port}, store {stack.host}:{stack.redis_port}, "
        f"Flink http://{stack.host}:{stack.flink_port}"
    )
