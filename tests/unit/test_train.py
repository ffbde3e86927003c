"""Training end to end on a slice of Online Retail: the bundle opens, repeats itself, beats popularity."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bundles import toy_items
from typer.testing import CliRunner

from model_export import sources
from model_export.als import AlsSettings
from model_export.inverted_cells import LEAST_RECALL, inverted_cells
from model_export.item_side import ItemSideSettings
from model_export.moments import MomentSettings
from model_export.ranker import RankerSettings
from model_export.train import PHASES, TrainingError, train
from model_export.train_settings import TrainReport, TrainSettings
from model_export.tree_contributions import TreeContributions
from tailrace.cli import app
from udfs.model.bundle import Bundle, BundleRefused
from udfs.model.manifest import ModelSettings
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.inverted_lists import measure_recall
from udfs.ranking.item_index import EXACT_UP_TO_ITEMS
from udfs.ranking.rank import RankSettings, rank_batch
from udfs.ranking.snapshot import Snapshot

ONLINE_RETAIL = Path(__file__).parents[2] / "datasets/online-retail/online_retail.parquet"
UNTIL = "2011-04-01"
SETTINGS = TrainSettings(
    items=ItemSideSettings(AlsSettings(dimension=16, iterations=5)),
    moments=MomentSettings(sessions=400),
    ranker=RankerSettings(trees=15),
    stretch_days=21.0,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = pd.read_parquet(ONLINE_RETAIL)
    slice_ = lines[(lines["InvoiceDate"] < "2011-04-20") & (lines["CustomerID"] % 2 == 0)]
    path = tmp_path_factory.mktemp("data") / "slice.parquet"
    slice_.to_parquet(path)
    return path


@pytest.fixture(scope="module")
def told() -> list[tuple[str, float]]:
    return []


@pytest.fixture(scope="module")
def report(
    data: Path, told: list[tuple[str, float]], tmp_path_factory: pytest.TempPathFactory
) -> TrainReport:
    root = tmp_path_factory.mktemp("models")
    return train(SETTINGS, data, UNTIL, 3, root=root, tell=lambda *step: told.append(step))


def hashes(report: TrainReport) -> dict[str, str]:
    manifest = json.loads((report.path / "manifest.json").read_text())
    return {name: entry["sha256"] for name, entry in manifest["files"].items()}


def test_the_bundle_opens_and_ranks_a_stranger(report: TrainReport) -> None:
    bundle = Bundle.open(report.path, report.manifest_sha256)
    assert (bundle.epoch, bundle.model_version) == (3, report.model_version)
    stranger = Snapshot("default/u", "default", "u", "", 1_301_600_000_000, 3, b"")
    (ranked,) = rank_batch(bundle, [stranger], CatalogueView(bundle), RankSettings())
    assert len({item.item_id for item in ranked.items}) == 10


def test_equal_data_and_seed_give_equal_files(report: TrainReport, data: Path, tmp_path: Path) -> None:
    again = train(SETTINGS, data, UNTIL, 3, root=tmp_path, created_ms=1)
    assert hashes(again) == hashes(report)
    assert again.model_version == report.model_version
    assert again.metrics == report.metrics
    other = train(SETTINGS, data, UNTIL, 4, root=tmp_path, seed=1)
    assert hashes(other)["ranker.onnx"] != hashes(report)["ranker.onnx"]
    assert hashes(other)["factors.npy"] != hashes(report)["factors.npy"]
    assert hashes(other)["popularity.npy"] == hashes(report)["popularity.npy"]


def test_the_model_beats_popularity_on_what_came_after_the_cut(report: TrainReport) -> None:
    after = report.metrics["after_cut"]
    assert after["model"]["all"]["lists"] > 50
    assert after["model"]["all"]["ndcg"] > 1.3 * after["popular_28_days"]["all"]["ndcg"]
    assert after["served"]["precision"] > after["popular_28_days"]["all"]["precision"]


def test_what_comes_after_the_cut_changes_nothing_that_is_learnt(
    report: TrainReport, data: Path, tmp_path: Path
) -> None:
    lines = pd.read_parquet(data)
    path = tmp_path / "until.parquet"
    lines[lines["InvoiceDate"] < UNTIL].to_parquet(path)
    blind = train(SETTINGS, path, UNTIL, 3, root=tmp_path)
    assert hashes(blind) == hashes(report)
    assert "after_cut" not in blind.metrics
    assert blind.metrics["held_out"] == report.metrics["held_out"]
    assert blind.data["events_sha256"] == report.data["events_sha256"]


def test_the_manifest_says_what_it_was_made_of(report: TrainReport) -> None:
    manifest = json.loads((report.path / "manifest.json").read_text())
    assert manifest["data"]["cut_ms"] == 1_301_616_000_000
    assert manifest["data"]["seed"] == 0
    assert manifest["settings"]["fold_in_alpha"] == SETTINGS.items.factors.alpha
    assert manifest["settings"]["fold_in_regularization"] == SETTINGS.items.factors.regularization
    assert manifest["metrics"]["onnx"]["max_difference"] <= 1e-5
    assert "after_cut" not in manifest["metrics"]
    canary = np.load(report.path / "canary_features.npy")
    assert canary.shape[0] == 256


@pytest.mark.parametrize("name", ["ranker.onnx", "factors.npy", "item_ids.json", "manifest.json"])
def test_a_flipped_byte_is_refused(report: TrainReport, name: str) -> None:
    path = report.path / name
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        with pytest.raises(BundleRefused):
            Bundle.open(report.path, report.manifest_sha256)
    finally:
        path.write_bytes(content)
    Bundle.open(report.path, report.manifest_sha256)


def test_every_phase_is_told_and_timed(report: TrainReport, told: list[tuple[str, float]]) -> None:
    assert list(dict.fromkeys(phase for phase, _ in told)) == list(PHASES) == list(report.phases)
    assert all(0.0 <= share <= 1.0 for _, share in told)
    assert sum(cpu for _, cpu in report.phases.values()) <= report.cpu_s


def test_a_window_leaves_out_what_is_older(report: TrainReport, data: Path, tmp_path: Path) -> None:
    windowed = train(SETTINGS, data, UNTIL, 3, root=tmp_path, window_days=60.0)
    times_ms = sources.read(data).before(report.data["cut_ms"]).times_ms
    known = int((times_ms >= report.data["cut_ms"] - 60 * 86_400_000).sum())
    assert windowed.data["events"] == known < report.data["events"]
    assert windowed.data["window_days"] == 60.0 and "window_days" not in report.data
    assert windowed.metrics["after_cut"]["model"]["all"]["lists"] > 30


def test_the_trees_in_the_bundle_explain_its_scores(report: TrainReport) -> None:
    bundle = Bundle.open(report.path)
    contribute = TreeContributions.of(bundle)
    assert contribute is not None
    rows = np.load(report.path / "canary_features.npy")
    added = contribute(rows)
    assert np.abs(added.sum(axis=1) - bundle.ranker.score(rows, 8)).max() < 1e-5


def test_an_epoch_is_written_once(report: TrainReport, data: Path) -> None:
    with pytest.raises(FileExistsError, match="written once"):
        train(SETTINGS, data, UNTIL, 3, root=report.path.parent)


def test_too_few_data_are_refused_with_what_to_do(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no event before the cut"):
        train(SETTINGS, data, "2010-01-01", 1, root=tmp_path)
    with pytest.raises(TrainingError, match="give more data or a later day"):
        train(SETTINGS, data, "2010-12-03", 1, root=tmp_path)


def test_the_command_refuses_a_file_that_is_no_event_file(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a\n1\n")
    config = tmp_path / "tailrace.toml"
    config.write_text(f"[model]\nroot = '{tmp_path}'\n")
    arguments = ["train", "--data", str(path), "--until", UNTIL, "--epoch", "1", "--config", str(config)]
    result = CliRunner().invoke(app, arguments)
    assert "TR-501" in str(result.exception)


def test_a_large_catalogue_is_searched_as_far_as_most_of_the_best_items_are_found() -> None:
    rng = np.random.default_rng(0)
    n = EXACT_UP_TO_ITEMS + 500
    tastes = rng.normal(size=(60, 16))
    factors = (tastes[rng.integers(0, 60, n)] + 0.7 * rng.normal(size=(n, 16))).astype(np.float32)
    items = dataclasses.replace(toy_items(n), factors=factors)
    few = ModelSettings(nprobe=1)
    lists, served, recall = inverted_cells(items, few)
    assert lists is not None and recall is not None
    assert recall >= LEAST_RECALL and served.nprobe > 1
    assert measure_recall(items.factors, lists, served.nprobe // 2, seed=0) < LEAST_RECALL
    assert dataclasses.replace(served, nprobe=1) == few
    assert sorted(lists.rows.tolist()) == list(range(n))


def test_a_small_catalogue_is_scored_whole() -> None:
    assert inverted_cells(toy_items(100), ModelSettings()) == (None, ModelSettings(), None)
