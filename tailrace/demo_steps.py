"""How a demo's steps are run and shown: one line each, and some at the same time."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class Aside:
    """Work in a thread of its own, which does not outlive the command."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # join raises it
            self._error = error

    def join(self) -> None:
        """Wait for the work, and raise what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error


class StepDisplay:
    """One line a step: a spinner, what it is at, its seconds; plain lines where there is no terminal."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stdout.isatty() and not quiet
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TimeElapsedColumn(),
            TextColumn("{task.fields[at]}", style="dim"),
            disable=not self._live,
        )

    def __enter__(self) -> StepDisplay:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def step(self, title: str, work: Callable[[Callable[[str, float | None], None]], str]) -> float:
        """Run a step, show how it goes and what came of it, and give its seconds."""
        began_s = time.monotonic()
        task: TaskID = self._bars.add_task(f"{title:<26}", total=None, at="")

        def tell(at: str, share: float | None) -> None:
            if share is None:
                self._bars.update(task, at=at[:60])
            else:
                self._bars.update(task, total=1.0, completed=min(share, 0.99), at=at[:60])

        result = work(tell)
        took_s = time.monotonic() - began_s
        self._bars.update(task, total=1.0, completed=1.0, at=result)
        if not self._live and not self._quiet:
            typer.echo(f"{took_s:6.1f} s  {title:<26} {result}")
        return round(took_s, 2)
