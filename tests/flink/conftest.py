"""Running Python beside a JVM that has the job's jars."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flink_jobs.settings import load
from flink_jobs.shards import shard_keys
from tailrace.stack.flink import flink_command_environment, flink_services
from tailrace.stack.java import find_java

Plan = Callable[..., dict[str, Any]]
GOLDEN_KEYS = ("default/u1", "default/12345", "a", "", "tenant/ünïcode", "default/17850", "\u00ff", "名前/一")


@pytest.fixture(scope="session")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A function that gives Flink's plan of the job under given `[job]` settings."""
    settings = load(stack={"home": str(tmp_path_factory.mktemp("flink"))})
    flink_services(settings, find_java())
    _, environment = flink_command_environment(settings)

    made: dict[str, dict[str, Any]] = {}

    def make(**job: object) -> dict[str, Any]:
        if json.dumps(job) in made:
            return made[json.dumps(job)]
        script = Path(__file__).with_name("print_plan.py")
        arguments = [json.dumps(job), json.dumps(GOLDEN_KEYS), json.dumps(shard_keys(32))]
        done = subprocess.run(
            [sys.executable, str(script), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        made[arguments[0]] = json.loads(done.stdout.splitlines()[-1])
        return made[arguments[0]]

    return make
