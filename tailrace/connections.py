"""How the commands reach the store, the broker and the job: one place, with the errors that people see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
from confluent_kafka import Producer

from clients.control import ControlProducer
from clients.delivery import Delivery, UndeliveredError
from clients.reader import ReaderError, RecommendationReader
from clients.topics import TopicReport, create_topics
from flink_jobs.settings import Settings
from tailrace.errors import ExitCode, UserError
from tailrace.topic_scan import broker_unreachable

_STORE_TIMEOUT_S = 5.0
_DELIVERY_S = 15.0
QUIET = {"log_level": 2}
"""What goes wrong is said once, by the error that comes of it, and not by the client library on stderr."""


@contextmanager
def store(settings: Settings) -> Iterator[Any]:
    """Give a client of the store that answers texts.

    Raises
    ------
    UserError
        TR-341 when it does not answer, whatever is asked of it inside.
    """
    url = settings.redis.url
    make = redis.RedisCluster.from_url if settings.redis.cluster else redis.Redis.from_url
    client = None
    try:
        client = make(
            url,
            password=password(settings),
            decode_responses=True,
            socket_timeout=_STORE_TIMEOUT_S,
            socket_connect_timeout=_STORE_TIMEOUT_S,
        )
        yield client
    except (redis.RedisError, OSError) as error:
        raise _store_unreachable(url, str(error)) from error
    finally:
        if client is not None:
            client.close()


@contextmanager
def reader(settings: Settings) -> Iterator[RecommendationReader]:
    """Give a reader of lists; TR-341 when the store does not answer."""
    try:
        with store(settings) as client:
            yield RecommendationReader(client, hash_tags=settings.redis.hash_tags)
    except ReaderError as error:
        raise _store_unreachable(settings.redis.url, str(error)) from error


def password(settings: Settings) -> str | None:
    """Give the store's password."""
    secret = settings.redis.password
    return None if secret is None else secret.get_secret_value()


@contextmanager
def control_producer(
    settings: Settings, on_delivery: Callable[[Delivery], None] | None = None
) -> Iterator[ControlProducer]:
    """Give a producer of orders; TR-300 when the broker does not take one."""
    kafka = settings.kafka
    try:
        with ControlProducer(
            kafka.bootstrap_servers,
            topic_prefix=kafka.topic_prefix,
            on_delivery=on_delivery,
            delivery_wait_s=_DELIVERY_S,
            config=QUIET,
        ) as producer:
            yield producer
    except (UndeliveredError, ConnectionError) as error:
        raise broker_unreachable(kafka.bootstrap_servers, str(error)) from error


def ensure_topics(settings: Settings, retention_ms: int | None = None) -> list[TopicReport]:
    """Create the topics that are missing; TR-300 when the broker does not answer."""
    kafka = settings.kafka
    try:
        return create_topics(
            kafka.bootstrap_servers,
            partitions=kafka.partitions,
            replication_factor=kafka.replication_factor,
            retention_ms=kafka.retention_ms if retention_ms is None else retention_ms,
            max_future_ms=kafka.max_future_ms,
            topic_prefix=kafka.topic_prefix,
            config=QUIET,
            timeout_s=_DELIVERY_S,
        )
    except ConnectionError as error:
        raise broker_unreachable(kafka.bootstrap_servers, str(error)) from error


def publish(
    settings: Settings, topic: str, records: list[tuple[str, bytes]], timeout_s: float = 15.0
) -> list[tuple[int, int]]:
    """Write a few records and wait until the broker has them.

    Parameters
    ----------
    topic
        Without the deployment's prefix.
    records
        Key and value of each.

    Returns
    -------
    list
        Partition and offset of each.

    Raises
    ------
    UserError
        TR-300 when one was not taken.
    """
    servers = settings.kafka.bootstrap_servers
    producer = Producer(
        {
            "bootstrap.servers": servers,
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "delivery.timeout.ms": int(timeout_s * 1000),
            **QUIET,
        }
    )
    places: list[tuple[int, int]] = [(-1, -1)] * len(records)
    errors: list[str] = []

    def delivered(error: Any, message: Any, row: int) -> None:
        if error is None:
            places[row] = (message.partition(), message.offset())
        else:
            errors.append(error.str())

    for row, (key, value) in enumerate(records):
        producer.produce(
            settings.kafka.topic_prefix + topic,
            value=value,
            key=key,
            on_delivery=lambda error, message, row=row: delivered(error, message, row),
        )
    left = producer.flush(timeout_s)
    if errors or left:
        raise broker_unreachable(servers, errors[0] if errors else f"{left} records were not confirmed")
    return places


def _store_unreachable(url: str, detail: str) -> UserError:
    return UserError(
        "TR-341",
        f"store at {url}: {detail}",
        "Redis or Valkey is not up, or redis.url names another",
        "tailrace up",
        ExitCode.NOT_RUNNING,
    )
