"""The jar lock and the cache: nothing enters it with other bytes than the lock's."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from tailrace.errors import UserError
from tailrace.stack import jars as jars_module
from tailrace.stack.jars import Jar, damaged_jars, fetch_jars, locked_jars, missing_jars

CONTENT = b"the bytes of a jar"


@pytest.fixture
def jar() -> Jar:
    return Jar("org.example", "thing", "1.0", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """A registry in memory: what it serves, and how often it was asked."""
    state: dict[str, object] = {"serves": CONTENT, "asked": 0}

    def download(jar: Jar, staging: Path) -> Path:
        state["asked"] += 1
        file = staging / jar.file_name
        file.write_bytes(state["serves"])
        return file

    monkeypatch.setattr(jars_module, "_download", download)
    monkeypatch.setattr(jars_module, "_local_copy", lambda jar, staging: None)
    return state


def test_the_lock_covers_the_broker_with_its_dependencies_and_the_connectors() -> None:
    kafka = {jar.coordinate for jar in locked_jars("kafka")}
    flink = {jar.coordinate for jar in locked_jars("flink")}
    assert len(kafka) == 45
    assert {"org.apache.kafka:kafka_2.13:4.2.0", "org.apache.kafka:kafka-clients:4.2.0"} <= kafka
    assert flink == {
        "org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2",
        "org.apache.flink:flink-sql-avro:2.3.0",
    }


def test_every_locked_jar_has_a_whole_hash_and_a_file_name_of_its_own() -> None:
    jars = [*locked_jars("kafka"), *locked_jars("flink")]
    assert all(re.fullmatch(r"[0-9a-f]{64}", jar.sha256) and jar.size_bytes > 0 for jar in jars)
    assert len({jar.file_name for jar in jars}) == len(jars)


def test_a_jar_with_other_bytes_is_refused_and_not_kept(tmp_path: Path, jar: Jar, registry: dict) -> None:
    registry["serves"] = b"the bytes of a bad"  # as long as the right ones
    with pytest.raises(UserError, match="wanted SHA-256") as raised:
        fetch_jars(tmp_path, [jar])
    assert raised.value.number == "TR-111"
    assert raised.value.fix
    assert missing_jars(tmp_path, [jar]) == [jar]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_second_fetch_asks_nobody(tmp_path: Path, jar: Jar, registry: dict) -> None:
    first = fetch_jars(tmp_path, [jar])
    assert first[0].read_bytes() == CONTENT
    assert fetch_jars(tmp_path, [jar]) == first
    assert registry["asked"] == 1


def test_a_jar_that_was_cut_short_in_the_cache_is_fetched_again(
    tmp_path: Path, jar: Jar, registry: dict
) -> None:
    (path,) = fetch_jars(tmp_path, [jar])
    path.write_bytes(CONTENT[:-1])
    assert fetch_jars(tmp_path, [jar])[0].read_bytes() == CONTENT


def test_a_jar_damaged_in_the_cache_is_found_by_its_bytes(tmp_path: Path, jar: Jar, registry: dict) -> None:
    (path,) = fetch_jars(tmp_path, [jar])
    assert damaged_jars(tmp_path, [jar]) == []
    path.write_bytes(CONTENT[:-1] + b"!")
    assert damaged_jars(tmp_path, [jar]) == [jar]
