"""`tailrace demo loop`: what feedback brings, over an hour of a simulated shop with the real catalogue."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from flink_jobs.settings import Settings
from model_export.line_chart import line_chart
from tailrace.phase_progress import phase_progress

MINUTES = 60
BIN = 5
"""Minutes of a point of the chart."""


def show_loop(settings: Settings, users: int, seed: int, out: Path, as_json: bool) -> None:
    """Play the hour, draw the click rates into a file, and print them.

    Parameters
    ----------
    users
        Who may come.
    out
        The chart, SVG.
    """
    from flink_jobs.rank_settings import rank_settings
    from tailrace.commands.replay import read_file
    from tailrace.demo_model import ensure_bundle
    from tailrace.demo_story import CUT, DATA
    from tailrace.event_replay import moment_ms
    from tailrace.hidden_tastes import HiddenTastes
    from tailrace.loop_story import play
    from tailrace.loop_trial import run_trial
    from udfs.model.bundle import Bundle

    began_s, model = time.monotonic(), settings.model
    with phase_progress(shown=not as_json, width=24) as tell:
        log, _ = read_file(DATA, None, False)
        epoch, _ = ensure_bundle(
            settings, DATA, log.file_sha256, moment_ms(CUT), CUT, tell or (lambda phase, share: None)
        )
        bundle = Bundle.open(model.root / str(epoch))
        ranking = rank_settings(settings)
        hours = play(bundle, users, MINUTES, seed, ranking, tell)
        tastes, worse = HiddenTastes(bundle, users, seed), {"diversity": 1.0}
        trials = {
            "a harmful variant": run_trial(bundle, tastes, worse, ranking, MINUTES),
            "a better variant": run_trial(
                bundle, tastes, {"diversity": model.diversity}, replace(ranking, **worse), MINUTES
            ),
        }
    bins = range(0, MINUTES, BIN)
    rates = {name: [hour.rate(first, first + BIN) for first in bins] for name, hour in hours.items()}
    ends = [first + BIN for first in bins]
    chart = line_chart("Lists with a click", ends, rates, across="simulated minutes", from_zero=True)
    out.write_text(chart, encoding="utf-8")
    total_s = time.monotonic() - began_s
    if as_json:
        plain = {
            name: {
                "click_rate": [round(value, 5) for value in rates[name]],
                "lists": sum(hour.shown),
                "examples": hour.examples,
                "credits": hour.credits,
            }
            for name, hour in hours.items()
        }
        planted = {
            name: {
                "verdict": trial.word,
                "variant": trial.variant,
                "minute": trial.minute,
                "promoted": dict(trial.promoted),
                "click_rate": [round(trial.hour.rate(first, first + BIN), 5) for first in bins],
            }
            for name, trial in trials.items()
        }
        typer.echo(
            json.dumps({"minutes": MINUTES, "bin": BIN, "users": users, "seed": seed, "epoch": epoch,
                        "chart": str(out), "policies": plain, "planted": planted, "total_s": round(total_s, 1)})
        )  # fmt: skip
        return
    table = Table(box=None, header_style="bold", title="Lists with a click, %", title_justify="left")
    table.add_column("policy")
    for first in range(0, MINUTES, 2 * BIN):
        table.add_column(f"{first}-{first + 2 * BIN} min", justify="right")
    for name, hour in hours.items():
        columns = (hour.rate(first, first + 2 * BIN) for first in range(0, MINUTES, 2 * BIN))
        table.add_row(name, *(f"{100 * rate:.1f}" for rate in columns))
    Console(highlight=False).print(table)
    for name, trial in trials.items():
        done = (
            "not decided within the hour"
            if trial.minute is None
            else f"{trial.word} after {trial.minute} minutes"
        )
        what = f"; promoted {dict(trial.promoted)}" if trial.promoted else ""
        first, last = (100 * trial.hour.rate(*of) for of in ((0, 10), (MINUTES - 10, MINUTES)))
        typer.echo(f"{name}, planted: {done}{what}; lists with a click {first:.1f} % → {last:.1f} %")
    typer.echo(f"{users} simulated users with tastes that nobody is told; chart in {out}; {total_s:.0f} s")
