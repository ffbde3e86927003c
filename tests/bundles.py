"""Small real bundles for tests: toy data whose right answer is obvious, and trees made by hand.

Even users like even items. Items 0 to n - 1 are of eight categories, item k of number k % 8, so that even
items have even categories; their factors point one way for even items and another for odd ones; an item's
neighbours are the next items of its parity.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from schemas.ids import category_hash, item_hash, user_key
from udfs.model.bundle import Bundle, BundleRefused
from udfs.model.bundle_writer import write_bundle
from udfs.model.items import ItemArrays
from udfs.model.manifest import MANIFEST, ModelSettings
from udfs.ranking.content_table import ItemContent
from udfs.ranking.features import FEATURE_NAMES, N_FEATURES
from udfs.ranking.inverted_lists import InvertedLists
from udfs.ranking.item_links import ItemLinks
from udfs.ranking.live_sessions import LiveSessions
from udfs.ranking.sequence_network import SequenceArrays
from udfs.ranking.snapshot import Snapshot
from udfs.user_state import EMPTY, EVENT_TYPES, UserState

NOW_MS = 1_760_000_000_000
DAY_S = 86_400
EPOCH = 7


@dataclass(frozen=True)
class Trees:
    """A forest of complete binary trees: T trees of depth D, splits in heap order, true (<) to the left.

    features int (T, 2**D - 1), thresholds float32 the same, leaves float32 (T, 2**D).
    """

    features: NDArray[np.int64]
    thresholds: NDArray[np.float32]
    leaves: NDArray[np.float32]

    def predict(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score rows in NumPy, one level of all trees at a time: independent of ONNX Runtime."""
        inner = self.features.shape[1]
        total = np.zeros(len(rows), np.float32)
        for feature, threshold, leaf in zip(self.features, self.thresholds, self.leaves, strict=True):
            node = np.zeros(len(rows), np.int64)
            while (node < inner).all():
                left = rows[np.arange(len(rows)), feature[node]] < threshold[node]
                node = 2 * node + np.where(left, 1, 2)
            total += leaf[node - inner]
        return total

    def onnx(self) -> bytes:
        """Return the same forest as an ONNX graph."""
        trees, inner = self.features.shape
        nodes = 2 * inner + 1
        tree_ids = np.repeat(np.arange(trees), nodes)
        node_ids = np.tile(np.arange(nodes), trees)
        is_leaf = node_ids >= inner
        pad = np.zeros((trees, nodes - inner))
        target_trees = np.repeat(np.arange(trees), nodes - inner)
        node = helper.make_node(
            "TreeEnsembleRegressor",
            ["features"],
            ["scores"],
            domain="ai.onnx.ml",
            n_targets=1,
            nodes_treeids=tree_ids.tolist(),
            nodes_nodeids=node_ids.tolist(),
            nodes_featureids=np.hstack([self.features, pad]).astype(int).ravel().tolist(),
            nodes_values=np.hstack([self.thresholds, pad]).astype(float).ravel().tolist(),
            nodes_modes=["LEAF" if leaf else "BRANCH_LT" for leaf in is_leaf],
            nodes_truenodeids=np.where(is_leaf, 0, 2 * node_ids + 1).tolist(),
            nodes_falsenodeids=np.where(is_leaf, 0, 2 * node_ids + 2).tolist(),
            target_treeids=target_trees.tolist(),
            target_nodeids=np.tile(np.arange(inner, nodes), trees).tolist(),
            target_ids=[0] * len(target_trees),
            target_weights=self.leaves.astype(float).ravel().tolist(),
        )
        return onnx_model([node], "scores")


