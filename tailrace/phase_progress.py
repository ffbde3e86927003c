"""Progress bars on standard error, one for each phase of long work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def phase_progress(*, shown: bool, width: int) -> Iterator[Callable[[str, float], None] | None]:
    """Give a function that takes a phase and its share done, 0 to 1; None where nothing is shown.

    Parameters
    ----------
    shown
        Whether anybody looks.
    width
        Characters of the longest phase.
    """
    if not shown:
        yield None
        return
    columns = (TextColumn(f"{{task.description:>{width}}}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def tell(phase: str, share: float) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=1.0)
            bars.update(tasks[phase], completed=share)

        yield tell
