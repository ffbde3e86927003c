"""What the learn job has published, inside a rank worker: `recs.weights.v1` from its start, then followed.

No thread: the client library fetches in the background, and the worker takes what has come before it ranks.
"""

from __future__ import annotations

import time

from confluent_kafka import Consumer, KafkaError, TopicPartition

from flink_jobs.settings import Kafka
from schemas.codec import Codec
from schemas.records import LearntPart
from schemas.refusal import Refused
from schemas.topics import WEIGHTS
from udfs.online.published_ranker import PublishedRanker
from udfs.online.ranker_weights import WeightsError

PER_BATCH = 200  # a version's parts, some milliseconds
FIRST_READ_S = 30.0
_AT_END = (
    KafkaError._PARTITION_EOF,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
)


class WeightsFeed:
    """Keeps a published ranker up to date with what the broker has sent.

    Parameters
    ----------
    settings
        How to reach the broker. Without the topic there is nothing to follow.
    codec
        Reads the records.
    ranker
        Takes the parts.

    Attributes
    ----------
    refused
        Number of records that could not be used: the version before them serves on.
    """

    def __init__(self, settings: Kafka, codec: Codec, ranker: PublishedRanker) -> None:
        self.refused = 0
        self._codec = codec
        self._ranker = ranker
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings.bootstrap_servers,
                "group.id": "tailrace-weights",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "queued.max.messages.kbytes": 16 * 1024,
            }
        )
        self._consumer.assign([TopicPartition(settings.topic_prefix + WEIGHTS.name, 0, 0)])
        self._at_end = False
        deadline_s = time.monotonic() + FIRST_READ_S
        while not self._at_end and time.monotonic() < deadline_s:
            self.follow(0.2)

    def follow(self, timeout_s: float = 0.0) -> int:
        """Take in what has come, at most `PER_BATCH` records, and return how many messages that were."""
        messages = self._consumer.consume(PER_BATCH, timeout_s)
        for message in messages:
            error = message.error()
            if error is not None:
                self._at_end = self._at_end or error.code() in _AT_END
                continue
            try:
                part = self._codec.decode("LearntPart", message.value() or b"")
                assert isinstance(part, LearntPart)
                self._ranker.take(part)
            except (Refused, WeightsError):
                self.refused += 1
        return len(messages)

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()
