"""Runs a keyed function of a job without Flink: its states in dictionaries, one shard, no timer fires by itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from pyflink.common import Row
from pyflink.datastream import TimeDomain

from flink_jobs.settings import Settings
from flink_jobs.shards import shard_keys
from tests.state_in_memory import MapState, ValueState

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # PyFlink's own, while it is imported
    from flink_jobs import user_shell
    from flink_jobs.prefix import CONTROL, EVENTS, SOURCE_STRIDE, SOURCES
    from flink_jobs.user_shell import UserShell

__all__ = ["CONTROL", "EVENTS", "ShellInMemory", "of_kind", "user_shell"]


class ShellInMemory:
    """The users' operator of the recommend job, with one shard.

    Attributes
    ----------
    timers_ms, event_timers_ms
        Processing-time and event-time timers that were asked for.
    """

    def __init__(self, settings: Settings) -> None:
        assert settings.job.shards == 1
        self.states: dict[str, Any] = {}
        self.timers_ms: list[int] = []
        self.event_timers_ms: list[int] = []
        self._domain, self._watermark_ms = TimeDomain.PROCESSING_TIME, 0
        self.shell = UserShell(settings)
        self.shell.open(self)  # type: ignore[arg-type]

    def run(self, records: Sequence[tuple[str, str, bytes, int]], window_end_ms: int = 0) -> list[Row]:
        """Apply one micro-batch of (topic, key, value, offset)."""
        columns: tuple[list[Any], ...] = ([], [], [], [], [])
        for topic, key, value, offset in records:
            row = (key, value, SOURCES.index(topic) * SOURCE_STRIDE, offset, 0)
            for column, field in zip(columns, row, strict=True):
                column.append(field)
        return list(self.shell.process_element((*columns, window_end_ms), self))  # type: ignore[arg-type]

    def tick(self, timestamp_ms: int) -> list[Row]:
        """Let a processing-time timer fire."""
        return list(self.shell.on_timer(timestamp_ms, self))  # type: ignore[arg-type]

    def wake(self, timestamp_ms: int, watermark_ms: int) -> list[Row]:
        """Let an event-time timer fire."""
        self._domain, self._watermark_ms = TimeDomain.EVENT_TIME, watermark_ms
        rows = self.tick(timestamp_ms)
        self._domain = TimeDomain.PROCESSING_TIME
        return rows

    # --- what Flink gives the function --------------------------------------------------------------------

    def get_map_state(self, descriptor: Any) -> MapState:
        return self.states.setdefault(descriptor.name, MapState())

    def get_state(self, descriptor: Any) -> ValueState:
        return self.states.setdefault(descriptor.name, ValueState())

    def get_current_key(self) -> int:
        return shard_keys(1)[0]

    def timer_service(self) -> ShellInMemory:
        return self

    def time_domain(self) -> TimeDomain:
        return self._domain

    def current_watermark(self) -> int:
        return self._watermark_ms

    def register_processing_time_timer(self, at_ms: int) -> None:
        self.timers_ms.append(at_ms)

    def register_event_time_timer(self, at_ms: int) -> None:
        self.event_timers_ms.append(at_ms)


def of_kind(rows: Iterable[Row], kind: int) -> list[Row]:
    """Give the rows of one kind."""
    return [row for row in rows if row[0] == kind]
