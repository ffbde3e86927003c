"""How long records wait in front of the job, told from their own times of arrival.

A backlog stands in Kafka, where the keyed step cannot see it: the window gathers what the source has read, and is on
time. The step knows the time at which each event reached our producer, and its own clock. Their difference is the
wait plus what has nothing to do with load: clocks that differ, events that were collected for a minute, a replay of
last year. So the least difference of the last minutes is taken off, as LEDBAT does for packets (RFC 6817, base delay
and current delay).

What it cannot see: a backlog of more than `BASE_KEPT_MS` when the job starts, which is drained as fast as a replay
would be, every event asking for its ranking. And a replay that is slower than its events were cannot be told from a
backlog that grows: its users are ranked once an interval.
"""

from __future__ import annotations

from collections import deque

BASE_KEPT_MS = 600_000
"""How long a least difference counts. A jump beyond it is no queue but another time, such as a replay's."""
SAMPLES = 8
"""Batches of which the least late one counts: one late event is no backlog."""


class ArrivalDelay:
    """The wait of the last batches beyond the least one lately; it steers when to rank, and no content.

    At first the least is taken to be none.

    Attributes
    ----------
    lag_ms
        As of the last batch, from 0 to `BASE_KEPT_MS`.
    """

    def __init__(self) -> None:
        self.lag_ms = 0
        self._last: deque[int] = deque(maxlen=SAMPLES)
        self._before_ms, self._least_ms = 0, 0  # of the half of `BASE_KEPT_MS` before, and of this one
        self._half_ends_ms: int | None = None

    def observe(self, delay_ms: int, now_ms: int) -> int:
        """Take in a batch, and give the new `lag_ms`.

        Parameters
        ----------
        delay_ms
            Clock less arrival of the batch's newest event; an arrival in the future counts as now.
        now_ms
            The clock.
        """
        delay_ms = max(delay_ms, 0)
        self._last.append(delay_ms)
        if self._half_ends_ms is None:
            self._half_ends_ms = now_ms + BASE_KEPT_MS // 2
        elif now_ms >= self._half_ends_ms:
            self._before_ms, self._least_ms = self._least_ms, delay_ms
            self._half_ends_ms = now_ms + BASE_KEPT_MS // 2
        self._least_ms = min(self._least_ms, delay_ms)
        current_ms = min(self._last)
        self.lag_ms = current_ms - min(self._before_ms, self._least_ms)
        if self.lag_ms > BASE_KEPT_MS:
            self._before_ms = self._least_ms = current_ms
            self.lag_ms = 0
        return self.lag_ms
