"""History into the events topic: which events, on which clock, how fast, and what became of each.

An event keeps its own time and `received_time` follows it, so nothing is clamped and a replayed day gives the
states that the day gave. A shift moves both by whole days.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from clients.delivery import QueueFullError
from clients.producer import EventProducer
from flink_jobs.settings import Settings
from schemas.refusal import Refused
from tailrace.connections import QUIET
from tailrace.errors import ExitCode, UserError

if TYPE_CHECKING:
    from model_export.sources import EventLog

DAY_MS = 86_400_000
_PROGRESS_EVERY = 500
_FLUSH_S = 60.0


def moment_ms(text: str) -> int:
    """Read a day or a moment, UTC unless it says otherwise.

    Raises
    ------
    UserError
        TR-311.

    Examples
    --------
    >>> moment_ms("2011-11-01"), moment_ms("2011-11-01T01:00+01:00")
    (1320105600000, 1320105600000)
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(
            "TR-311",
            f"{text!r} is not a day or a moment",
            fix="give it as 2011-11-01 or 2011-11-01T08:30, UTC unless it ends in an offset",
            exit_code=ExitCode.USAGE,
        ) from error
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


@dataclass(frozen=True)
class Speed:
    """How fast events leave.

    Parameters
    ----------
    per_s
        Events a second; None: no such limit.
    factor
        Times the speed at which they happened; None: their times do not matter.
    """

    per_s: float | None = None
    factor: float | None = None

    @classmethod
    def parse(cls, text: str) -> Speed:
        """Read `full`, `500/s` or `x60`.

        Raises
        ------
        UserError
            TR-312.

        Examples
        --------
        >>> Speed.parse("500/s"), Speed.parse("x60"), Speed.parse("full")
        (Speed(per_s=500.0, factor=None), Speed(per_s=None, factor=60.0), Speed(per_s=None, factor=None))
        """
        found = re.fullmatch(r"(?:(\d+(?:\.\d+)?)(?:/s)?|x(\d+(?:\.\d+)?)|full)", text.strip())
        values = [float(value) for value in (found.groups() if found else ()) if value is not None]
        if found is None or 0.0 in values:
            raise UserError(
                "TR-312",
                f"speed {text!r}",
                fix="full, or events a second as 500/s, or times as fast as it happened as x60",
                exit_code=ExitCode.USAGE,
            )
        per_s, factor = found.groups()
        return cls(None if per_s is None else float(per_s), None if factor is None else float(factor))

    def due_s(self, row: int, after_first_ms: int) -> float:
        """Give when an event is due, seconds after the first one left."""
        if self.per_s is not None:
            return row / self.per_s
        return 0.0 if self.factor is None else after_first_ms / 1000 / self.factor


def choose(
    log: EventLog, from_ms: int | None = None, until_ms: int | None = None, limit: int | None = None
) -> EventLog:
    """Give the events from one moment to before another, of those the first `limit`."""
    start = 0 if from_ms is None else log.position(from_ms)
    stop = len(log) if until_ms is None else log.position(until_ms)
    if limit is not None:
        stop = min(stop, start + limit)
    return log.part(start, max(start, stop))


def shift_to(log: EventLog, now_ms: int) -> int:
    """Give the whole days, in milliseconds, that bring the newest event to at most one day before `now_ms`.

    Whole days keep the time of day.
    """
    return 0 if len(log) == 0 else (now_ms - int(log.times_ms[-1])) // DAY_MS * DAY_MS


@dataclass
class ReplayReport:
    """What became of the events.

    Parameters
    ----------
    chosen
        Events to send.
    delivered, failed
        Confirmed by the broker, and given up.
    refused
        Reason to count: events that no job would take, not sent.
    undelivered
        Sent or waiting when it ended, and not confirmed.
    last_error
        Of the broker.
    interrupted
        It was ended by Ctrl-C.
    """

    chosen: int
    delivered: int = 0
    failed: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    undelivered: int = 0
    last_error: str | None = None
    interrupted: bool = False
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Every event was confirmed or refused for what it is."""
        return self.delivered + sum(self.refused.values()) == self.chosen


class _EventClock:
    """The producer's clock during a replay: the time at which the event at hand was received."""

    now_ms = 0

    def __call__(self) -> int:
        return self.now_ms


def replay(
    settings: Settings,
    log: EventLog,
    *,
    speed: Speed | None = None,
    shift_ms: int = 0,
    consent: str | None = None,
    tenant: str | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> ReplayReport:
    """Send the events in time order and wait until the broker has them.

    Parameters
    ----------
    consent, tenant
        What every event is given; None keeps its own.
    progress
        Called with the number of events handled.
    """
    report = ReplayReport(len(log))
    refused: Counter[str] = Counter()
    clock, kafka = _EventClock(), settings.kafka
    given: dict[str, Any] = {} if consent is None else {"consent": consent}
    if tenant is not None:
        given["tenant"] = tenant
    pace = speed or Speed()
    paced = pace != Speed()
    producer = EventProducer(
        kafka.bootstrap_servers,
        topic_prefix=kafka.topic_prefix,
        linger_ms=20,
        max_event_bytes=settings.job.max_event_bytes,
        clock_ms=clock,
        config={**QUIET, "delivery.timeout.ms": int(_FLUSH_S * 1000)},
    )
    began_s = time.monotonic()
    first_ms = int(log.times_ms[0]) if len(log) else 0
    try:
        for row, event in enumerate(log):
            if paced:
                wait_s = began_s + pace.due_s(row, event.event_time - first_ms) - time.monotonic()
                if wait_s > 0:
                    progress(row)
                    _wait(producer, wait_s)
            if shift_ms or given:
                event = event._replace(event_time=event.event_time + shift_ms, **given)
            clock.now_ms = (event.received_time or event.event_time - shift_ms) + shift_ms
            try:
                producer.send(event)
            except Refused as reason:
                refused[reason.reason] += 1
            if row % _PROGRESS_EVERY == 0:
                progress(row)
    except KeyboardInterrupt:
        report.interrupted = True
    except QueueFullError as error:
        report.last_error = str(error)
    report.undelivered = producer.flush(_FLUSH_S)
    report.delivered, report.failed, report.refused = producer.delivered, producer.failed, dict(refused)
    report.last_error = report.last_error or (producer.last_error if not report.complete else None)
    report.seconds = time.monotonic() - began_s
    progress(report.delivered + sum(refused.values()))
    return report


def _wait(producer: EventProducer, seconds: float) -> None:
    deadline_s = time.monotonic() + seconds
    while (left_s := deadline_s - time.monotonic()) > 0:
        producer.flush(0)
        time.sleep(min(left_s, 0.2))
