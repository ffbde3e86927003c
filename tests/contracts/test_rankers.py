"""What holds for every ranker: its ONNX graph equals the library it came from, alone and in a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from bundles import onnx_model, toy_trees
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from udfs.model.refusal import BundleRefused
from udfs.ranking.features import N_FEATURES
from udfs.ranking.onnx_ranker import OnnxRanker

Predict = Callable[[NDArray[np.float32]], NDArray[np.floating]]
FINALISTS = 40


class Case(NamedTuple):
    model: bytes
    predict: Predict
    row_exact: bool


def hand_made_trees() -> Case:
    trees = toy_trees(40, 5, seed=3)
    return Case(trees.onnx(), trees.predict, True)


def boosted_trees() -> Case:
    xgboost = pytest.importorskip("xgboost")
    from model_export.onnx_export import export_ranker
    from model_export.ranker import RankerSettings, RankingExamples, fit_ranker, predict

    assert xgboost
    rng = np.random.default_rng(0)
    rows = sample(4_000)
    grades = np.digitize(rows[:, 0] + rows[:, 1] * rows[:, 2], [1.0, 2.0, 3.0]).astype(np.int32)
    examples = RankingExamples(rows, grades, np.full(100, 40))
    ranker = fit_ranker(examples, RankerSettings(trees=30), rng)
    return Case(export_ranker(ranker, rows, rng).model, lambda features: predict(ranker, features), True)


def network() -> Case:
    rng = np.random.default_rng(1)
    w, v = rng.standard_normal((N_FEATURES, 31)) * 0.2, rng.standard_normal((31, 1))
    tensors = tuple(numpy_helper.from_array(x.astype(np.float32), n) for n, x in (("w", w), ("v", v)))
    nodes = [
        helper.make_node("MatMul", ["features", "w"], ["a"]),
        helper.make_node("Sigmoid", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "v"], ["scores"]),
    ]
    return Case(
        onnx_model(nodes, "scores", tensors),
        lambda rows: (1 / (1 + np.exp(-(rows.astype(np.float64) @ w))) @ v).ravel(),
        False,
    )


def sample(rows: int, seed: int = 2) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-1, 3, (rows, N_FEATURES)).astype(np.float32)


@pytest.fixture(
    scope="module", params=[hand_made_trees, boosted_trees, network], ids=lambda make: make.__name__
)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param()


def test_the_graph_scores_as_the_library_it_came_from(case: Case) -> None:
    rows = sample(100 * FINALISTS)
    got = OnnxRanker(case.model, N_FEATURES).score(rows, FINALISTS)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, case.predict(rows), rtol=0, atol=1e-5)


@pytest.mark.parametrize("users", [2, 3, 50, 333])
def test_a_user_s_scores_are_the_same_bits_alone_and_among_others(case: Case, users: int) -> None:
    ranker = OnnxRanker(case.model, N_FEATURES)
    rows = sample(users * FINALISTS, seed=users)
    together = ranker.score(rows, FINALISTS).reshape(users, FINALISTS)
    for user in range(users):
        alone = ranker.score(rows[user * FINALISTS : (user + 1) * FINALISTS], FINALISTS)
        np.testing.assert_array_equal(alone, together[user])


def test_a_graph_whose_rows_are_not_exact_always_runs_on_the_same_number_of_rows(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker, sizes = OnnxRanker(case.model, N_FEATURES), []
    run = ranker._run
    monkeypatch.setattr(ranker, "_run", lambda rows: sizes.append(len(rows)) or run(rows))
    ranker.score(sample(3 * FINALISTS), FINALISTS)
    assert sizes == ([] if case.row_exact else [FINALISTS] * 3)
    ranker.trees = None  # as if ONNX Runtime alone could score them
    sizes.clear()
    ranker.score(sample(3 * FINALISTS), FINALISTS)
    assert sizes == ([3 * FINALISTS] if case.row_exact else [FINALISTS] * 3)


def test_the_inputs_of_the_graph_are_the_feature_list(case: Case) -> None:
    for width in (N_FEATURES - 1, N_FEATURES + 1):
        with pytest.raises(BundleRefused, match="shape"):
            OnnxRanker(case.model, width)


def test_it_says_where_it_runs_and_whether_rows_are_exact(case: Case) -> None:
    ranker = OnnxRanker(case.model, N_FEATURES, providers=("CUDAExecutionProvider", "CPUExecutionProvider"))
    assert ranker.provider in ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert ranker.row_exact == case.row_exact
    if case.row_exact:
        assert ranker.provider == "CPUExecutionProvider"
