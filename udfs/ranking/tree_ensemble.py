"""Regression trees of an ONNX graph as arrays, scored at a third of the cost that ONNX Runtime has.

The bundle's file stays the graph, and ONNX Runtime its judge: `OnnxRanker` takes these trees only where they answer
as it does. A graph that is anything but one ensemble of shallow trees is left to ONNX Runtime.

Every tree is stored as if it were complete, in heap order, a leaf repeated down to the last level. Then a row's way
is the same few steps in every tree, without a jump, and a block of rows takes each step together.

Source: operator TreeEnsembleRegressor of ai.onnx.ml, version 3.
"""

from struct import unpack
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.model.wire_format import read_varint, wire_fields

MAX_DEPTH = 8
MAX_TREES = 4_096
BLOCK = 32  # rows whose features stay in the first-level cache
_GRAPH, _NODE, _ATTRIBUTE = 7, 1, 5
_NAME, _FLOAT, _INT, _TEXT, _FLOATS, _INTS, _TEXTS = 1, 2, 3, 4, 7, 8, 9
_PER_NODE = ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")


class Trees(NamedTuple):
    """T complete trees of depth D; inner node k has the children 2k + 1 (feature below threshold) and 2k + 2."""

    features: NDArray[np.int32]  # (T, 2**D - 1)
    thresholds: NDArray[np.float32]  # (T, 2**D - 1)
    leaves: NDArray[np.float32]  # (T, 2**D)
    base: float


def read_trees(model: bytes, n_features: int) -> Trees | None:
    """Return the trees of a serialised graph, or None where `score_trees` could not stand for it.

    Parameters
    ----------
    model
        A ModelProto that `read_graph` has let through.
    n_features
        Width of a row.

    Notes
    -----
    All indices are checked here, because the kernel checks none.
    """
    nodes = [node for graph in _messages(model, _GRAPH) for node in _messages(graph, _NODE)]
    if len(nodes) != 1:
        return None
    try:
        return _build(_attributes(nodes[0]), n_features)
    except (KeyError, IndexError, ValueError, TypeError, OverflowError):
        return None


def _build(given: dict[str, Any], n_features: int) -> Trees | None:
    if given.get("n_targets", 1) != 1 or any(given.get("target_ids", [])):
        return None
    if given.get("post_transform", b"NONE") != b"NONE" or given.get("aggregate_function", b"SUM") != b"SUM":
        return None
    columns = [given[f"nodes_{name}"] for name in _PER_NODE]
    nodes = {(tree, node): rest for tree, node, *rest in zip(*columns, strict=True)}
    leaves: dict[tuple[int, int], float] = {}
    for tree, node, weight in zip(
        given["target_treeids"], given["target_nodeids"], given["target_weights"], strict=True
    ):
        leaves[tree, node] = leaves.get((tree, node), 0.0) + weight
    trees = sorted({tree for tree, _ in nodes})
    children = {
        (tree, child) for (tree, _), (_, _, mode, *both) in nodes.items() if mode != b"LEAF" for child in both
    }
    roots = [[node for one, node in nodes if one == tree and (tree, node) not in children] for tree in trees]
    if not 0 < len(trees) <= MAX_TREES or any(len(found) != 1 for found in roots):
        return None
    reached: set[tuple[int, int]] = set()
    depth = max(_depth(nodes, tree, root, 0, reached) for tree, (root,) in zip(trees, roots, strict=True))
    if len(reached) != len(nodes):
        return None
    inner = (1 << depth) - 1
    made = Trees(
        np.zeros((len(trees), inner), np.int32),
        np.zeros((len(trees), inner), np.float32),
        np.zeros((len(trees), inner + 1), np.float32),
        float(sum(given.get("base_values", []))),
    )
    for number, (tree, (root,)) in enumerate(zip(trees, roots, strict=True)):
        _place(nodes, leaves, tree, root, 0, number, made)
    if made.features.size and not 0 <= made.features.min() <= made.features.max() < n_features:
        return None
    return made


