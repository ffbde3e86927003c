"""Bounded reads of topics, to where each ended when the read began; no group, no commits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from flink_jobs.settings import Settings
from tailrace.errors import ExitCode, UserError

_WAIT_S = 15.0


class Record(NamedTuple):
    """One Kafka record, `value` None for a tombstone."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


class TopicReader:
    """Reads parts of one topic; use it as a context.

    Parameters
    ----------
    topic
        Without the deployment's prefix.
    """

    def __init__(self, settings: Settings, topic: str) -> None:
        self._name = settings.kafka.topic_prefix + topic
        self._topic = topic
        self._servers = settings.kafka.bootstrap_servers
        self._consumer = Consumer(
            {
                "bootstrap.servers": self._servers,
                "group.id": "tailrace-command",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "log_level": 2,
                "fetch.max.bytes": 20 << 20,
                "error_cb": lambda error: None,
            }
        )

    def __enter__(self) -> TopicReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def partitions(self) -> list[int]:
        """Return the topic's partitions.

        Raises
        ------
        UserError
            TR-300 when the broker does not answer, TR-342 when there is no such topic.
        """
        try:
            found = self._consumer.list_topics(self._name, timeout=5.0).topics[self._name]
        except KafkaException as error:
            raise broker_unreachable(self._servers, str(error.args[0].str())) from error
        if found.error is not None:
            raise UserError(
                "TR-342",
                f"topic {self._name}: {found.error.str()}",
                "the first `tailrace submit` or `tailrace replay` makes topics; or kafka.topic_prefix is another",
                "tailrace replay FILE --limit 0",
                ExitCode.NOT_RUNNING,
            )
        return sorted(found.partitions)

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return the first offset there is and the one behind the last."""
        try:
            low, high = self._consumer.get_watermark_offsets(
                TopicPartition(self._name, partition), timeout=5.0
            )
        except KafkaException as error:
            raise broker_unreachable(self._servers, str(error.args[0].str())) from error
        return int(low), int(high)

    def read(self, partition: int, start: int, end: int) -> Iterator[Record]:
        """Yield the records from `start` to before `end`; offsets that hold no record are passed over."""
        if start >= end:
            return
        place = TopicPartition(self._name, partition, start)
        self._consumer.assign([place])
        deadline_s = time.monotonic() + _WAIT_S
        while True:
            message = self._consumer.poll(0.5)
            if message is None:
                if time.monotonic() > deadline_s:
                    raise broker_unreachable(self._servers, f"no record of {self._name} for {_WAIT_S:.0f} s")
                if self._consumer.position([place])[0].offset >= end:
                    return
                continue
            deadline_s = time.monotonic() + _WAIT_S
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    return
                if error.retriable():
                    continue
                raise broker_unreachable(self._servers, error.str())
            if message.offset() >= end:
                return
            yield Record(
                self._topic,
                partition,
                message.offset(),
                message.timestamp()[1],
                message.key(),
                message.value(),
                tuple(message.headers() or ()),
            )
            if message.offset() + 1 >= end:
                return

    def read_all(self, at_most: int | None = None) -> Iterator[Record]:
        """Yield what the topic holds now, partition after partition, of each the last `at_most` records."""
        for partition in self.partitions():
            low, high = self.bounds(partition)
            yield from self.read(partition, low if at_most is None else max(low, high - at_most), high)

    def read_backwards(self, partition: int, at_most: int, step: int = 500) -> Iterator[Record]:
        """Yield a partition's last `at_most` records, the newest first."""
        low, high = self.bounds(partition)
        low = max(low, high - at_most)
        while high > low:
            start = max(low, high - step)
            yield from reversed(list(self.read(partition, start, high)))
            high, step = start, 2 * step


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition that Kafka's default partitioner (murmur2) gives a key.

    Examples
    --------
    >>> partition_of(b"default/u1", 8)
    6
    """
    return (_murmur2(key) & 0x7FFF_FFFF) % partitions


def _murmur2(data: bytes) -> int:
    mix, mask = 0x5BD1_E995, 0xFFFF_FFFF
    length = len(data)
    value = 0x9747_B28C ^ length
    whole = length & ~3
    for place in range(0, whole, 4):
        word = int.from_bytes(data[place : place + 4], "little") * mix & mask
        word = (word ^ word >> 24) * mix & mask
        value = (value * mix & mask) ^ word
    if whole < length:
        value = (value ^ int.from_bytes(data[whole:], "little")) * mix & mask
    value = (value ^ value >> 13) * mix & mask
    return value ^ value >> 15


def broker_unreachable(servers: str, detail: str) -> UserError:
    """Return the error for a broker that does not answer."""
    return UserError(
        "TR-300",
        f"Kafka at {servers}: {detail}",
        "the broker is not up, or kafka.bootstrap_servers names another",
        "tailrace up",
        ExitCode.NOT_RUNNING,
    )
