"""Creates the topics of a deployment, and says where existing ones differ from what the jobs rest on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NamedTuple

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from schemas.topics import TOPICS, partition_count, topic_config

TIMEOUT_S: Final = 20.0
KNOWN_WITHIN_S: Final = 5.0


class TopicReport(NamedTuple):
    """What became of one topic.

    Parameters
    ----------
    name
        With the deployment's prefix.
    state
        ``created``, ``exists`` as wanted, or ``differs``: it is left as it is.
    differences
        Setting to (wanted, found); ``partitions`` among them.
    """

    name: str
    state: Literal["created", "exists", "differs"]
    differences: dict[str, tuple[str, str]]


def create_topics(
    bootstrap_servers: str,
    *,
    partitions: int,
    replication_factor: int,
    retention_ms: int,
    max_future_ms: int,
    topic_prefix: str = "",
    config: Mapping[str, Any] | None = None,
    timeout_s: float = TIMEOUT_S,
    make_admin: Callable[[dict[str, Any]], Any] = AdminClient,
) -> list[TopicReport]:
    """Create what is missing; calling it again changes nothing.

    Parameters
    ----------
    partitions, replication_factor, retention_ms, max_future_ms, topic_prefix
        The deployment's settings of section `kafka`.
    config
        More librdkafka settings, as for TLS and SASL.

    Returns
    -------
    list
        One report a topic, in the order of `schemas.topics.TOPICS`.

    Raises
    ------
    ConnectionError
        If the brokers cannot be reached, or refuse a topic.
    """
    admin = make_admin({"bootstrap.servers": bootstrap_servers, **(config or {})})
    settings = {
        topic_prefix + topic.name: topic_config(topic, retention_ms=retention_ms, max_future_ms=max_future_ms)
        for topic in TOPICS
    }
    counts = {topic_prefix + topic.name: partition_count(topic, partitions) for topic in TOPICS}
    try:
        existing = admin.list_topics(timeout=timeout_s).topics
        missing = [name for name in settings if name not in existing]
        created = _create(admin, missing, counts, settings, replication_factor, timeout_s)
        found = [name for name in settings if name not in created]
        differences = _compare(admin, found, counts, settings, timeout_s)
    except KafkaException as error:
        raise ConnectionError(
            f"{bootstrap_servers}: topics cannot be created: {error.args[0]}; check that the brokers run"
        ) from error
    return [
        TopicReport(name, "created", {})
        if name in created
        else TopicReport(name, "differs" if differences[name] else "exists", differences[name])
        for name in settings
    ]


def _create(
    admin: Any,
    names: list[str],
    counts: Mapping[str, int],
    settings: Mapping[str, dict[str, str]],
    replication_factor: int,
    timeout_s: float,
) -> set[str]:
    """Names created; one that another process created meanwhile is not among them."""
    if not names:
        return set()
    futures = admin.create_topics(
        [
            NewTopic(
                name,
                num_partitions=counts[name],
                replication_factor=replication_factor,
                config=settings[name],
            )
            for name in names
        ],
        operation_timeout=timeout_s,
    )
    created = set()
    for name, future in futures.items():
        try:
            future.result(timeout_s)
            created.add(name)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
    return created


def _compare(
    admin: Any,
    names: list[str],
    counts: Mapping[str, int],
    settings: Mapping[str, dict[str, str]],
    timeout_s: float,
) -> dict[str, dict[str, tuple[str, str]]]:
    """Where existing topics differ from what is wanted."""
    if not names:
        return {}
    described = _describe(admin, names, timeout_s)
    topics = admin.list_topics(timeout=timeout_s).topics
    differences: dict[str, dict[str, tuple[str, str]]] = {}
    for topic, found in described.items():
        wanted = settings[topic]
        differs = {
            key: (value, str(found.get(key)))
            for key, value in wanted.items()
            if _normal(found.get(key)) != _normal(value)
        }
        partitions = len(topics[topic].partitions)
        if partitions != counts[topic]:
            differs["partitions"] = (str(counts[topic]), str(partitions))
        differences[topic] = differs
    return differences


def _describe(admin: Any, names: list[str], timeout_s: float) -> dict[str, dict[str, str | None]]:
    """Settings of existing topics; one that was made a moment ago may still be unknown to a broker."""
    deadline_s = time.monotonic() + KNOWN_WITHIN_S
    while True:
        described = admin.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in names])
        try:
            return {
                resource.name: {name: entry.value for name, entry in future.result(timeout_s).items()}
                for resource, future in described.items()
            }
        except KafkaException as error:
            unknown = error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART
            if not unknown or time.monotonic() > deadline_s:
                raise
            time.sleep(0.1)


def _normal(value: str | None) -> str:
    """A list such as ``compact,delete`` comes back in another order."""
    return ",".join(sorted((value or "").split(",")))
