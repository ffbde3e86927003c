"""The local stack for real: it starts, each process comes back from `kill -9`, data outlive a stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from flink_jobs.settings import Settings, load
from tailrace.doctor.cluster import check_cluster, rest_of
from tailrace.stack import LocalStack
from tailrace.stack.local import PORT_SETTINGS
from tests.free_ports import free_ports
from tests.stack.patience import until

pytestmark = pytest.mark.stack
HEALTHY_WITHIN_S = 60.0
NOT_YET = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
}
"""What a broker that has just started says, or does not, of a topic that it has."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    ports = dict(zip(PORT_SETTINGS, free_ports(len(PORT_SETTINGS)), strict=True))
    home: Path = tmp_path_factory.mktemp("home")
    return load(environment={}, stack={"home": home, **ports}, redis={"password": 'with " and \\'})


@pytest.fixture(scope="module")
def stack(settings: Settings) -> Iterator[LocalStack]:
    local = LocalStack(settings)
    assert local.up(tied=True)
    yield local
    pids = local.pids().values()
    local.down(purge=True)
    assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.fixture
def store(settings: Settings) -> Iterator[redis.Redis]:
    password = settings.redis.password.get_secret_value()
    with redis.Redis(port=settings.stack.redis_port, password=password) as client:
        yield client


def broker(settings: Settings) -> dict[str, object]:
    return {"bootstrap.servers": f"127.0.0.1:{settings.stack.kafka_port}", "log_level": 0}


def records(settings: Settings, topic: str) -> int:
    """Give the end of a topic's first partition."""
    consumer = Consumer({**broker(settings), "group.id": "count"})
    ends: list[int] = []

    def answered() -> bool:
        try:
            ends.append(consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=20)[1])
        except KafkaException as error:
            if error.args[0].code() not in NOT_YET:
                raise
        return bool(ends)

    try:
        until(answered, HEALTHY_WITHIN_S, f"the end of {topic}", 0.2)
    finally:
        consumer.close()
    return ends[0]


def kill_and_wait(stack: LocalStack, name: str) -> None:
    pid = stack.pids()[name]
    os.kill(pid, signal.SIGKILL)
    until(lambda: stack.pids().get(name) not in (None, pid), HEALTHY_WITHIN_S, f"another {name}", 0.02)
    until(lambda: stack.status().healthy, HEALTHY_WITHIN_S, f"{name} to be healthy again", 0.2)


def test_a_second_up_finds_it_running(stack: LocalStack) -> None:
    assert not stack.up()
    status = stack.status()
    assert [service.name for service in status.services] == [
        "kafka",
        "store",
        "jobmanager",
        "taskmanager-1",
        "taskmanager-2",
    ]
    assert status.healthy


def test_the_cluster_passes_the_doctor(stack: LocalStack, settings: Settings) -> None:
    findings = check_cluster(rest_of(f"127.0.0.1:{settings.stack.flink_port}"))
    assert {finding.severity for finding in findings} == {"ok"}


def test_each_process_comes_back_from_a_kill_and_the_broker_keeps_its_records(
    stack: LocalStack, settings: Settings
) -> None:
    admin = AdminClient(broker(settings))  # a name of its own: it must outlive the answer
    admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(120)
    producer = Producer(broker(settings))
    for number in range(500):
        producer.produce("kept", str(number).encode())
    assert producer.flush(120) == 0
    del producer, admin
    for name in ("store", "kafka", "taskmanager-1", "jobmanager"):
        kill_and_wait(stack, name)
    assert {service.restarts for service in stack.status().services if service.name != "taskmanager-2"} == {1}
    assert records(settings, "kept") == 500


def test_after_a_stop_topics_and_lists_stand_and_after_a_crash_the_store_is_empty(
    stack: LocalStack, settings: Settings, store: redis.Redis
) -> None:
    store.set("list", "kept")
    ends = records(settings, "kept")
    assert stack.down()
    assert not stack.running()
    assert stack.up(tied=True)
    assert store.get("list") == b"kept"
    assert records(settings, "kept") == ends
    kill_and_wait(stack, "store")
    assert store.get("list") is None