def _depth(
    nodes: dict[tuple[int, int], list[Any]], tree: int, node: int, level: int, reached: set[tuple[int, int]]
) -> int:
    """Return the depth of a tree below a node; a circle ends at `MAX_DEPTH`."""
    reached.add((tree, node))
    if level > MAX_DEPTH:
        raise ValueError("deeper than a complete tree should be")
    _, _, mode, *both = nodes[tree, node]
    if mode == b"LEAF":
        return level
    return max(_depth(nodes, tree, child, level + 1, reached) for child in both)


def _place(
    nodes: dict[tuple[int, int], list[Any]],
    leaves: dict[tuple[int, int], float],
    tree: int,
    node: int,
    at: int,
    number: int,
    made: Trees,
) -> None:
    inner = made.features.shape[1]
    feature, value, mode, true, false = nodes[tree, node]
    if mode == b"LEAF":
        first, last = at, at
        while first < inner:  # down to the last level
            first, last = 2 * first + 1, 2 * last + 2
        made.leaves[number, first - inner : last - inner + 1] = leaves[tree, node]
        return
    if mode not in (b"BRANCH_LT", b"BRANCH_LEQ"):
        raise ValueError(f"a node of mode {mode!r}")
    threshold = np.float32(value)
    made.features[number, at] = feature
    made.thresholds[number, at] = (
        threshold if mode == b"BRANCH_LT" else np.nextafter(threshold, np.float32(np.inf))
    )
    _place(nodes, leaves, tree, true, 2 * at + 1, number, made)
    _place(nodes, leaves, tree, false, 2 * at + 2, number, made)


def _messages(message: bytes | memoryview, wanted: int) -> list[memoryview]:
    return [
        value
        for field, value in wire_fields(memoryview(message))
        if field == wanted and isinstance(value, memoryview)
    ]


def _attributes(node: memoryview) -> dict[str, Any]:
    """Return name to value: an int or bytes, or a list of floats, ints or bytes; lists may lie packed or not."""
    found: dict[str, Any] = {}
    for attribute in _messages(node, _ATTRIBUTE):
        name, single = "", True
        values: list[Any] = []
        for field, value in wire_fields(attribute):
            if field == _NAME and isinstance(value, memoryview):
                name = bytes(value).decode()
            elif field in (_FLOAT, _FLOATS) and isinstance(value, memoryview) and len(value) % 4 == 0:
                values.extend(unpack(f"<{len(value) // 4}f", value))
            elif field in (_INT, _INTS):
                values.extend(_ints(value))
            elif field in (_TEXT, _TEXTS) and isinstance(value, memoryview):
                values.append(bytes(value))
            single = single and field not in (_FLOATS, _INTS, _TEXTS)
        found[name] = values[0] if single and len(values) == 1 else values
    return found


def _ints(value: int | memoryview) -> list[int]:
    if isinstance(value, int):
        return [value]
    numbers, at = [], 0
    while at < len(value):
        number, at = read_varint(value, at)
        numbers.append(number)
    return numbers


@kernel
def score_trees(
    features: NDArray[np.int32],
    thresholds: NDArray[np.float32],
    leaves: NDArray[np.float32],
    base: float,
    rows: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write each row's sum over all trees, in their order, in float64.

    Parameters
    ----------
    features, thresholds, leaves, base
        See `Trees`.
    rows
        float32 (R, F), C order, not NaN.
    out
        float32 (R,)
    """
    inner = features.shape[1]
    depth = 0
    while (1 << depth) - 1 < inner:
        depth += 1
    width = rows.shape[1]
    flat = rows.ravel()
    node = np.zeros(BLOCK, np.int32)
    total = np.zeros(BLOCK, np.float64)
    for start in range(0, len(rows), BLOCK):
        count = min(BLOCK, len(rows) - start)
        total[:] = base
        for tree in range(len(features)):
            feature, threshold, leaf = features[tree], thresholds[tree], leaves[tree]
            node[:] = 0
            for _ in range(depth):
                for r in range(count):
                    k = node[r]
                    node[r] = 2 * k + 2 - np.int32(flat[(start + r) * width + feature[k]] < threshold[k])
            for r in range(count):
                total[r] += leaf[node[r] - inner]
        for r in range(count):
            out[start + r] = total[r]
