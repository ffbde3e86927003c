"""The ONNX graph scores as XGBoost does, or is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import xgboost

from model_export import onnx_export
from model_export.onnx_export import ExportRefused, check_scores, export_ranker, extreme_rows
from model_export.ranker import RankerSettings, RankingExamples, fit_ranker, importances, predict
from udfs.model.onnx_graph import read_graph
from udfs.ranking.onnx_ranker import OnnxRanker

WIDTH = 6


def examples(seed: int = 0, groups: int = 200, rows: int = 20) -> RankingExamples:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(groups * rows, WIDTH)).astype(np.float32)
    features[:, 3] = np.round(features[:, 3] * 2)
    taken = features[:, 0] + features[:, 1] * features[:, 3] + rng.normal(size=len(features)) > 2
    return RankingExamples(features, taken.astype(np.int32), np.full(groups, rows, np.int64))


@pytest.fixture(scope="module")
def ranker() -> xgboost.Booster:
    return fit_ranker(examples(), RankerSettings(trees=30), np.random.default_rng(4))


def test_the_graph_scores_as_the_trainer_on_ten_thousand_rows_and_more(ranker: xgboost.Booster) -> None:
    export = export_ranker(ranker, examples().features, np.random.default_rng(0))
    assert export.rows >= 10_000
    assert export.max_difference <= 1e-5
    assert read_graph(export.model).row_exact
    features = examples(seed=9).features
    served = OnnxRanker(export.model, WIDTH).score(features, 20)
    np.testing.assert_allclose(served, predict(ranker, features), atol=1e-5)


def test_a_changed_leaf_is_refused(ranker: xgboost.Booster) -> None:
    export = export_ranker(ranker, examples().features, np.random.default_rng(0))
    graph = onnx.load_from_string(export.model)
    (leaves,) = (entry for entry in graph.graph.node[0].attribute if entry.name == "target_weights")
    leaves.floats[0] += 0.01
    with pytest.raises(ExportRefused, match="wanted at most 1e-05"):
        check_scores(graph.SerializeToString(), ranker, examples().features)


def test_a_comparison_turned_round_is_found_by_the_rows_on_thresholds(ranker: xgboost.Booster) -> None:
    """`<=` in place of `<` differs only where a feature equals a threshold."""
    export = export_ranker(ranker, examples().features, np.random.default_rng(0))
    graph = onnx.load_from_string(export.model)
    (modes,) = (entry for entry in graph.graph.node[0].attribute if entry.name == "nodes_modes")
    modes.strings[:] = [mode.replace(b"BRANCH_LT", b"BRANCH_LEQ") for mode in modes.strings]
    rows = extreme_rows(ranker, examples().features, np.random.default_rng(0))
    with pytest.raises(ExportRefused):
        check_scores(graph.SerializeToString(), ranker, rows)


def test_a_converter_that_loses_the_trees_is_refused(
    ranker: xgboost.Booster, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = onnx_export.as_regressor(
        fit_ranker(examples(), RankerSettings(trees=3), np.random.default_rng(4))
    )
    monkeypatch.setattr(onnx_export, "as_regressor", lambda _: other)
    with pytest.raises(ExportRefused):
        export_ranker(ranker, examples().features, np.random.default_rng(0))


def test_equal_seeds_give_equal_graphs(ranker: xgboost.Booster) -> None:
    again = fit_ranker(examples(), RankerSettings(trees=30), np.random.default_rng(4), lambda n, ndcg: None)
    first, second = (export_ranker(r, examples().features, np.random.default_rng(0)) for r in (ranker, again))
    assert first.model == second.model


def test_the_ranker_learns_which_features_decide(ranker: xgboost.Booster) -> None:
    names = tuple("abcdef")
    assert set(list(importances(ranker, names))[:3]) == {"a", "b", "d"}


def test_progress_is_told_after_every_tree() -> None:
    told: list[tuple[int, float]] = []
    fit_ranker(
        examples(), RankerSettings(trees=5), np.random.default_rng(4), lambda n, ndcg: told.append((n, ndcg))
    )
    assert [n for n, _ in told] == [1, 2, 3, 4, 5]
    assert told[-1][1] > told[0][1] > 0


def test_groups_that_teach_nothing_are_left_out_and_none_at_all_is_an_error() -> None:
    features = np.zeros((6, 2), np.float32)
    mixed = RankingExamples(features, np.array([0, 1, 0, 0, 1, 1], np.int32), np.array([2, 2, 0, 2]))
    assert mixed.rankable().groups.tolist() == [2]
    with pytest.raises(ValueError, match="no group"):
        flat = RankingExamples(features, np.zeros(6, np.int32), np.array([6]))
        fit_ranker(flat, RankerSettings(), np.random.default_rng(0))
