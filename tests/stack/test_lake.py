"""The lake beside the real broker: every record once though the copy is killed, and states made again from it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flink_jobs.model_store import ModelStore
from flink_jobs.settings import load
from model_export import sources
from model_export.lake.files import files_of, read
from model_export.lake.parity import compare
from tests.stack.deployment import until
from tests.stack.running_shop import EVENTS, SERVED, SESSIONS, RunningShop

pytestmark = pytest.mark.stack


def test_the_lake_holds_every_record_once_and_gives_the_served_states_back(
    session_shop: RunningShop, tmp_path: Path
) -> None:
    shop, deployment = session_shop, session_shop.deployment
    deployment.produce(shop.next_traffic(4_000))
    shop.catch_up_with_log()
    shop.check_deltas()
    root = tmp_path / "lake"
    given = deployment.settings.model_dump(exclude_unset=True)
    given["lake"] = {"root": str(root), "rows_a_file": 300}
    config = deployment.write_config("lake.toml", load(environment={}, **given))
    command = [sys.executable, "-m", "tailrace.cli", "lake", "run", "--config", str(config)]
    copying = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        until(lambda: files_of(root, EVENTS), 60, "a first file of events")
    finally:
        os.kill(copying.pid, signal.SIGKILL)
        copying.wait(120)
    done = subprocess.run(
        [*command, "--once", "--json"], capture_output=True, text=True, timeout=480, check=True
    )
    assert json.loads(done.stdout)["root"] == str(root)
    for topic in (EVENTS, SESSIONS, SERVED):
        wanted = sorted(
            (row.partition, row.offset, row.timestamp, row.key, row.value) for row in deployment.rows(topic)
        )
        assert [tuple(record) for record in read(files_of(root, topic))] == wanted, topic
    again = subprocess.run(
        [*command, "--once", "--json"], capture_output=True, text=True, timeout=480, check=True
    )
    assert json.loads(again.stdout)["added"] == {}

    job = shop.plain.settings
    parity = compare(root, job, ModelStore(deployment.settings.model).factors, 0)
    assert parity.equal > 50 and not parity.differ, parity
    log = sources.read(root)
    assert log.skipped["duplicate"] > 0 and len(log) > 3_000
