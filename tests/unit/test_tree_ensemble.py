"""Trees as arrays: they score as ONNX Runtime does, or ONNX Runtime scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from bundles import onnx_model, toy_trees
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from udfs.model.refusal import BundleRefused
from udfs.ranking.features import N_FEATURES
from udfs.ranking.onnx_ranker import OnnxRanker
from udfs.ranking.tree_ensemble import MAX_DEPTH, Trees, read_trees, score_trees


def ensemble(trees: list[Any], **attributes: Any) -> bytes:
    """A graph of trees written as nested (feature, threshold, mode, true, false) and leaves as numbers."""
    columns: dict[str, list[Any]] = {
        name: []
        for name in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    }
    targets: list[tuple[int, int, float]] = []

    def add(tree: int, node: Any) -> int:
        number = sum(one == tree for one in columns["treeids"])
        leaf = not isinstance(node, tuple)
        feature, threshold, mode, true, false = (0, 0.0, "LEAF", 0, 0) if leaf else node
        row = (tree, number, feature, threshold, mode, 0, 0)
        for name, value in zip(columns, row, strict=True):
            columns[name].append(value)
        at = len(columns["nodeids"]) - 1
        if leaf:
            targets.append((tree, number, float(node)))
        else:
            columns["truenodeids"][at] = add(tree, true)
            columns["falsenodeids"][at] = add(tree, false)
        return number

    for tree, root in enumerate(trees):
        add(tree, root)
    given_ = {f"nodes_{name}": values for name, values in columns.items()} | {
        "target_treeids": [tree for tree, _, _ in targets],
        "target_nodeids": [node for _, node, _ in targets],
        "target_ids": [0] * len(targets),
        "target_weights": [weight for _, _, weight in targets],
    }
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["features"],
        ["scores"],
        domain="ai.onnx.ml",
        **({"n_targets": 1} | given_ | attributes),
    )
    return onnx_model([node], "scores")


def by_onnx_runtime(model: bytes, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {"features": rows})[0].reshape(-1)
    return result


def scores(trees: Trees | None, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    assert trees is not None
    out = np.empty(len(rows), np.float32)
    score_trees(*trees, rows, out)
    return out


@st.composite
def nested(draw: st.DrawFn, depth: int = 5) -> Any:
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        return draw(st.floats(-2, 2, width=32))
    return (
        draw(st.integers(0, N_FEATURES - 1)),
        draw(st.sampled_from([-1.0, 0.0, 0.5, 1.0])),
        draw(st.sampled_from(["BRANCH_LT", "BRANCH_LEQ"])),
        draw(nested(depth - 1)),
        draw(nested(depth - 1)),
    )


@given(st.lists(nested(), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_trees_of_any_shape_score_as_onnx_runtime_does(trees: list[Any], seed: int) -> None:
    model = ensemble(trees, base_values=[0.25])
    # Half of the values lie on thresholds, where < and <= differ.
    rows = np.random.default_rng(seed).choice(
        np.array([-1.5, -1, 0, 0.25, 0.5, 1, 2], np.float32), (70, N_FEATURES)
    )
    np.testing.assert_allclose(
        scores(read_trees(model, N_FEATURES), rows), by_onnx_runtime(model, rows), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("rows", [1, 31, 32, 33, 200])
def test_every_number_of_rows_is_scored(rows: int) -> None:
    trees = toy_trees(20, 4)
    features = np.random.default_rng(rows).uniform(-1, 3, (rows, N_FEATURES)).astype(np.float32)
    got = scores(read_trees(trees.onnx(), N_FEATURES), features)
    np.testing.assert_allclose(got, trees.predict(features), rtol=0, atol=1e-5)


def deep(levels: int) -> Any:
    return 1.0 if not levels else (0, float(levels), "BRANCH_LT", deep(levels - 1), 0.0)


SMALL = (1, 0.5, "BRANCH_LT", 1.0, 2.0)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(ensemble([deep(MAX_DEPTH + 1)]), id="too deep"),
        pytest.param(ensemble([(1, 0.5, "BRANCH_GT", 1.0, 2.0)]), id="another comparison"),
        pytest.param(ensemble([SMALL], post_transform="LOGISTIC"), id="a transform behind it"),
        pytest.param(ensemble([SMALL], aggregate_function="AVERAGE"), id="an average"),
        pytest.param(ensemble([SMALL], n_targets=2, target_ids=[0, 1]), id="two targets"),
        pytest.param(ensemble([(N_FEATURES, 0.5, "BRANCH_LT", 1.0, 2.0)]), id="a feature that is not there"),
        pytest.param(ensemble([SMALL], nodes_truenodeids=[0, 0, 0]), id="a circle"),
        pytest.param(ensemble([SMALL], nodes_truenodeids=[9, 0, 0]), id="a child that is not there"),
        pytest.param(ensemble([SMALL], nodes_values=[0.5]), id="lists of several lengths"),
    ],
)
def test_what_the_kernel_cannot_stand_for_is_left_to_onnx_runtime(model: bytes) -> None:
    assert read_trees(model, N_FEATURES) is None


def test_a_graph_of_more_than_trees_is_left_to_onnx_runtime() -> None:
    graph = onnx.load_from_string(ensemble([SMALL]))
    graph.graph.node[0].output[0] = "inner"
    graph.graph.node.append(helper.make_node("Identity", ["inner"], ["scores"]))
    assert read_trees(graph.SerializeToString(), N_FEATURES) is None


def test_trees_that_answer_otherwise_than_onnx_runtime_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    trees = toy_trees(20, 4)
    assert OnnxRanker(trees.onnx(), N_FEATURES).trees is not None
    real = read_trees(trees.onnx(), N_FEATURES)
    assert real is not None
    wrong = real._replace(base=real.base + 0.001)
    monkeypatch.setattr("udfs.ranking.onnx_ranker.read_trees", lambda model, width: wrong)
    ranker = OnnxRanker(trees.onnx(), N_FEATURES)
    assert ranker.trees is None
    rows = np.random.default_rng(0).uniform(-1, 3, (40, N_FEATURES)).astype(np.float32)
    np.testing.assert_allclose(ranker.score(rows, 40), trees.predict(rows), rtol=0, atol=1e-5)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_graph_gives_checked_trees_none_or_a_refusal(data: st.DataObject) -> None:
    model = bytearray(ensemble([SMALL, (2, 0.0, "BRANCH_LT", SMALL, 3.0)]))
    for _ in range(data.draw(st.integers(1, 4))):
        model[data.draw(st.integers(0, len(model) - 1))] = data.draw(st.integers(0, 255))
    try:
        trees = read_trees(bytes(model), N_FEATURES)
    except BundleRefused:
        return
    if trees is not None:
        assert trees.features.shape[1] + 1 == trees.leaves.shape[1] <= 1 << MAX_DEPTH
        assert not trees.features.size or 0 <= trees.features.min() <= trees.features.max() < N_FEATURES
