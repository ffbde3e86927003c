"""Topics that are there a moment after they were made."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from clients.topics import create_topics
from schemas.topics import TOPICS, partition_count, topic_config

GIVEN = {"retention_ms": 7, "max_future_ms": 9}


class Admin:
    """A broker that has all topics, and does not know their settings for some calls."""

    def __init__(self, unknown: int) -> None:
        self.unknown = unknown

    def list_topics(self, timeout: float) -> Any:
        topics = {
            topic.name: SimpleNamespace(partitions=range(partition_count(topic, 2))) for topic in TOPICS
        }
        return SimpleNamespace(topics=topics)

    def describe_configs(self, resources: Any) -> dict[Any, Future[dict[str, Any]]]:
        answers: dict[Any, Future[dict[str, Any]]] = {}
        self.unknown -= 1
        for topic, resource in zip(TOPICS, resources, strict=True):
            answers[resource] = Future()
            if self.unknown >= 0:
                answers[resource].set_exception(KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)))
                continue
            config = topic_config(topic, **GIVEN)
            answers[resource].set_result({key: SimpleNamespace(value=config[key]) for key in config})
        return answers


def create(admin: Admin) -> Any:
    return create_topics("b:1", partitions=2, replication_factor=1, make_admin=lambda _: admin, **GIVEN)


def test_a_topic_that_a_broker_does_not_know_yet_is_asked_for_again() -> None:
    assert {report.state for report in create(Admin(unknown=3))} == {"exists"}


def test_one_that_stays_unknown_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.topics.KNOWN_WITHIN_S", 0.2)
    with pytest.raises(ConnectionError, match="topics cannot be created"):
        create(Admin(unknown=1_000))