def onnx_model(
    nodes: list[onnx.NodeProto], output: str, initializers: tuple[onnx.TensorProto, ...] = ()
) -> bytes:
    """Return a serialised model with input `features` [rows, F] and one float output."""
    graph = helper.make_graph(
        nodes,
        "ranker",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, N_FEATURES])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None, 1])],
        list(initializers),
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def toy_trees(trees: int = 12, depth: int = 3, seed: int = 0) -> Trees:
    """Return a forest in which a greater inner product or neighbour score never lowers the score by much.

    The first three splits of every tree look at the embedding and neighbour scores; deeper ones at any
    feature that any bundle has, with leaves that differ little.
    """
    rng = np.random.default_rng(seed)
    inner = 2**depth - 1
    anywhere = [
        at for at, name in enumerate(FEATURE_NAMES) if not name.startswith(("content_", "sequence_", "rule_"))
    ]
    features = np.array(anywhere)[rng.integers(0, len(anywhere), (trees, inner))]
    thresholds = rng.uniform(0.0, 2.0, (trees, inner)).astype(np.float32)
    features[:, 0] = FEATURE_NAMES.index("embedding_score")
    thresholds[:, 0] = np.linspace(0.05, 0.6, trees)
    if depth > 1:
        features[:, 1:3] = FEATURE_NAMES.index("neighbour_score")
        thresholds[:, 1:3] = np.linspace(0.1, 1.0, trees)[:, None]
    leaves = rng.uniform(0.0, 0.01, (trees, inner + 1))
    half = (inner + 1) // 2
    leaves[:, half:] += 0.5
    return Trees(features, thresholds, leaves.astype(np.float32))


def sessions_of(*sessions: Iterable[int]) -> LiveSessions:
    """Return a session source that has seen strangers' sessions of toy items, one after the other."""
    live = LiveSessions()
    for number, items in enumerate(sessions):
        hashes = np.array([item_hash(item_id(k)) for k in items], np.uint64)
        live.observe(np.full(len(hashes), number, np.uint64), hashes)
    return live


def toy_items(n: int = 300, dimension: int = 16, seed: int = 0) -> ItemArrays:
    """Return the items of the module's docstring, in hash order."""
    rng = np.random.default_rng(seed)
    number = np.arange(n)
    factors = 0.005 * rng.standard_normal((n, dimension))
    factors[number, number % 2] += 1.0
    per_item = min(20, n // 2 - 1)
    neighbours = (number[:, None] + 2 * np.arange(1, per_item + 1)) % (n + n % 2)
    neighbours[neighbours >= n] = 0
    prices = rng.uniform(1, 100, n)
    prices[::17] = np.nan
    rebuy = rng.uniform(1, 60, n)
    rebuy[::3] = np.nan
    popularity = rng.pareto(1.2, n) * 10
    return ItemArrays(
        item_ids=[item_id(k) for k in range(n)],
        factors=factors.astype(np.float32),
        categories=np.array([category_hash(f"category-{k % 8}") for k in range(n)], np.uint32),
        category_names={category_hash(f"category-{k}"): f"category-{k}" for k in range(8)},
        prices=prices.astype(np.float32),
        popularity=popularity.astype(np.float32),
        trending=(popularity * rng.uniform(0, 1, n)).astype(np.float32),
        neighbour_offsets=np.arange(n + 1, dtype=np.int64) * per_item,
        neighbour_rows=neighbours.astype(np.int32).ravel(),
        neighbour_scores=np.tile(np.linspace(1.0, 0.2, per_item), n).astype(np.float32),
        rebuy_days=rebuy.astype(np.float32),
        repeat_rate=rng.uniform(0, 0.5, n).astype(np.float32),
    ).in_hash_order()


def make_bundle(
    path: Path,
    items: ItemArrays | None = None,
    *,
    epoch: int = EPOCH,
    trees: Trees | None = None,
    ranker: bytes | None = None,
    canary_scores: NDArray[np.float32] | None = None,
    settings: ModelSettings | None = None,
    ivf: InvertedLists | None = None,
    devices: ItemLinks | None = None,
    content: ItemContent | None = None,
    sequence: tuple[bytes, SequenceArrays] | None = None,
    rules: ItemLinks | None = None,
    native: bytes | None = None,
) -> Bundle:
    """Write a bundle at `path` and open it."""
    trees = trees or toy_trees()
    rows = np.random.default_rng(1).uniform(-1, 3, (32, N_FEATURES)).astype(np.float32)
    sha256 = write_bundle(
        path,
        items or toy_items(),
        ranker or trees.onnx(),
        rows,
        trees.predict(rows) if canary_scores is None else canary_scores,
        epoch=epoch,
        model_version=f"toy-{epoch}",
        created_ms=NOW_MS,
        settings=settings,
        ivf=ivf,
        devices=devices,
        content=content,
        sequence=sequence,
        rules=rules,
        native=native,
    )
    return Bundle.open(path, sha256)


def assert_part_is_needed(folder: Path, name: str) -> None:
    """See that a bundle is refused with a bit of a file changed, and with the file gone from it and its manifest."""
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BundleRefused, match="SHA-256"):
        Bundle.open(folder)
    (folder / name).unlink()
    tree = json.loads((folder / MANIFEST).read_text())
    del tree["files"][name]
    (folder / MANIFEST).write_text(json.dumps(tree))
    with pytest.raises(BundleRefused, match="does not name"):
        Bundle.open(folder)


