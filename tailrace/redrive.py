"""Sends dead letters back to where they came from."""

from __future__ import annotations

from typing import Any

from confluent_kafka import Producer

from flink_jobs.settings import Settings
from schemas.codec import encode
from schemas.topics import DEAD_LETTERS
from tailrace.dead_letters import REDRIVEN_FROM, REDRIVEN_TO, TOPIC, Letter, Place
from tailrace.topic_scan import TopicReader, broker_unreachable, partition_of

_DELIVERY_S = 30.0


def redrive_letters(settings: Settings, letters: list[tuple[Letter, bytes | None]]) -> dict[Place, Place]:
    """Send each letter to the topic that it came from, then mark those that the broker confirmed.

    Parameters
    ----------
    letters
        Each with the key to send it under; None for none.

    Returns
    -------
    dict
        Origin to the new place, of those delivered. Killed in between, a letter may stay unmarked and be sent
        once more; none is lost.
    """
    prefix = settings.kafka.topic_prefix
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "enable.idempotence": True,
            "message.max.bytes": int(DEAD_LETTERS.config["max.message.bytes"]),
            "compression.type": "lz4",
            "delivery.timeout.ms": int(_DELIVERY_S * 1000),
            "log_level": 2,
        }
    )
    targets: dict[Place, Place] = {}
    counts: dict[str, int] = {}
    for letter, key in letters:
        record = letter.letter

        def delivered(error: Any, message: Any, origin: Place = letter.origin) -> None:
            if error is None:
                targets[origin] = Place(origin.topic, message.partition(), message.offset())

        if record.topic not in counts:
            with TopicReader(settings, record.topic) as reader:
                counts[record.topic] = len(reader.partitions())
        # An unchanged key goes where it came from: a user's records must share a partition.
        partition = record.partition
        if key is not None and key != record.key:
            partition = partition_of(key, counts[record.topic])
        producer.produce(
            prefix + record.topic,
            value=record.value,
            key=key,
            partition=partition,
            timestamp=record.timestamp,
            headers=[(REDRIVEN_FROM, str(letter.origin).encode())],
            on_delivery=delivered,
        )
    producer.flush(_DELIVERY_S)
    for letter, _ in letters:
        if letter.origin in targets:
            producer.produce(
                prefix + TOPIC,
                value=encode(letter.letter),
                headers=[(REDRIVEN_TO, str(targets[letter.origin]).encode())],
            )
    if producer.flush(_DELIVERY_S):
        raise broker_unreachable(
            settings.kafka.bootstrap_servers,
            "the letters were sent, but could not be marked as redriven; `dlq ls` lists them as not redriven",
        )
    return targets
