"""`tailrace demo loop`: what feedback brings, with simulated users on a real stack, from the examples it left."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from flink_jobs.settings import Settings
from model_export.line_chart import line_chart
from tailrace.demo_steps import Aside, StepDisplay
from tailrace.errors import ExitCode

INTERRUPTED = 130
STACK = (
    ("start", "start Kafka, store, Flink"),
    ("jobs", "submit two jobs"),
)
MODEL = (("model", "train the model"),)
"""At the same time as `STACK`."""
STORY = (
    ("activate", "activate the model"),
    ("groups", "ab start groups"),
    ("hour", "an hour of the shop"),
    ("planted", "two planted variants"),
    ("canary", "a harmful model"),
    ("examples", "read the examples"),
)


def show_loop(base: Settings, users: int, seed: int, speed: float, out: Path, as_json: bool) -> None:
    """Play it, draw the click rates into a file, and print the figures.

    Parameters
    ----------
    users, seed, speed
        Of the simulated shop.
    out
        The chart, SVG.
    """
    from tailrace.loop_story import FROZEN, LOOP, MINUTES, POPULAR, STRETCH, LoopDemo

    began_s, run, seconds = time.monotonic(), LoopDemo(base, users, seed, speed), dict[str, float]()

    def take(steps: tuple[tuple[str, str], ...]) -> None:
        for name, title in steps:
            seconds[name] = display.step(title, getattr(run, name))

    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        with StepDisplay(as_json) as display:
            take((("check", "look at this machine"),))
            model = Aside(lambda: take(MODEL))
            take(STACK)
            model.join()
            take(STORY)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    finally:
        run.down()
    total_s = time.monotonic() - began_s
    curves = {name: run.curves[name] for name in (LOOP, FROZEN, POPULAR) if name in run.curves}
    ends = list(range(STRETCH, MINUTES + 1, STRETCH))
    rates = {name: one.rates() for name, one in curves.items()}
    chart = line_chart("Lists with a click", ends, rates, across="minutes of the shop", from_zero=True)
    out.write_text(chart, encoding="utf-8")
    if as_json:
        shown = {
            name: {"lists": one.shown, "click_rate": [round(rate, 4) for rate in rates[name]]}
            for name, one in curves.items()
        }
        typer.echo(
            json.dumps({"users": users, "seed": seed, "speed": speed, "minutes": MINUTES, "stretch": STRETCH,
                        "chart": str(out), "curves": shown, **run.figures, "seconds": seconds,
                        "total_s": round(total_s, 1)})
        )  # fmt: skip
    else:
        title = f"Lists with a click, %, in the {STRETCH} minutes before minute"
        table = Table(box=None, header_style="bold", title=title, title_justify="left", padding=(0, 1, 0, 0))
        table.add_column("lists", no_wrap=True)
        for end in ends:
            table.add_column(f"{end}", justify="right")
        for name, each in rates.items():
            table.add_row(name, *(f"{100 * rate:.1f}" for rate in each))
        Console(highlight=False).print(table)
        typer.echo(
            f"{users} simulated users with tastes that nobody is told; chart in {out}; {total_s:.0f} s"
        )
    if not shown_all(run.figures):
        raise typer.Exit(int(ExitCode.FAILED))


def shown_all(figures: dict[str, Any]) -> bool:
    """Tell whether lists that learn were better, the better variant was found, and the harmful model taken back."""
    groups, planted, canary = (figures[name] for name in ("groups", "planted", "canary"))
    return (
        (groups["verdict"], groups["variant"]) == ("better", "loop")
        and (planted["verdict"], planted["variant"]) == ("better", "narrow")
        and canary["ended"] == "revert"
        and canary["share_of_lists_after"] == 0.0
    )
