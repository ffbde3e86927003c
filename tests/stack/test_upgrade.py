"""Savepoints: another parallelism or batch time, another way to submit, a later build. Nobody is lost."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from flink_jobs.settings import load
from tailrace.flink_client import run_command
from tailrace.stack.flink import flink_command_environment
from tests.stack.deployment import until
from tests.stack.running_shop import RunningShop

pytestmark = pytest.mark.stack
EVENTS_BETWEEN = 3_000
TAILRACE = Path(sys.executable).with_name("tailrace")


def outside(folder: Path, words: list[str], **environment: str) -> str:
    """Run a program from a folder that is not the project's, without PYTHONPATH."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        words, cwd=folder, env={**kept, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def check_all(shop: RunningShop) -> None:
    """Nothing of before the savepoint is lost or doubled, and the job goes on."""
    shop.deployment.produce(shop.next_traffic(EVENTS_BETWEEN))
    shop.catch_up()
    shop.check_counts()
    shop.check_states()
    shop.check_lists()
    shop.check_deltas()


def subtasks(shop: RunningShop) -> int:
    plan = shop.deployment.flink(f"/jobs/{shop.deployment.job_id}")
    return max(vertex["parallelism"] for vertex in plan["vertices"])


def flink_environment(shop: RunningShop) -> dict[str, str]:
    _, environment = flink_command_environment(shop.deployment.settings)
    return {name: value for name, value in environment.items() if name != "PYTHONPATH"}


def test_submit_from_anywhere_replaces_the_job_with_one_of_another_parallelism_and_batch_time(
    shop: RunningShop, tmp_path: Path
) -> None:
    deployment = shop.deployment
    shop.deployment.produce(shop.next_traffic(EVENTS_BETWEEN))
    given = deployment.settings.model_dump(mode="json", exclude_unset=True)
    given["job"]["parallelism"] = 1
    given["job"]["batch_ms"] = 3 * deployment.settings.job.batch_ms
    config = deployment.write_config("narrow.toml", load(environment={}, **given))
    words = [TAILRACE, "submit", "recommend", "--jobmanager", deployment.jobmanager]
    answer = json.loads(outside(tmp_path, [*map(str, words), "--config", str(config), "--replace", "--json"]))
    assert answer["from"] and answer["job_id"] != deployment.job_id
    deployment.job_id = answer["job_id"]
    assert subtasks(shop) == 1
    check_all(shop)


def test_the_printed_flink_run_line_goes_on_from_a_savepoint_of_another_parallelism_and_batch_time(
    shop: RunningShop, tmp_path: Path
) -> None:
    deployment = shop.deployment
    savepoint = deployment.stop()
    words = ["submit", "recommend", "--jobmanager", deployment.jobmanager, "--from", savepoint]
    line = outside(tmp_path, [str(TAILRACE), *words, "--config", str(deployment.config), "--dry-run"])
    start(shop, shlex.split(line), tmp_path)
    assert subtasks(shop) == 2
    check_all(shop)


def test_a_later_build_with_other_sinks_and_filters_finds_every_user_and_offset(
    shop: RunningShop, tmp_path: Path
) -> None:
    deployment = shop.deployment
    settings = deployment.settings
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    audit = settings.kafka.topic_prefix + "recs.audit"
    admin.create_topics([NewTopic(audit, 1, 1)])[audit].result(120)
    deployment.produce(shop.next_traffic(EVENTS_BETWEEN))
    savepoint = deployment.stop()
    changed = Path(__file__).with_name("changed_build.py")
    words = go_on_from(shop, savepoint)
    words[words.index("flink_jobs.submit")] = "changed_build"
    words[words.index("--pyFiles") + 1] += f",{changed}"
    words.remove("recommend")
    start(shop, words, tmp_path)
    try:
        check_all(shop)
        until(lambda: deployment.ends("recs.audit") > 0, 30, "a record of the new sink")
    finally:
        # And back: the sink that comes again starts empty.
        start(shop, go_on_from(shop, deployment.stop()), tmp_path)
    check_all(shop)


def test_new_code_runs_on_taskmanagers_that_have_run_the_code_before_it(
    shop: RunningShop, tmp_path: Path
) -> None:
    deployment = shop.deployment
    words = go_on_from(shop, deployment.stop())
    place = words.index("--pyFiles") + 1
    changed = Path(shutil.copytree(words[place], tmp_path / "changed"))
    logic = changed / "udfs" / "user_logic.py"
    text = logic.read_text(encoding="utf-8")
    assert '("accepted",)' in text
    logic.write_text(text.replace('("accepted",)', '("accepted", "of_the_new_code")'), encoding="utf-8")
    start(shop, [*words[:place], str(changed), *words[place + 1 :]], tmp_path)
    deployment.produce(shop.next_traffic(EVENTS_BETWEEN))
    shop.catch_up()
    counted = shop.check_counts()["of_the_new_code"]
    assert 0 < counted <= EVENTS_BETWEEN
    start(shop, go_on_from(shop, deployment.stop()), tmp_path)
    check_all(shop)
    assert shop.check_counts()["of_the_new_code"] == counted


def go_on_from(shop: RunningShop, savepoint: str) -> list[str]:
    """Give the command that starts from a savepoint, whatever sinks have come or gone since."""
    deployment = shop.deployment
    given = (deployment.settings, "recommend", deployment.jobmanager, deployment.config, savepoint)
    return run_command(*given, allow_non_restored_state=True)


def start(shop: RunningShop, words: list[str], folder: Path) -> None:
    printed = outside(folder, words, **flink_environment(shop))
    shop.deployment.job_id = re.findall(r"JobID ([0-9a-f]{32})", printed)[0]
    shop.deployment.wait_until_running()
