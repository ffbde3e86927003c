"""Waiting for what must come, on a machine of any speed."""

from __future__ import annotations

import time
from collections.abc import Callable

SLOWER = 4.0
"""How much slower than one at rest a machine may be, with whatever else runs on it, before a wait is given up."""


def until(
    holds: Callable[[], object], timeout_s: float, what: str | Callable[[], str], pause_s: float = 0.1
) -> None:
    """Wait until something holds; say what was missing when it did not come.

    Parameters
    ----------
    timeout_s
        Ample on a machine at rest. A slower one gets `SLOWER` times as long.
    """
    began_s = time.monotonic()
    while not holds():
        waited_s = time.monotonic() - began_s
        if waited_s > SLOWER * timeout_s:
            text = what if isinstance(what, str) else what()
            raise AssertionError(f"after {waited_s:.0f} s: {text}")
        time.sleep(pause_s)
