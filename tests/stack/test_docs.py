"""Runs the code in the documentation that is marked for running, in order, against a running stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clients.topics import create_topics
from flink_jobs.settings import Settings
from tests.document_blocks import Block, blocks, commands, documents

pytestmark = pytest.mark.stack
ROOT = Path(__file__).parents[2]
WITHIN_S = 480.0

RUNNABLE = [
    block
    for page in documents(ROOT)
    for block in blocks(page.read_text(encoding="utf-8"), str(page.relative_to(ROOT)))
    if block.run
]


def settings_of(stack: Any) -> Settings:
    """The settings of what the fixture gives: the stack, or the settings themselves."""
    return stack if isinstance(stack, Settings) else stack.settings


def as_toml(settings: Settings) -> str:
    """Settings as a file, the password and what is not set left out."""
    lines = []
    for section, values in settings.model_dump(mode="json", exclude_none=True).items():
        lines.append(f"[{section}]")
        for key, value in values.items():
            if key == "password":
                continue
            if isinstance(value, dict):
                value = "{" + ", ".join(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in value.items()) + "}"
            else:
                value = json.dumps(value)
            lines.append(f"{key} = {value}")
    return "\n".join(lines) + "\n"


def at_this_stack(text: str, settings: Settings) -> str:
    """A block with the default addresses replaced by the stack's own."""
    defaults = Settings()
    address = settings.redis.url
    if settings.redis.password is not None:
        scheme, rest = address.split("://", 1)
        address = f"{scheme}://:{settings.redis.password.get_secret_value()}@{rest}"
    return text.replace(defaults.kafka.bootstrap_servers, settings.kafka.bootstrap_servers).replace(
        defaults.redis.url, address
    )


@pytest.fixture(scope="module")
def folder(stack: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder whose tailrace.toml names the stack, with the topics in place."""
    settings = settings_of(stack)
    kafka = settings.kafka
    create_topics(
        kafka.bootstrap_servers,
        partitions=kafka.partitions,
        replication_factor=kafka.replication_factor,
        retention_ms=kafka.retention_ms,
        max_future_ms=kafka.max_future_ms,
        topic_prefix=kafka.topic_prefix,
    )
    made = tmp_path_factory.mktemp("docs")
    absolute = {
        "stack": settings.stack.model_copy(update={"home": settings.stack.home.resolve()}),
        "model": settings.model.model_copy(update={"root": settings.model.root.resolve()}),
    }
    (made / "tailrace.toml").write_text(as_toml(settings.model_copy(update=absolute)), encoding="utf-8")
    return made


def run(block: Block, settings: Settings, folder: Path) -> list[subprocess.CompletedProcess[str]]:
    """Run a block's program, or its commands one by one."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": str(ROOT),
    }
    if settings.redis.password is not None:
        environment["TAILRACE_REDIS__PASSWORD"] = settings.redis.password.get_secret_value()
    text = at_this_stack(block.text, settings)
    if block.language == "python":
        lines: list[list[str]] = [[sys.executable, "-c", text]]
    else:
        lines = [["bash", "-euo", "pipefail", "-c", line] for line in commands(block._replace(text=text))]
    return [
        subprocess.run(
            line,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=WITHIN_S,
        )
        for line in lines
    ]


def test_there_is_something_to_run() -> None:
    assert {block.language for block in RUNNABLE} == {"console", "python"}
    assert all(commands(block) for block in RUNNABLE if block.language == "console")


@pytest.mark.parametrize("block", RUNNABLE, ids=lambda block: block.name)
def test_the_code_in_the_documents_runs(block: Block, stack: Any, folder: Path) -> None:
    for done in run(block, settings_of(stack), folder):
        assert done.returncode == 0, f"{done.args[-1]}\n{done.stdout}\n{done.stderr}"
