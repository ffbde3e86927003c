"""One Kafka broker in KRaft mode, on loopback, run from its jars."""

from __future__ import annotations

import logging
import os
import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from flink_jobs.settings import Settings
from tailrace.errors import UserError
from tailrace.stack.java import Java
from tailrace.stack.ports import port_accepts
from tailrace.stack.service import Service

LARGEST_MESSAGE_BYTES = 16 * 1024 * 1024
_silent = logging.Logger("tailrace.kafka", level=logging.CRITICAL)  # a broker that is not up yet is no news
_LOGGING = """\
status=warn
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{ISO8601} %p %m (%c{1})%n
rootLogger.level=info
rootLogger.appenderRef.console.ref=console
logger.config.name=org.apache.kafka.common.config.AbstractConfig
logger.config.level=warn
logger.kafkaconfig.name=kafka.server.KafkaConfig
logger.kafkaconfig.level=warn
logger.request.name=kafka.request.logger
logger.request.level=warn
"""


def kafka_service(settings: Settings, java: Java, jars: list[Path], log4j_bridge: Path | None) -> Service:
    """Write the broker's configuration, format its log folder once, and return how to start it.

    Parameters
    ----------
    settings
        Ports, home and heap of [stack].
    java
        The runtime.
    jars
        The `kafka` set of the lock.
    log4j_bridge
        `log4j-slf4j-impl` from the Flink wheel. Kafka's own dependencies name none, and a broker without it
        is silent.
    """
    stack = settings.stack
    folder = stack.home.resolve() / "kafka"
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    properties = folder / "server.properties"
    properties.write_text(_properties(settings, data), encoding="utf-8")
    log_settings = folder / "log4j2.properties"
    log_settings.write_text(_LOGGING, encoding="utf-8")
    class_path = ":".join(str(jar) for jar in [*jars, *([log4j_bridge] if log4j_bridge else [])])
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}
    options = [f"-Dlog4j2.configurationFile={log_settings}", "-cp", class_path]
    if not (data / "meta.properties").exists():
        _format(java, options, properties, environment)
    heap = ["-Xms128m", f"-Xmx{stack.kafka_heap_mb}m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"]
    return Service(
        name="kafka",
        command=[
            str(java.binary),
            *heap,
            "-Djava.awt.headless=true",
            *options,
            "kafka.Kafka",
            str(properties),
        ],
        environment=environment,
        folder=str(folder),
        log=str(stack.home.resolve() / "logs" / "kafka.log"),
        port=stack.kafka_port,
        stop_s=30.0,
    )


def kafka_answers(settings: Settings, timeout_s: float = 2.0) -> bool:
    """Tell whether the broker answers a metadata request."""
    if not port_accepts(settings.stack.host, settings.stack.kafka_port):
        return False
    client = AdminClient(
        {
            "bootstrap.servers": f"{settings.stack.host}:{settings.stack.kafka_port}",
            "socket.timeout.ms": 2_000,
        },
        logger=_silent,
    )
    try:
        return bool(client.list_topics(timeout=timeout_s).brokers)
    except KafkaException:
        return False


def _properties(settings: Settings, data: Path) -> str:
    # After a kill the broker waits until the session of its former self is over: 9 s by default (seen).
    stack = settings.stack
    return f"""\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{stack.host}:{stack.kafka_controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{stack.host}:{stack.kafka_port},CONTROLLER://{stack.host}:{stack.kafka_controller_port}
advertised.listeners=PLAINTEXT://{stack.host}:{stack.kafka_port}
log.dirs={data}
auto.create.topics.enable=false
num.partitions={settings.kafka.partitions}
message.max.bytes={LARGEST_MESSAGE_BYTES}
replica.fetch.max.bytes={LARGEST_MESSAGE_BYTES}
offsets.topic.num.partitions=8
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=33554432
"""


def _format(java: Java, options: list[str], properties: Path, environment: dict[str, str]) -> None:
    cluster = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
    if cluster.startswith("-"):
        cluster = "A" + cluster[1:]
    command = [java.binary, "-XX:TieredStopAtLevel=1", *options, "kafka.tools.StorageTool", "format"]
    made = subprocess.run(
        [*command, "--cluster-id", cluster, "--config", properties],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if made.returncode != 0:
        raise UserError(
            "TR-120",
            f"kafka: its log folder cannot be formatted: {(made.stderr or made.stdout)[-800:]}",
            "the folder is not writable, or left by another Kafka",
            "tailrace down --purge, then tailrace up",
        )
