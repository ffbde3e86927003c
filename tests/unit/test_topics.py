"""The name of a topic stands once, and what is said of the topics is so."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from schemas.definitions import TODAY
from schemas.topics import TOPICS

ROOT = Path(__file__).parents[2]
NAMES = {topic.name for topic in TOPICS}
PACKAGES = ("schemas", "udfs", "flink_jobs", "model_export", "clients", "serving", "tailrace", "benchmarks")


def spelled_out(source: str) -> list[str]:
    """Topic names that a source has as a text of their own, or as the end of a formatted one."""
    return [
        f"line {node.lineno}: {node.value}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and node.value in NAMES
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_spells_out_a_topic_but_the_one_that_names_them(package: str) -> None:
    found = {
        path.relative_to(ROOT).as_posix(): spelled_out(path.read_text(encoding="utf-8"))
        for path in (ROOT / package).rglob("*.py")
        if path != ROOT / "schemas" / "topics.py"
    }
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize("source", ["X = 'recs.events.v1'", "read(f'{prefix}recs.items.v1')"])
def test_a_planted_name_is_found(source: str) -> None:
    assert len(spelled_out(source)) == 1


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_the_schema_of_a_topics_records_names_the_topic_and_its_key(topic) -> None:
    doc = TODAY[topic.record].schema["doc"].replace("`", "")
    assert f"Topic {topic.name}, key {topic.key.split(',')[0]}" in doc
