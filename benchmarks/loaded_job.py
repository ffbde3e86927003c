"""A recommend job under load, and what it leaves behind: times of `recs.served.v1`, CPU seconds of its processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from confluent_kafka import Consumer, TopicPartition

from flink_jobs.settings import Settings
from schemas import topics
from schemas.codec import Codec
from tailrace import flink_client
from tailrace.stack.local import LocalStack

SERVED = topics.SERVED.name
USERS = 50_000


class Window(NamedTuple):
    """What one load left behind.

    Attributes
    ----------
    event_ms, served_ms
        int64 (n,): a list's newest event and when it stood in the store, in the order of the topic.
    load
        What the generator says of itself.
    cpu_s
        CPU seconds of the TaskManagers and their UDF workers meanwhile.
    """

    event_ms: np.ndarray
    served_ms: np.ndarray
    load: dict[str, Any]
    cpu_s: float

    def freshness_ms(self) -> np.ndarray:
        """Event to store, for every list written."""
        return self.served_ms - self.event_ms


class LoadedJob:
    """A running job under load.

    Parameters
    ----------
    settings
        Of the stack, which a bench owns.
    model
        Folder of the bundle that serves.
    mix
        Of `benchmarks.load`.
    progress
        Takes a line of text.
    """

    def __init__(
        self, settings: Settings, model: Path, progress: Callable[[str], None], mix: str = "click"
    ) -> None:
        self.settings, self.model, self.progress, self.mix = settings, model, progress, mix
        self.stack = LocalStack(settings)
        self.jobmanager = flink_client.local_jobmanager(settings)
        self._codec = Codec(settings.kafka.schema_ids)

    def pids(self) -> list[int]:
        """Process ids of the TaskManagers."""
        return [
            service.pid
            for service in self.stack.status().services
            if service.name.startswith("taskmanager") and service.pid
        ]

    def load(self, rate: float, seconds: float, meanwhile: Callable[[], None] | None = None) -> Window:
        """Send a load, wait until its lists stand, and read them off the topic."""
        before = self._ends()
        cpu_before = cpu_seconds(self.pids())
        command = [
            sys.executable, "-m", "benchmarks.load", "--bootstrap", self.settings.kafka.bootstrap_servers,
            "--model", str(self.model), "--rate", str(rate), "--seconds", str(seconds), "--users", str(USERS),
            "--mix", self.mix,
        ]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as generator:
            if meanwhile is not None:
                meanwhile()
            said, _ = generator.communicate()
        self._settle()
        cpu_s = cpu_seconds(self.pids()) - cpu_before
        event_ms, served_ms = self._read(before)
        return Window(event_ms, served_ms, json.loads(said), cpu_s)

    def _settle(self, quiet_s: float = 2.0, at_most_s: float = 60.0) -> None:
        last, since = self._ends(), time.monotonic()
        deadline = since + at_most_s
        while time.monotonic() - since < quiet_s and time.monotonic() < deadline:
            time.sleep(0.25)
            now = self._ends()
            if now != last:
                last, since = now, time.monotonic()

    def _consumer(self) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self.settings.kafka.bootstrap_servers,
                "group.id": "tailrace-bench",
                "enable.auto.commit": False,
            }
        )

    def _ends(self) -> dict[int, int]:
        consumer = self._consumer()
        try:
            return {
                partition: consumer.get_watermark_offsets(TopicPartition(SERVED, partition), timeout=10)[1]
                for partition in range(self.settings.kafka.partitions)
            }
        finally:
            consumer.close()

    def _read(self, before: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
        ends = self._ends()
        consumer = self._consumer()
        consumer.assign([TopicPartition(SERVED, partition, start) for partition, start in before.items()])
        left = sum(ends.values()) - sum(before.values())
        times: list[tuple[int, int]] = []
        deadline = time.monotonic() + 120
        while left > 0 and time.monotonic() < deadline:
            for message in consumer.consume(5_000, 1.0):
                if message.error() is None and message.offset() < ends[message.partition()]:
                    left -= 1
                    record = self._codec.decode("ServedList", message.value())
                    times.append((record.event_time, record.served_time))
        consumer.close()
        array = np.array(times, np.int64).reshape(-1, 2)
        return array[:, 0], array[:, 1]


def cpu_seconds(pids: list[int]) -> float:
    """Give user and system CPU seconds of processes and their descendants."""
    total = 0.0
    for pid in pids:
        process = psutil.Process(pid)
        for member in [process, *process.children(recursive=True)]:
            times = member.cpu_times()
            total += times.user + times.system
    return total