def wrong_links(good: ItemLinks) -> list[tuple[ItemLinks, str]]:
    """Give links that no bundle may hold, and why each is refused."""
    return [
        (good._replace(scores=-good.scores), "order"),
        (good._replace(rows=good.rows + np.int32(300)), "shape"),
        (good._replace(offsets=good.offsets[:-1]), "shape"),
        (good._replace(scores=good.scores * np.float32(np.nan)), "not_finite"),
    ]


def item_id(number: int) -> str:
    """Return the id of a toy item."""
    return f"item-{number}"


def toy_state(
    viewed: list[int],
    *,
    bought: tuple[int, ...] = (),
    seen: tuple[int, ...] = (),
    kinds: tuple[str, ...] | None = None,
    age_s: int = 60,
    bought_age_s: int = 30 * DAY_S,
) -> UserState:
    """Return the state of a user who viewed toy items, oldest first, the newest `age_s` before `NOW_MS`.

    No vector: ranking folds one in.
    """
    now_s = NOW_MS // 1000
    seconds = [now_s - age_s - 30 * (len(viewed) - 1 - k) for k in range(len(viewed))]
    types = [EVENT_TYPES.index(kind) for kind in kinds or ("view",) * len(viewed)]
    return EMPTY._replace(
        n_events=len(viewed),
        n_views=len(viewed),
        n_purchases=len(bought),
        n_sessions=1 if viewed else 0,
        session_events=len(viewed),
        session_start_ms=1000 * seconds[0] if viewed else 0,
        session_last_ms=1000 * seconds[-1] if viewed else 0,
        first_ms=1000 * seconds[0] if viewed else 0,
        last_ms=1000 * seconds[-1] if viewed else 0,
        item_hashes=_hashes(viewed),
        item_seconds=np.array(seconds, "<u4").tobytes(),
        item_types=bytes(types),
        bought_hashes=_hashes(bought),
        bought_seconds=np.full(len(bought), now_s - bought_age_s, "<u4").tobytes(),
        bought_counts=np.ones(len(bought), "<f4").tobytes(),
        seen_hashes=_hashes(seen),
    )


def snapshot(state: UserState | None, user_id: str = "u1", *, version: str = "0" * 32) -> Snapshot:
    """Return a snapshot of a toy user at `NOW_MS`."""
    data = b"" if state is None else state.encode()
    return Snapshot(user_key("default", user_id), "default", user_id, version, NOW_MS, EPOCH, data)


def _hashes(numbers: list[int] | tuple[int, ...]) -> bytes:
    return np.array([item_hash(item_id(number)) for number in numbers], "<u8").tobytes()
