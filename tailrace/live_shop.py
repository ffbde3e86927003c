"""The users of a simulated shop as clients of a deployment that runs: they read lists, and what they do is sent.

Event time runs faster than the wall clock. A list is read when its visit is due and as it stands in the store, so
what a user did before counts only where the jobs were quick enough.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from itertools import count
from typing import NamedTuple

from clients.producer import EventProducer
from clients.reader import RecommendationReader
from flink_jobs.settings import Settings
from schemas.records import Event
from tailrace.connections import QUIET, reader
from tailrace.hidden_tastes import MINUTE_MS, HiddenTastes, Visit

LATE_S = 120.0
"""A simulation so far behind its clock shows nothing any more."""


class Seen(NamedTuple):
    """A list as a client got it: event time, what made it, and of how many categories its items are."""

    at_ms: int
    source: str
    variant: str
    model_version: str
    categories: int


class LiveShop:
    """A thread that lets users come as their time is due, until it is closed.

    Parameters
    ----------
    settings
        Of the deployment.
    tastes
        The users.
    speed
        Seconds of event time in one of the wall clock.

    Attributes
    ----------
    seen
        A list a visit.
    behind_s
        How late a visit was at most, by the wall clock.
    """

    def __init__(self, settings: Settings, tastes: HiddenTastes, speed: float) -> None:
        self.seen: list[Seen] = []
        self.behind_s = 0.0
        self._settings, self._tastes, self._speed = settings, tastes, speed
        self._now_ms = tastes.start_ms
        self._closed = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def look_around(self) -> None:
        """Let every user do what they did before minute 0."""
        events = [event for user in self._tastes.users for event in self._tastes.browsed_before(user)]
        with self._producer() as producer:
            self._send(producer, sorted(events, key=lambda event: event.event_time))

    def without_list(self, experiment: str) -> list[str]:
        """Return the users whose list does not name their variant of an experiment."""
        with reader(self._settings) as lists:
            return [
                user.user_id
                for user in self._tastes.users
                if f"{experiment}=" not in lists.get(user.user_id).variant
            ]

    def open(self) -> None:
        """Let minute 0 begin."""
        self._thread.start()

    def close(self) -> None:
        """Let nobody come any more."""
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def minute(self) -> float:
        """Of event time, since the shop was opened.

        Raises
        ------
        BaseException
            What ended the thread.
        """
        if self._error is not None:
            raise self._error
        return (self._now_ms - self._tastes.start_ms) / MINUTE_MS

    def _run(self) -> None:
        try:
            with reader(self._settings) as lists, self._producer() as producer:
                began_s = time.monotonic()
                for minute in count():
                    for visit in self._tastes.visits(minute):
                        due_s = began_s + (visit.at_ms - self._tastes.start_ms) / 1_000 / self._speed
                        if self._closed.wait(max(due_s - time.monotonic(), 0.0)):
                            return
                        self.behind_s = max(self.behind_s, time.monotonic() - due_s)
                        if self.behind_s > LATE_S:
                            raise TimeoutError(f"visits are {self.behind_s:.0f} s late; take a lower --speed")
                        self._visit(visit, lists, producer)
        except BaseException as error:  # `minute` raises it
            self._error = error

    def _visit(self, visit: Visit, lists: RecommendationReader, producer: EventProducer) -> None:
        found = lists.get(visit.user.user_id)
        items = [item.item_id for item in found.items]
        categories = self._tastes.categories(items)
        self.seen.append(Seen(visit.at_ms, found.source, found.variant, found.model_version, categories))
        self._send(producer, self._tastes.answer(visit, found.rec_id, items))
        producer.poll(0)
        self._now_ms = visit.at_ms

    def _send(self, producer: EventProducer, events: Iterable[Event]) -> None:
        for event in events:
            self._now_ms = event.event_time
            producer.send(event)

    def _producer(self) -> EventProducer:
        kafka = self._settings.kafka
        return EventProducer(
            kafka.bootstrap_servers,
            topic_prefix=kafka.topic_prefix,
            clock_ms=lambda: self._now_ms,
            config=QUIET,
        )
