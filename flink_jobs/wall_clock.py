"""The clock of this machine, for what paces and measures; no output of any logic depends on it."""

from __future__ import annotations

import time


def wall_clock_ms() -> int:
    """Give milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000
