"""The ranker as an ONNX graph, refused unless ONNX Runtime gives XGBoost's scores.

A converted tree may compare with ``<`` where the trainer used ``<=``, lose a default direction or a base
score; such a graph ranks plausibly and wrongly. So every export is compared on real rows and on rows made
to hit the thresholds and the ends of the number range.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import xgboost
from onnxmltools.convert import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType

from model_export.ranker import predict

TOLERANCE = 1e-5
LEAST_ROWS = 10_000
OPSET = 15


class ExportRefused(ValueError):  # noqa: N818  (the project's word for what must not serve)
    """An ONNX graph whose scores are not the trainer's; the text says by how much and on which row."""


@dataclass(frozen=True)
class Export:
    """A serialised graph, how far it is from XGBoost, and on how many rows that was checked."""

    model: bytes
    max_difference: float
    rows: int


def export_ranker(
    ranker: xgboost.Booster, features: npt.NDArray[np.float32], rng: np.random.Generator
) -> Export:
    """Convert and compare.

    Parameters
    ----------
    ranker
        Trees over F features named f0 to f(F-1).
    features
        float32 (n, F), real rows; rows made from the trees' thresholds fill up to 10,000 and beyond.
    rng
        Of the made rows.

    Raises
    ------
    ExportRefused
        For a difference above 1e-5, or a score that is not finite.
    """
    graph = convert_xgboost(
        as_regressor(ranker),
        initial_types=[("features", FloatTensorType([None, features.shape[1]]))],
        target_opset=OPSET,
    )
    graph = _plain(graph)
    model = graph.SerializeToString(deterministic=True)
    rows = np.concatenate([features, extreme_rows(ranker, features, rng)])
    difference = check_scores(model, ranker, rows)
    return Export(model, difference, len(rows))


def as_regressor(ranker: xgboost.Booster) -> xgboost.Booster:
    """Return the same trees under the objective ``reg:squarederror``.

    A ranking objective leaves the sum of the leaves untouched, as a squared error does; the converter knows
    only the latter and takes other objectives for a classifier.
    """
    tree = json.loads(bytes(ranker.save_raw("json")))
    tree["learner"]["objective"] = {"name": "reg:squarederror", "reg_loss_param": {}}
    plain = xgboost.Booster()
    plain.load_model(bytearray(json.dumps(tree).encode()))
    return plain


def check_scores(model: bytes, ranker: xgboost.Booster, rows: npt.NDArray[np.float32]) -> float:
    """Return the largest |ONNX - XGBoost| over rows float32 (n, F).

    Raises
    ------
    ExportRefused
        For a difference above 1e-5, or a score that is not finite.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    served = session.run(None, {name: np.ascontiguousarray(rows, np.float32)})[0].reshape(-1)
    native = predict(ranker, rows)
    if not (np.isfinite(served).all() and np.isfinite(native).all()):
        raise ExportRefused(
            "the ranker gives scores that are not finite; look for infinite labels or features"
        )
    differences = np.abs(served.astype(np.float64) - native.astype(np.float64))
    worst = int(differences.argmax())
    if differences[worst] > TOLERANCE:
        raise ExportRefused(
            f"row {worst} of {len(rows)}: ONNX {served[worst]!r}, XGBoost {native[worst]!r}, "
            f"difference {differences[worst]:.3g}, wanted at most {TOLERANCE:g}: "
            "this onnxmltools does not convert these trees"
        )
    return float(differences[worst])


def extreme_rows(
    ranker: xgboost.Booster, features: npt.NDArray[np.float32], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Return float32 (m, F), m >= 10,000: rows that sit on thresholds and at the ends of the range.

    Each value is a threshold of its feature, that number's neighbour below or above, the feature's smallest
    or largest real value, zero, one million of either sign, or a real value.
    """
    width = features.shape[1]
    thresholds = _thresholds(ranker, width)
    made = np.empty((LEAST_ROWS, width), np.float32)
    for column in range(width):
        cuts = thresholds[column]
        real = features[:, column] if len(features) else np.zeros(1, np.float32)
        pool = np.concatenate(
            [
                cuts,
                np.nextafter(cuts, np.float32(-np.inf)),
                np.nextafter(cuts, np.float32(np.inf)),
                np.array([real.min(), real.max(), 0.0, -1.0, 1e6, -1e6], np.float32),
                rng.choice(real, 64),
            ]
        )
        made[:, column] = rng.choice(pool, LEAST_ROWS)
    return made


def _thresholds(ranker: xgboost.Booster, width: int) -> list[npt.NDArray[np.float32]]:
    found: list[list[float]] = [[] for _ in range(width)]
    for dump in ranker.get_dump(dump_format="json"):
        stack = [json.loads(dump)]
        while stack:
            node = stack.pop()
            if "split" in node:
                found[int(node["split"][1:])].append(node["split_condition"])
                stack.extend(node["children"])
    return [np.unique(np.array(cuts, np.float32)) for cuts in found]


def _plain(graph: Any) -> Any:
    """Return the graph without what names its maker or time, so that equal trees have equal bytes."""
    graph.producer_name = "tailrace"
    graph.producer_version = ""
    graph.doc_string = ""
    graph.domain = ""
    graph.graph.name = "ranker"
    graph.graph.doc_string = ""
    onnx.checker.check_model(graph)
    return graph
