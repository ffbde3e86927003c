"""MLflow beside trainings, verdicts and switches: what is recorded, and that nothing waits or falls for it."""

from __future__ import annotations

import ast
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from bundles import make_bundle

from flink_jobs.registry_settings import Registry
from tailrace.model_registry import CANDIDATE, FORMER, SERVING, record_switch, record_training, record_verdict
from tests.free_ports import free_ports
from udfs.model.bundle import Bundle
from udfs.model.gate import Check, Verdict


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "7")


def verdict(bundle: Bundle, passed: bool = True) -> Verdict:
    checks = (Check("ndcg_over_serving", 1.1 if passed else 0.5, "at least", 0.95, passed),)
    return Verdict(bundle.epoch, bundle.manifest_sha256, 1, "cd", "x", "ef", 1, 2, checks)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A new database takes a few seconds to make; the tests of this file share it."""
    pytest.importorskip("mlflow", reason="the extra `registry` is not installed")
    return Registry(uri=f"sqlite:///{tmp_path_factory.mktemp('registry') / 'deeper' / 'mlflow.db'}")


def client(database: Registry) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=database.uri, registry_uri=database.uri)


def serving(database: Registry, alias: str) -> str:
    return str(client(database).get_model_version_by_alias(database.name, alias).tags["manifest_sha256"])


def test_a_bundles_life_is_one_run_and_one_version(
    database: Registry, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = make_bundle(tmp_path / "8", epoch=8)
    for one in (bundle, other):
        assert record_training(database, one.manifest, one.manifest_sha256, one.path)
        assert record_training(database, one.manifest, one.manifest_sha256, one.path), "twice is once"
    assert record_verdict(database, verdict(bundle))
    assert serving(database, CANDIDATE) == bundle.manifest_sha256
    assert record_verdict(database, verdict(other, passed=False))
    assert serving(database, CANDIDATE) == bundle.manifest_sha256, "the other did not pass"
    assert record_switch(database, bundle.manifest_sha256, 7, "promote")
    assert record_switch(database, other.manifest_sha256, 8, "canary")
    assert serving(database, SERVING) == other.manifest_sha256
    assert serving(database, FORMER) == bundle.manifest_sha256
    assert record_switch(database, bundle.manifest_sha256, 7, "rollback")
    assert serving(database, SERVING) == bundle.manifest_sha256

    found = client(database)
    experiment = found.get_experiment_by_name(database.name)
    runs = found.search_runs([experiment.experiment_id])
    assert len(runs) == 2 == len(found.search_model_versions(f"name = '{database.name}'"))
    run = next(run for run in runs if run.data.tags["epoch"] == "7")
    assert run.data.metrics["gate.ndcg_over_serving"] == 1.1
    assert run.data.tags["gate"] == "passed" and run.data.tags["switched_by"] == "rollback"
    assert run.data.tags["sha256.ranker.onnx"] == bundle.manifest.files["ranker.onnx"].sha256
    assert not (tmp_path / "mlruns").exists(), "nothing lies about in the working folder"


def test_a_registry_that_is_down_costs_seconds_and_a_line(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlflow", reason="the extra `registry` is not installed")
    (port,) = free_ports(1)
    began = time.monotonic()
    assert not record_verdict(Registry(uri=f"http://127.0.0.1:{port}", timeout_s=1), verdict(bundle))
    assert time.monotonic() - began < 120  # its client by itself tries for many minutes
    told = capsys.readouterr().err
    assert told.startswith("not recorded in http://127.0.0.1") and told.count("\n") == 1


def test_a_place_that_cannot_be_written_stops_nothing(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlflow", reason="the extra `registry` is not installed")
    (tmp_path / "file").write_text("")
    uri = f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}"
    assert not record_training(Registry(uri=uri), bundle.manifest, bundle.manifest_sha256, bundle.path)
    assert "not recorded" in capsys.readouterr().err


def test_without_mlflow_or_without_a_place_nothing_is_said(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not record_switch(Registry(uri=""), bundle.manifest_sha256, 7, "promote")
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    assert not record_switch(Registry(), bundle.manifest_sha256, 7, "promote")
    assert capsys.readouterr().err == "" and not (tmp_path / ".tailrace").exists()


def test_nothing_that_runs_in_a_job_can_wait_for_the_registry_or_the_lake() -> None:
    root = Path(__file__).parents[2]
    files = [path for package in ("schemas", "udfs", "flink_jobs") for path in (root / package).rglob("*.py")]
    assert len(files) > 100
    for path in files:
        names = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
        outside = {
            name
            for name in names
            if name.startswith(("mlflow", "pyarrow.parquet", "model_export", "tailrace"))
        }
        assert not outside, path
