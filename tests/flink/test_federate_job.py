"""What Flink makes of the federate job; that it adds up right on RocksDB is tests/stack/test_federate.py."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flink_jobs
from flink_jobs.settings import load
from tailrace.stack.flink import flink_command_environment, flink_services
from tailrace.stack.java import find_java

pytestmark = pytest.mark.flink
Plan = Callable[..., dict[str, Any]]
LINE = {"dimension": 8, "mode": "local", "noise_multiplier": 8.0, "cohort_size": 10, "cohort_min": 5}
LINES = {"head": LINE, "table": {**LINE, "mode": "central"}}


@pytest.fixture(scope="module")
def federate_plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A function that gives the job's plan under given `[federate]` settings."""
    settings = load(environment={}, stack={"home": str(tmp_path_factory.mktemp("flink"))})
    flink_services(settings, find_java())
    _, environment = flink_command_environment(settings)

    def make(**federate: object) -> dict[str, Any]:
        script = Path(__file__).with_name("print_federate_plan.py")
        done = subprocess.run(
            [sys.executable, str(script), json.dumps(federate)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return made

    return make


def test_the_plan_has_two_keyed_steps_in_thread_mode_gathered_in_the_jvm_and_the_committed_ids(
    federate_plan: Plan,
) -> None:
    made = federate_plan(
        parallelism=1, batch_ms=100, line_batch_ms=300, lines=LINES
    )  # ids do not depend on these
    assert not [name for name in made["operators"] if "key_by" in name.lower() or "addkey" in name.lower()]
    python = [name for name in made["classes"] if "Python" in name]
    assert python == ["EmbeddedPythonKeyedProcessOperator"] * 2
    assert len([name for name in made["operators"] if name.startswith("WindowAggregate")]) == 2
    assert not [name for name in made["operators"] if name.startswith("Join")]
    committed = Path(flink_jobs.__file__).with_name("federate.uids").read_text(encoding="utf-8").split()
    assert made["ids"] == committed
