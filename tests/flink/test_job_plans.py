"""What Flink makes of the jobs beside recommend; that they count right on RocksDB is in tests/stack."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import flink_jobs
from flink_jobs.settings import load
from tailrace.stack.flink import flink_command_environment, flink_services
from tailrace.stack.java import find_java

pytestmark = pytest.mark.flink
LINE = {"dimension": 8, "mode": "local", "noise_multiplier": 8.0, "cohort_size": 10, "cohort_min": 5}


class Job(NamedTuple):
    """A job, settings of its own that its ids do not depend on, and the keyed steps that it has."""

    name: str
    section: Mapping[str, object]
    keyed_steps: int


JOBS = (
    Job("similarity", {"parallelism": 1, "batch_ms": 100, "item_batch_ms": 300}, 2),
    Job("feedback", {"parallelism": 2, "batch_ms": 100, "posterior_ms": 300, "idle_ms": 500}, 2),
    Job("learn", {"batch_ms": 100, "publish_clicks": 512}, 1),
    Job(
        "federate",
        {
            "parallelism": 1,
            "batch_ms": 100,
            "line_batch_ms": 300,
            "lines": {"head": LINE, "table": {**LINE, "mode": "central"}},
        },
        2,
    ),
)


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Job to what Flink makes of it."""
    settings = load(environment={}, stack={"home": str(tmp_path_factory.mktemp("flink"))})
    flink_services(settings, find_java())
    _, environment = flink_command_environment(settings)
    script = Path(__file__).with_name("print_job_plan.py")
    done = subprocess.run(
        [sys.executable, str(script), json.dumps({job.name: job.section for job in JOBS})],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    made: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return made


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_its_steps_are_keyed_in_the_jvm_run_in_thread_mode_and_have_the_committed_ids(
    job: Job, plans: dict[str, dict[str, Any]]
) -> None:
    made = plans[job.name]
    assert not [name for name in made["operators"] if "key_by" in name.lower() or "addkey" in name.lower()]
    python = [name for name in made["classes"] if "Python" in name]
    assert python == ["EmbeddedPythonKeyedProcessOperator"] * job.keyed_steps
    windows = [name for name in made["operators"] if name.startswith("WindowAggregate")]
    assert len(windows) == job.keyed_steps
    assert not [name for name in made["operators"] if name.startswith("Join")]
    committed = Path(flink_jobs.__file__).with_name(f"{job.name}.uids").read_text(encoding="utf-8").split()
    assert made["ids"] == committed
