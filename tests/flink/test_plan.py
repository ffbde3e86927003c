from pathlib import Path

import pytest

import flink_jobs
from flink_jobs.shards import shard_of
from tests.flink.conftest import GOLDEN_KEYS, Plan

pytestmark = pytest.mark.flink


def test_the_plan_keys_in_the_jvm_runs_the_logic_in_thread_mode_and_ranks_once(plan: Plan) -> None:
    made = plan()
    assert not [name for name in made["operators"] if "key_by" in name.lower() or "addkey" in name.lower()]
    keyed = [name for name in made["classes"] if "KeyedProcess" in name]
    assert keyed == ["EmbeddedPythonKeyedProcessOperator"]
    python_calcs = [name for name in made["operators"] if name.startswith("PythonCalc")]
    assert len(python_calcs) == 1
    assert len([name for name in made["operators"] if name.startswith("WindowAggregate")]) == 1
    assert not [name for name in made["operators"] if name.startswith("Join")], (
        "a control record needs no state"
    )


def test_operator_ids_are_the_committed_ones(plan: Plan) -> None:
    committed = Path(flink_jobs.__file__).with_name("recommend.uids").read_text(encoding="utf-8").split()
    assert plan()["ids"] == committed


def test_operator_ids_do_not_depend_on_tunable_settings(plan: Plan) -> None:
    assert plan(parallelism=1, bundle_ms=10, checkpoint_interval_ms=1_000)["ids"] == plan()["ids"]


def test_the_jvm_and_python_agree_on_every_users_shard(plan: Plan) -> None:
    made = plan()
    assert {key: value % 32 for key, value in made["hashes"].items()} == {
        key: shard_of(key, 32) for key in GOLDEN_KEYS
    }
    assert made["groups"] == list(range(32)), "each shard has a key group of its own"
