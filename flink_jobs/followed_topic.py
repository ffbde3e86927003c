"""A compacted topic of one partition inside a rank worker: read from its start, then followed between batches.

No thread: the client library fetches in the background, and the worker takes what has come before it ranks.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from confluent_kafka import Consumer, KafkaError, TopicPartition

from flink_jobs.settings import Kafka
from schemas.topics import Topic

FIRST_READ_S = 30.0
_AT_END = (
    KafkaError._PARTITION_EOF,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
)


class FollowedTopic:
    """Gives each committed record of a topic to whoever wants them, in order.

    Parameters
    ----------
    settings
        How to reach the broker. Without the topic there is nothing to follow.
    topic
        Compacted, of one partition.
    take
        Called with each key, value and offset; the value of a tombstone is None.
    per_batch
        Records of one call of `follow` at most.
    """

    def __init__(
        self,
        settings: Kafka,
        topic: Topic,
        take: Callable[[str, bytes | None, int], None],
        per_batch: int = 1_000,
    ) -> None:
        self._take = take
        self._per_batch = per_batch
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings.bootstrap_servers,
                "group.id": "tailrace-rank",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "queued.max.messages.kbytes": 16 * 1024,
            }
        )
        self._consumer.assign([TopicPartition(settings.topic_prefix + topic.name, 0, 0)])
        self._at_end = False
        deadline_s = time.monotonic() + FIRST_READ_S
        while not self._at_end and time.monotonic() < deadline_s:
            self.follow(0.2)

    def follow(self, timeout_s: float = 0.0) -> int:
        """Take in what has come, and return how many messages that were."""
        messages = self._consumer.consume(self._per_batch, timeout_s)
        for message in messages:
            error = message.error()
            if error is None:
                key = (message.key() or b"").decode("utf-8", "replace")
                self._take(key, message.value(), message.offset())
            elif error.code() in _AT_END:  # an offset says too little: compaction and transactions leave gaps
                self._at_end = True
        return len(messages)

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()
