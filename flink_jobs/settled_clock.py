"""The event-time clock that every record already applied has passed.

A watermark overtakes records that wait in a processing-time window: it goes through at once, they leave when the
window ends. Where time runs faster than the wall clock, as in a replay, that is days. So a record is applied at the
watermark that was seen before its window began. No record that is in order is late by that clock.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

KEPT: Final = 600
SPACING_MS: Final = 100
BUSY_MS: Final = 2_000
"""A task that was away for longer may have batches waiting that it has not seen."""


class SettledClock:
    """Watermarks and when each was seen: as many as cover a minute, in this process only.

    After a restart there are none, and the clock stands where the state says until the first is old enough.

    Parameters
    ----------
    window_ms
        Length of the windows in front.

    Examples
    --------
    >>> clock = SettledClock(window_ms=1_000)
    >>> clock.see(now_ms=5_000, watermark_ms=70)
    >>> clock.see(now_ms=5_500, watermark_ms=90)
    >>> clock.at_window(window_end_ms=6_000), clock.at_window(window_end_ms=6_500)
    (70, 90)
    """

    def __init__(self, window_ms: int) -> None:
        self._window_ms = window_ms
        self._seen_ms: list[int] = []
        self._watermarks_ms: list[int] = []
        self._called_ms = 0
        self._free_from_ms = 0

    def see(self, now_ms: int, watermark_ms: int) -> None:
        """Note the watermark.

        Parameters
        ----------
        now_ms
            Wall clock, by which windows end too.
        watermark_ms
            Event time; negative: none yet.
        """
        if now_ms - self._called_ms > BUSY_MS:
            self._free_from_ms = now_ms + BUSY_MS
        self._called_ms = now_ms
        if watermark_ms < 0 or (self._watermarks_ms and watermark_ms <= self._watermarks_ms[-1]):
            return
        if self._seen_ms and now_ms - self._seen_ms[-1] < SPACING_MS:
            return
        self._seen_ms.append(now_ms)
        self._watermarks_ms.append(watermark_ms)
        if len(self._seen_ms) > 2 * KEPT:
            del self._seen_ms[:KEPT], self._watermarks_ms[:KEPT]

    def at_window(self, window_end_ms: int) -> int:
        """Return the watermark for records of a window; 0: not known."""
        return self._before(window_end_ms - self._window_ms)

    def at_rest(self, now_ms: int) -> int:
        """Return the watermark that all windows up to it have left; 0: not known, or the task was away."""
        if now_ms < self._free_from_ms:
            return 0
        return self._before(now_ms - self._window_ms - BUSY_MS)

    def _before(self, at_ms: int) -> int:
        place = bisect_right(self._seen_ms, at_ms)
        return self._watermarks_ms[place - 1] if place else 0
