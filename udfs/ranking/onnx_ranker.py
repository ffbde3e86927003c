"""The learned ranker: an ONNX graph that turns float32 feature rows into scores.

Scores of a batch equal scores user by user, bit for bit: graphs of trees score each row alone; others hold matrix
products, whose sums may depend on the number of rows, so they are run once a user with a fixed number of rows.

Trees are scored by `tree_ensemble`, a third of ONNX Runtime's cost, if on rows around their own thresholds both
give the same scores within `TREES_TOLERANCE`; if not, and for any other graph, by ONNX Runtime.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from udfs.model.onnx_graph import read_graph
from udfs.model.refusal import BundleRefused
from udfs.ranking.onnx_session import CPU, PROVIDERS, open_session
from udfs.ranking.tree_ensemble import Trees, read_trees, score_trees

TREES_TOLERANCE = 1e-5
_PROBES = 256
MAX_SCORE = 1e9
"""Six decimals of such a number are exact in float64; a score beyond it is an error of the model."""


class NotFiniteScoreError(ValueError):
    """A ranker answered NaN, infinity or a number beyond `MAX_SCORE` for finite features."""


class OnnxRanker:
    """One loaded graph with one float input [rows, features] and one float output [rows] or [rows, 1].

    Parameters
    ----------
    model
        The serialised graph, already verified by its hash.
    n_features
        The width that the input must have.
    providers
        Execution providers in order of preference; those this machine lacks are left out. Trees run on the
        CPU in any case.

    Raises
    ------
    BundleRefused
        For an operator off the allow-list, external data, or a graph of another shape.
    """

    def __init__(self, model: bytes, n_features: int, providers: tuple[str, ...] = PROVIDERS) -> None:
        graph = read_graph(model)
        # Tree ensembles have no GPU kernel; a copy there and back is all one would get.
        self._session = open_session(model, CPU if graph.row_exact else providers)
        self.row_exact = graph.row_exact
        self.operators = graph.operators
        self.provider: str = self._session.get_providers()[0]
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise BundleRefused(
                "shape", f"ONNX: wanted 1 input and 1 output, got {len(inputs)}, {len(outputs)}"
            )
        shape = inputs[0].shape
        if inputs[0].type != "tensor(float)" or len(shape) != 2 or shape[1] != n_features:
            raise BundleRefused(
                "shape", f"ONNX input: wanted float [rows, {n_features}], got {inputs[0].type} {shape}"
            )
        if isinstance(shape[0], int):
            raise BundleRefused("shape", f"ONNX input: the number of rows must be free, got {shape[0]}")
        if outputs[0].type != "tensor(float)":
            raise BundleRefused("shape", f"ONNX output: wanted float, got {outputs[0].type}")
        self._input: str = inputs[0].name
        self._outputs = [outputs[0].name]
        self.trees = self._checked_trees(read_trees(model, n_features), n_features)

    def _checked_trees(self, trees: Trees | None, n_features: int) -> Trees | None:
        """Return trees that answer as ONNX Runtime does on rows of their own thresholds and beside them."""
        if trees is None or not trees.thresholds.size:
            return None
        rng = np.random.default_rng(0)
        rows = rng.choice(trees.thresholds.ravel(), (_PROBES, n_features))
        rows[1::2] += rng.standard_normal((_PROBES // 2, n_features)).astype(np.float32)
        got = np.empty(_PROBES, np.float32)
        score_trees(*trees, rows, got)
        wanted = self._run(rows)
        agree = np.abs(got.astype(np.float64) - wanted).max() <= TREES_TOLERANCE
        return trees if agree else None

    def score(self, features: NDArray[np.float32], rows_a_user: int) -> NDArray[np.float32]:
        """Score all rows of a batch.

        Parameters
        ----------
        features
            float32 (users * rows_a_user, F), C order.
        rows_a_user
            Rows of one user; the number must not depend on the batch.

        Returns
        -------
        float32 (users * rows_a_user,)

        Raises
        ------
        NotFiniteScoreError
            For a NaN or a number beyond `MAX_SCORE` among the scores.
        """
        if self.trees is not None:
            scores = np.empty(len(features), np.float32)
            score_trees(*self.trees, np.ascontiguousarray(features), scores)
        elif self.row_exact:
            scores = self._run(features)
        else:
            scores = np.empty(len(features), np.float32)
            for start in range(0, len(features), rows_a_user):
                stop = start + rows_a_user
                scores[start:stop] = self._run(features[start:stop])
        fit = np.abs(scores) <= MAX_SCORE  # false for NaN
        if not fit.all():
            row = int(np.argmin(fit))
            raise NotFiniteScoreError(f"ranker: score {scores[row]} in row {row} of {len(scores)}")
        return scores

    def _run(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        result: Any = self._session.run(self._outputs, {self._input: features})[0]
        if result.size != len(features):
            raise BundleRefused("shape", f"ONNX output: wanted {len(features)} scores, got {result.shape}")
        scores: NDArray[np.float32] = result.reshape(-1)
        return scores
