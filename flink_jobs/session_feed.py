"""The sessions inside a rank worker: the end of `recs.sessions.v1` read at the start, then followed between batches.

No thread: the client library fetches in the background, and the worker takes what has come before it ranks.
Records are committed with the recommend job's checkpoints, so a click is known one checkpoint interval later.
Each worker reads all partitions, each in its order; how they interleave may differ from worker to worker, and so
may, a little, what two workers find.
"""

from __future__ import annotations

import time

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from flink_jobs.settings import Kafka
from flink_jobs.wall_clock import wall_clock_ms
from schemas.codec import Codec
from schemas.topics import SESSIONS
from udfs.ranking.click_records import clicks_of
from udfs.ranking.live_sessions import LiveSessions

PER_BATCH = 1_000  # some milliseconds: a checkpoint commits ten seconds of records at once
FIRST_READ_S = 60.0
REQUEST_S = 10.0


class SessionFeed:
    """Everybody's sessions, up to date with what the broker has sent.

    Parameters
    ----------
    settings
        How to reach the broker.
    codec
        Reads the records; what it refuses is skipped and counted.
    tail
        Records read at the start at most, the newest of each partition.

    Attributes
    ----------
    live
        The session source; its mark is the sum of the offsets behind what was taken in, over all partitions.
    partitions
        Of the topic.
    refused
        Number of records that could not be read.
    behind_ms
        When records came last: wall clock less the event time of the newest; None before the first.
    """

    def __init__(self, settings: Kafka, codec: Codec, tail: int) -> None:
        self.live = LiveSessions()
        self.refused = 0
        self.behind_ms: int | None = None
        self._codec = codec
        self._offsets: dict[int, int] = {}
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings.bootstrap_servers,
                "group.id": "tailrace-sessions",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "fetch.min.bytes": 64 * 1024,
                "fetch.wait.max.ms": 500,
                "queued.max.messages.kbytes": 16 * 1024,
            }
        )
        topic = settings.topic_prefix + SESSIONS.name
        partitions = list(self._consumer.list_topics(topic, REQUEST_S).topics[topic].partitions)
        starts = [TopicPartition(topic, number) for number in partitions]
        for start in starts:
            low, high = self._consumer.get_watermark_offsets(start, REQUEST_S)
            start.offset = max(low, high - tail // len(starts))
            self._offsets[start.partition] = start.offset
        self.partitions = len(partitions)
        self._reading = set(partitions)
        self._consumer.assign(starts)
        deadline_s = time.monotonic() + FIRST_READ_S
        while self._reading and time.monotonic() < deadline_s:
            self.follow(0.2)

    def follow(self, timeout_s: float = 0.0) -> int:
        """Take in what has come, at most `PER_BATCH` records, and return how many messages that were."""
        messages = self._consumer.consume(PER_BATCH, timeout_s)
        if messages:
            self._learn(messages)
        return len(messages)

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def _learn(self, messages: list[Message]) -> None:
        records = []
        for message in messages:
            error = message.error()
            if error is None:
                self._offsets[message.partition()] = message.offset() + 1
                records.append(message.value() or b"")
            elif error.code() == KafkaError._PARTITION_EOF:  # its offset lies behind transactions' marks
                self._offsets[message.partition()] = message.offset()
                self._reading.discard(message.partition())
        clicks = clicks_of(records, self._codec)
        self.refused += clicks.refused
        if len(clicks.session_keys):
            self.live.observe(clicks.session_keys, clicks.item_hashes)
            self.behind_ms = wall_clock_ms() - clicks.newest_ms
        self.live.mark = sum(self._offsets.values())
