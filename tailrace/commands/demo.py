"""`tailrace demo`: the whole engine on this machine, with one customer's list at the end."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from flink_jobs.settings import load
from tailrace.commands.options import Config, Json
from tailrace.demo_loop import show_loop
from tailrace.demo_steps import Aside, StepDisplay
from tailrace.errors import ExitCode, UserError
from tailrace.list_view import UNKNOWN, compare, mark
from tailrace.stack.local import LocalStack

if TYPE_CHECKING:
    from tailrace.demo_clicks import Story

Steps = tuple[tuple[str, str], ...]

FIRST: Steps = (("check", "look at this machine"),)
STACK: Steps = (
    ("start", "start Kafka, store, Flink"),
    ("topics", "create topics"),
    ("job", "submit the recommend job"),
)
MODEL: Steps = (("read", "read the shop's data"), ("model", "train the model"))
"""At the same time as `STACK`: neither needs the other."""
TOGETHER: Steps = (
    ("catalogue", "publish the catalogue"),
    ("activate", "activate the model"),
    ("history", "replay the shop's events"),
    ("list_before", "one customer's list"),
    ("clicks", "three clicks"),
)
INTERRUPTED = 130


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    story: Annotated[
        str,
        typer.Argument(help="shop: the engine live; loop: what feedback brings, with simulated users."),
    ] = "shop",
    config: Config = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete this stack's topics, lists and checkpoints first.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep/--down", help="Leave the stack up at the end; that of loop always ends.")
    ] = True,
    events: Annotated[
        int | None, typer.Option(min=1000, help="Replay at most this many events; default: all, 81,543.")
    ] = None,
    users: Annotated[int, typer.Option(min=600, help="loop: how many simulated users.")] = 900,
    seed: Annotated[int, typer.Option(min=0, help="loop: of all that users do.")] = 0,
    speed: Annotated[
        float, typer.Option(min=1.0, max=60.0, help="loop: seconds of the shop's time in one of ours.")
    ] = 25.0,
    out: Annotated[Path, typer.Option("--out", help="loop: where the chart goes, SVG.")] = Path("loop.svg"),
    as_json: Json = False,
) -> None:
    """Show it all: stack, model, a shop's events, a real customer's list, and three clicks that change it.

    The shop is real (datasets/online-retail). The model learns from what was bought before 2011-11-01; the
    events after it are replayed, moved to now by whole days. A second run finds all of that in place, sends
    nothing twice, and lets the customer click in another category. Ctrl-C leaves the stack up; the next run
    goes on where this one stopped.

    `tailrace demo loop` has a stack of its own and ends it: an hour of simulated users in some minutes, whose lists
    learn from them, or not, by experiment; then a better variant is found and promoted, and a harmful model is taken
    back.
    """
    settings = load(config)
    if story == "loop":
        show_loop(settings, users, seed, speed, out, as_json)
        return
    if story != "shop":
        raise UserError("TR-740", f"story {story!r}; there is shop and loop", exit_code=ExitCode.USAGE)
    if fresh:
        LocalStack(settings).down(purge=True)
    began_s = time.monotonic()
    from tailrace.demo_story import Demo

    run = Demo(settings, config, events)
    seconds: dict[str, float] = {}

    def take(steps: Steps) -> None:
        for name, title in steps:
            seconds[name] = display.step(title, getattr(run, name))

    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        with StepDisplay(as_json) as display:
            take(FIRST)
            model = Aside(lambda: take(MODEL))
            take(STACK)
            model.join()
            take(TOGETHER)
    except KeyboardInterrupt:
        typer.echo("stopped; the stack stays up: `tailrace demo` goes on, `tailrace down` ends it", err=True)
        raise typer.Exit(INTERRUPTED) from None
    total_s = time.monotonic() - began_s
    if not keep:
        LocalStack(settings).down()
    if as_json:
        typer.echo(json.dumps(_as_dict(run.story, run.epoch, seconds, total_s, keep)))
    else:
        _show(Console(highlight=False), run.story, total_s, keep)


def _show(console: Console, story: Story, total_s: float, kept: bool) -> None:
    customer, titles = story.customer, story.titles

    def name(item_id: str) -> str:
        return f"{item_id} {titles.get(item_id, UNKNOWN).title}"

    console.print()
    console.print(
        f"Customer {customer.user_id}: {customer.visits} visits, {len(customer.items)} items; the last:",
        style="bold",
        soft_wrap=True,
    )
    for item_id in customer.items[-5:]:
        console.print(f"  bought   {name(item_id)}", markup=False)
    for click in story.clicks:
        console.print(f"  clicks   {click.item_id} {click.title}   ({story.category})", markup=False)
    before = [item.item_id for item in story.before.items]
    after = [item.item_id for item in story.after.items]
    change = compare(before, after)
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("", justify="right", style="dim")
    table.add_column("before", ratio=1)
    table.add_column("after the third click", ratio=1)
    table.add_column("")
    for row in range(max(len(before), len(after))):
        old = before[row] if row < len(before) else None
        new = after[row] if row < len(after) else None
        gone = old is not None and old in change.left
        sign = mark(change, new) if new is not None else ""
        table.add_row(
            str(row + 1),
            "" if old is None else f"[red]{name(old)}[/]" if gone else name(old),
            "" if new is None else f"[green]{name(new)}[/]" if sign == "new" else name(new),
            sign,
        )
    console.print()
    console.print(table)
    console.print(
        f"\n{len(change.came)} came, {len(change.left)} went. Third click → new list in Redis: "
        f"[bold]{story.event_to_list_ms:.0f} ms[/]. Everything took {total_s:.1f} s."
    )
    if kept:
        console.print("\nTo try next:")
        for command, text in _next(story):
            console.print(f"  {command:<44} {text}", markup=False, soft_wrap=True)


def _next(story: Story) -> list[tuple[str, str]]:
    user = story.customer.user_id
    return [
        (f"tailrace recs {user} --explain", "why each item is in the list"),
        (f"tailrace watch {user}", "the list, live; run `tailrace demo` beside it"),
        (f"tailrace similar {story.clicks[0].item_id}", "what is like the first click"),
        ("tailrace counts", "what became of every event"),
        ("tailrace models ls", "the model, and how good it was"),
        ("tailrace status", "processes, job, checkpoints"),
        ("tailrace down", "stop; data stay for the next time"),
    ]


def _as_dict(
    story: Story, epoch: int, seconds: dict[str, float], total_s: float, kept: bool
) -> dict[str, Any]:
    before = [item.item_id for item in story.before.items]
    after = [item.item_id for item in story.after.items]
    change = compare(before, after)
    return {
        "user_id": story.customer.user_id,
        "visits": story.customer.visits,
        "epoch": epoch,
        "model_version": story.after.model_version,
        "category": story.category,
        "clicks": [click._asdict() for click in story.clicks],
        "before": before,
        "after": after,
        "came": change.came,
        "left": change.left,
        "event_to_list_ms": round(story.event_to_list_ms, 1),
        "seconds": seconds,
        "total_s": round(total_s, 1),
        "stack": "up" if kept else "down",
    }
