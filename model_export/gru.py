"""A gated recurrent network as arrays: a slow, readable pass over one user's items, and the ONNX graph of it.

Source: Cho et al., "Learning phrase representations using RNN encoder-decoder", EMNLP 2014, with the reset gate
behind the recurrent product as cuDNN and PyTorch have it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from udfs.ranking.sequence_network import LENGTH

OPSET = 15
IR_VERSION = 8


class GruWeights(NamedTuple):
    """What the trainer learns; gates stand in PyTorch's order: reset, update, new.

    Attributes
    ----------
    table
        float32 (v + 1, h): of each item what goes in and what its score is made with; row 0 is zero.
    w_input, w_hidden
        float32 (3h, h).
    b_input, b_hidden
        float32 (3h,).
    """

    table: npt.NDArray[np.float32]
    w_input: npt.NDArray[np.float32]
    w_hidden: npt.NDArray[np.float32]
    b_input: npt.NDArray[np.float32]
    b_hidden: npt.NDArray[np.float32]


def reference_state(weights: GruWeights, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the state behind a user's items, float64 (h,), from int64 (m,), oldest first."""
    width = weights.table.shape[1]
    state = np.zeros(width)
    for token in tokens.tolist():
        inputs = weights.w_input.astype(np.float64) @ weights.table[token] + weights.b_input
        recurrent = weights.w_hidden.astype(np.float64) @ state + weights.b_hidden
        reset = _sigmoid(inputs[:width] + recurrent[:width])
        update = _sigmoid(inputs[width : 2 * width] + recurrent[width : 2 * width])
        new = np.tanh(inputs[2 * width :] + reset * recurrent[2 * width :])
        state = (1.0 - update) * new + update * state
    return state


def gru_graph(weights: GruWeights) -> bytes:
    """Return the ONNX graph that `udfs.ranking.sequence_network.SequenceNetwork` runs."""
    width = weights.table.shape[1]
    order = np.r_[width : 2 * width, 0:width, 2 * width : 3 * width]  # ONNX: update, reset, new
    bias = np.concatenate([weights.b_input[order], weights.b_hidden[order]])
    constants = {
        "table": weights.table,
        "w": weights.w_input[order][None],
        "r": weights.w_hidden[order][None],
        "b": bias[None],
        "direction": np.zeros(1, np.int64),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "tokens"], ["items"], axis=0),
            helper.make_node("Transpose", ["items"], ["steps"], perm=[1, 0, 2]),
            helper.make_node(
                "GRU",
                ["steps", "w", "r", "b", "lengths"],
                ["", "last"],
                hidden_size=width,
                linear_before_reset=1,
            ),
            helper.make_node("Squeeze", ["last", "direction"], ["state"]),
        ],
        "sequence",
        [
            helper.make_tensor_value_info("tokens", TensorProto.INT64, ["rows", LENGTH]),
            helper.make_tensor_value_info("lengths", TensorProto.INT32, ["rows"]),
        ],
        [helper.make_tensor_value_info("state", TensorProto.FLOAT, ["rows", width])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _sigmoid(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 1.0 / (1.0 + np.exp(-values))
