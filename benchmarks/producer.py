"""What sending an event costs the shop, for several batch settings.

Run `python -m benchmarks.producer --brokers HOST:PORT [--json]`. It sends to a topic of its own, which it
creates and deletes (`bench-<time>-recs.events.v1`).
"""

from __future__ import annotations

import argparse
import json
import time

from confluent_kafka.admin import AdminClient, NewTopic

from clients.producer import EventProducer, new_event
from schemas.topics import EVENTS

SETTINGS = [
    (linger_ms, compression) for compression in ("lz4", "zstd", "none") for linger_ms in (0, 1, 5, 20, 50)
]


def measure(brokers: str, prefix: str, events: int, linger_ms: float, compression: str) -> dict[str, object]:
    """Events/s as fast as they are taken, CPU of this process with librdkafka's threads, and latency."""
    made = [
        new_event(
            "view",
            f"user-{number % 5_000}",
            f"item-{number * 7919 % 20_000}",
            context={"device": "mobile", "country": "CH", "page": "product"},
            consent="personalization",
        )
        for number in range(events)
    ]
    with EventProducer(
        brokers, topic_prefix=prefix, linger_ms=linger_ms, compression=compression
    ) as producer:
        producer.send(made[0])
        producer.flush()
        before_cpu_s, before_s = time.process_time(), time.perf_counter()
        for event in made:
            producer.send(event)
        producer.flush()
        cpu_s, wall_s = time.process_time() - before_cpu_s, time.perf_counter() - before_s
    return {
        "linger_ms": linger_ms,
        "compression": compression,
        "events_per_s": round(events / wall_s),
        "cpu_us_per_event": round(cpu_s / events * 1e6, 1),
        "p50_ms_at_1000_per_s": _latency_ms(brokers, prefix, linger_ms, compression, made[:1_000]),
    }


def _latency_ms(brokers: str, prefix: str, linger_ms: float, compression: str, events: list) -> float:
    """Median time from `send` to the brokers' word, at 1,000 events/s."""
    took_s: list[float] = []
    sent_s: list[float] = []
    with EventProducer(
        brokers,
        topic_prefix=prefix,
        linger_ms=linger_ms,
        compression=compression,
        on_delivery=lambda _: took_s.append(time.perf_counter()),
    ) as producer:
        producer.send(events[0])
        producer.flush()
        took_s.clear()
        start_s = time.perf_counter()
        for number, event in enumerate(events):
            while (left_s := start_s + number / 1_000 - time.perf_counter()) > 0:
                producer.poll(left_s)
            sent_s.append(time.perf_counter())
            producer.send(event)
    # Deliveries of one partition come in order; the medians of both ends are compared.
    waits = sorted(done - sent for sent, done in zip(sent_s, sorted(took_s), strict=True))
    return round(waits[len(waits) // 2] * 1e3, 1)


def main() -> None:
    """Print one line a setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    prefix = f"bench-{time.time_ns() // 1_000_000}-"
    admin = AdminClient({"bootstrap.servers": arguments.brokers})
    topic = prefix + EVENTS.name
    admin.create_topics([NewTopic(topic, num_partitions=8, replication_factor=1)])[topic].result(20)
    try:
        for linger_ms, compression in SETTINGS:
            figures = measure(arguments.brokers, prefix, arguments.events, linger_ms, compression)
            print(
                json.dumps(figures) if arguments.json else "  ".join(f"{k} {v}" for k, v in figures.items()),
                flush=True,
            )
    finally:
        admin.delete_topics([topic])[topic].result(20)


if __name__ == "__main__":
    main()
