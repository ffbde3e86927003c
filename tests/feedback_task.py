"""Runs the feedback job's keyed step without Flink: windows, watermarks that overtake them, and ticks."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from pyflink.datastream import TimeDomain

from flink_jobs.settings import Settings
from flink_jobs.shards import shard_keys, shard_of
from tests.state_in_memory import MapState, ValueState

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # PyFlink's own, while it is imported
    from flink_jobs import feedback_shell
    from flink_jobs.feedback_shell import SOURCES, FeedbackShell
    from flink_jobs.prefix import SOURCE_STRIDE


class Sent(NamedTuple):
    """A record, and when it reaches the window, by the wall clock."""

    arrival_ms: int
    topic: str
    key: str
    value: bytes
    at_ms: int


class FeedbackTask:
    """All shards of the step in one task, fed by windows as the SQL in front does.

    Attributes
    ----------
    rows
        What left.
    now_ms
        The wall clock.
    """

    def __init__(self, settings: Settings, monkeypatch: pytest.MonkeyPatch, now_ms: int) -> None:
        self.rows: list[Any] = []
        self.now_ms = now_ms
        self._settings = settings
        self._states: dict[tuple[int, str], Any] = {}
        self._key = 0
        self._watermark_ms = -(1 << 63)
        self._offset = 0
        self._ticks: set[tuple[int, int]] = set()
        monkeypatch.setattr(feedback_shell, "wall_clock_ms", lambda: self.now_ms)
        self._start()

    def _start(self) -> None:
        self._shell = FeedbackShell(self._settings)
        self._shell.open(self)  # type: ignore[arg-type]

    def checkpoint(self) -> Any:
        """Give all that survives."""
        return copy.deepcopy((self._states, self.rows, self._offset, self._ticks))

    def restore(self, checkpoint: Any) -> None:
        """Start anew from there, as after a kill: a new function, no watermark yet."""
        self._states, self.rows, self._offset, self._ticks = copy.deepcopy(checkpoint)
        self._watermark_ms = -(1 << 63)
        self._start()

    def send(self, records: Sequence[Sent]) -> None:
        """Pass records through windows of `feedback.batch_ms`; the watermark goes ahead of those that wait."""
        window_ms, shards = self._settings.feedback.batch_ms, self._settings.job.shards
        waiting = list(records)
        while waiting:
            end_ms = (waiting[0].arrival_ms // window_ms + 1) * window_ms
            inside = [one for one in waiting if one.arrival_ms < end_ms]
            waiting = waiting[len(inside) :]
            ahead = [one for one in waiting if one.arrival_ms < end_ms + window_ms // 2]
            self._tick_until(end_ms + window_ms // 2)
            newest_ms = max(one.at_ms for one in [*inside, *ahead])
            self._watermark_ms = max(self._watermark_ms, newest_ms - 1_000)
            by_shard: dict[int, list[Sent]] = {}
            for one in inside:
                by_shard.setdefault(shard_of(one.key, shards), []).append(one)
            for shard, found in by_shard.items():
                self._key = shard_keys(shards)[shard]
                columns: tuple[list[Any], ...] = ([], [], [], [], [])
                for one in found:
                    self._offset += 1
                    place = SOURCES.index(one.topic) * SOURCE_STRIDE
                    for column, field in zip(
                        columns, (one.key, one.value, place, self._offset, one.at_ms), strict=True
                    ):
                        column.append(field)
                self.rows += self._shell.process_element((*columns, end_ms), self)  # type: ignore[arg-type]

    def _tick_until(self, until_ms: int) -> None:
        while self._ticks and min(self._ticks)[0] <= until_ms:
            at_ms, self._key = min(self._ticks)
            self._ticks.discard((at_ms, self._key))
            self.now_ms = max(self.now_ms, at_ms)
            self.rows += self._shell.on_timer(at_ms, self)  # type: ignore[arg-type]
        self.now_ms = max(self.now_ms, until_ms)

    def rest(self, for_ms: int) -> None:
        """Let wall time pass without a record."""
        self._tick_until(self.now_ms + for_ms)

    def counts(self) -> dict[str, int]:
        """Sum the shards' counts."""
        total: dict[str, int] = {}
        for shard in self._shell._shards.values():
            for name, count in shard.record.counts.items():
                total[name] = total.get(name, 0) + count
        return total

    def users(self) -> int:
        """Number of users of whom anything is kept."""
        return sum(len(state) for (_, name), state in self._states.items() if name == "users")

    # --- what Flink gives the function --------------------------------------------------------------------

    def get_map_state(self, descriptor: Any) -> Any:
        return _State(self, MapState, descriptor.name)

    def get_state(self, descriptor: Any) -> Any:
        return _State(self, ValueState, descriptor.name)

    def state(self, kind: type, name: str) -> Any:
        return self._states.setdefault((self._key, name), kind())

    def get_current_key(self) -> int:
        return self._key

    def timer_service(self) -> FeedbackTask:
        return self

    def time_domain(self) -> TimeDomain:
        return TimeDomain.PROCESSING_TIME

    def current_watermark(self) -> int:
        return self._watermark_ms

    def register_processing_time_timer(self, at_ms: int) -> None:
        self._ticks.add((at_ms, self._key))


class _State:
    """The state of that name of the current key, as Flink gives it."""

    def __init__(self, task: FeedbackTask, kind: type, name: str) -> None:
        self._task, self._kind, self._name = task, kind, name

    def __getattr__(self, method: str) -> Any:
        return getattr(self._task.state(self._kind, self._name), method)
