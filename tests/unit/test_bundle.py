"""Bundles: written whole, and refused for each thing that can be wrong with one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bundles import EPOCH, NOW_MS, make_bundle, onnx_model, toy_items, toy_trees
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from udfs.model.bundle import Bundle, BundleLimits, BundleRefused
from udfs.model.bundle_writer import write_bundle
from udfs.model.manifest import LIST_FILES, MANIFEST, REQUIRED_FILES, ModelSettings, parse_manifest
from udfs.model.onnx_graph import ALLOWED_OPERATORS, read_graph
from udfs.ranking.features import FEATURE_LIST_HASH, FEATURE_NAMES, N_FEATURES
from udfs.ranking.inverted_lists import build_ivf


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_bundle(tmp_path / "7")
    return tmp_path / "7"


def refusal(folder: Path, **how: Any) -> str:
    with pytest.raises(BundleRefused) as refused:
        Bundle.open(folder, **how)
    return refused.value.reason


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tree = json.loads((folder / MANIFEST).read_bytes())
    change(tree)
    (folder / MANIFEST).write_text(json.dumps(tree))


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Write a file and sign it: what a faulty trainer would have written."""
    (folder / name).write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    edit_manifest(folder, lambda tree: tree["files"].update({name: entry}))


def replace_array(folder: Path, name: str, array: np.ndarray) -> None:
    np.save(folder / f"{name}.npy", array, allow_pickle=array.dtype == object)
    replace_file(folder, f"{name}.npy", (folder / f"{name}.npy").read_bytes())


def change_array(folder: Path, name: str, change: Callable[[np.ndarray], object]) -> None:
    array = np.load(folder / f"{name}.npy")
    change(array)
    replace_array(folder, name, array)


def test_what_was_written_is_what_is_opened(tmp_path: Path) -> None:
    items, trees = toy_items(), toy_trees()
    rows = np.random.default_rng(0).uniform(0, 2, (16, N_FEATURES)).astype(np.float32)
    sha256 = write_bundle(
        tmp_path / "3", items, trees.onnx(), rows, trees.predict(rows),
        epoch=3, model_version="m3", created_ms=NOW_MS, settings=ModelSettings(nprobe=5),
        data={"rows": 9}, metrics={"ndcg": 0.5}, canary={"seed": 0},
    )  # fmt: skip
    bundle = Bundle.open(tmp_path / "3", sha256)
    assert (bundle.epoch, bundle.model_version, bundle.manifest_sha256) == (3, "m3", sha256)
    assert bundle.manifest.settings.nprobe == 5
    assert (bundle.manifest.data, bundle.manifest.metrics) == ({"rows": 9}, {"ndcg": 0.5})
    assert bundle.manifest.feature_names == FEATURE_NAMES
    assert list(bundle.items.item_ids) == list(items.item_ids)
    assert bundle.items.category_names == items.category_names
    np.testing.assert_array_equal(bundle.items.columns.factors, items.factors)
    np.testing.assert_array_equal(bundle.items.columns.neighbour_rows, items.neighbour_rows)
    np.testing.assert_allclose(bundle.items.gram, items.factors.T @ items.factors, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(bundle.ranker.score(rows, 16), trees.predict(rows), rtol=0, atol=1e-5)


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    one, other = make_bundle(tmp_path / "1"), make_bundle(tmp_path / "2")
    assert one.manifest_sha256 == other.manifest_sha256


def test_sorting_items_moves_their_neighbours_with_them() -> None:
    ordered = toy_items(50)
    shuffle = np.random.default_rng(0).permutation(50)
    place = np.argsort(shuffle)
    starts, counts = ordered.neighbour_offsets[:-1][shuffle], np.diff(ordered.neighbour_offsets)[shuffle]
    taken = np.concatenate(
        [np.arange(start, start + count) for start, count in zip(starts, counts, strict=True)]
    )
    per_item = {"factors", "categories", "prices", "popularity", "trending", "rebuy_days", "repeat_rate"}
    shuffled = dataclasses.replace(
        ordered,
        item_ids=[ordered.item_ids[row] for row in shuffle],
        neighbour_offsets=np.concatenate([[0], np.cumsum(counts)]),
        neighbour_rows=place[ordered.neighbour_rows[taken]].astype(np.int32),
        neighbour_scores=ordered.neighbour_scores[taken],
        **{name: getattr(ordered, name)[shuffle] for name in per_item},
    )
    again = shuffled.in_hash_order()
    assert again.item_ids == ordered.item_ids
    for name in (*per_item, "neighbour_offsets", "neighbour_rows", "neighbour_scores"):
        np.testing.assert_array_equal(getattr(again, name), getattr(ordered, name), err_msg=name)


def test_an_epoch_is_written_once(folder: Path) -> None:
    with pytest.raises(FileExistsError, match="next number"):
        make_bundle(folder)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    items = dataclasses.replace(toy_items(), factors=np.full((300, 16), np.nan, np.float32))
    with pytest.raises(BundleRefused, match="factors"):
        make_bundle(tmp_path / "7", items)
    assert list(tmp_path.iterdir()) == []


def test_a_write_cut_off_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(KeyboardInterrupt):
        make_bundle(tmp_path / "7")
    assert list(tmp_path.iterdir()) == []


def test_another_manifest_than_the_pointer_named_is_refused(folder: Path) -> None:
    assert refusal(folder, expected_sha256="0" * 64) == "hash"
    edit_manifest(folder, lambda tree: tree.update(model_version="other"))
    Bundle.open(folder)
    assert refusal(folder, expected_sha256=make_bundle(folder.parent / "8").manifest_sha256) == "hash"


@pytest.mark.parametrize("name", sorted(REQUIRED_FILES))
def test_one_flipped_bit_in_any_file_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert refusal(folder) == "hash"


@pytest.mark.parametrize("name", sorted(REQUIRED_FILES))
def test_a_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert refusal(folder) == "missing_file"
    edit_manifest(folder, lambda tree: tree["files"].pop(name))
    assert refusal(folder) == "missing_file"


def test_a_file_too_many_is_refused(folder: Path) -> None:
    (folder / "more.bin").write_bytes(b"")
    assert refusal(folder) == "extra_file"
    edit_manifest(folder, lambda tree: tree["files"].update({"more.bin": {"sha256": "", "size_bytes": 0}}))
    assert refusal(folder) == "extra_file"


def test_a_file_outside_the_folder_is_refused(folder: Path) -> None:
    edit_manifest(folder, lambda tree: tree["files"].update({"../x": {"sha256": "", "size_bytes": 0}}))
    assert refusal(folder) == "extra_file"


def test_a_link_is_refused(folder: Path) -> None:
    (folder / "ranker.onnx").rename(folder.parent / "elsewhere")
    (folder / "ranker.onnx").symlink_to(folder.parent / "elsewhere")
    assert refusal(folder) == "extra_file"


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == "manifest"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tree: tree.update(format=2), "format"),
        (lambda tree: tree.update(format=True), "format"),
        (lambda tree: tree.pop("epoch"), "manifest"),
        (lambda tree: tree.update(more=1), "manifest"),
        (lambda tree: tree.update(epoch="7"), "manifest"),
        (lambda tree: tree.update(epoch=True), "manifest"),
        (lambda tree: tree.update(dimension=65), "manifest"),
        (lambda tree: tree["settings"].update(nprobe=0), "manifest"),
        (lambda tree: tree["settings"].update(other=0), "manifest"),
        (lambda tree: tree["settings"].update(share_repeat=0.9), "manifest"),
        (lambda tree: tree["files"]["gram.npy"].pop("sha256"), "manifest"),
        (lambda tree: tree.update(items=299), "shape"),
        (lambda tree: tree.update(dimension=15), "shape"),
        (lambda tree: tree.update(feature_list_hash="0" * 64), "features"),
        (lambda tree: tree.update(feature_names=[*FEATURE_NAMES[:-1], "other"]), "features"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(folder: Path, change: Any, reason: str) -> None:
    edit_manifest(folder, change)
    assert refusal(folder) == reason


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda x: json.dumps(x).encode())
)
def test_bytes_that_are_no_manifest_only_ever_end_in_a_refusal(text: bytes) -> None:
    with pytest.raises(BundleRefused):
        parse_manifest(text)


def test_too_large_files_are_refused_before_they_are_read(folder: Path) -> None:
    assert refusal(folder, limits=BundleLimits(total_bytes=1_000)) == "too_large"
    assert refusal(folder, limits=BundleLimits(ranker_bytes=1_000)) == "too_large"
    assert refusal(folder, limits=BundleLimits(manifest_bytes=1_000)) == "too_large"


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("item_hashes", lambda a: a.__setitem__(slice(0, 2), a[:2][::-1].copy()), "order"),
        ("item_hashes", lambda a: a.__setitem__(1, a[0]), "order"),
        ("item_hashes", lambda a: a.__setitem__(-1, 2**64 - 1), "ids"),
        ("factors", lambda a: a.__setitem__((3, 3), np.nan), "not_finite"),
        ("gram", lambda a: a.__setitem__((0, 0), np.inf), "not_finite"),
        ("prices", lambda a: a.__setitem__(1, np.inf), "not_finite"),
        ("prices", lambda a: a.__setitem__(1, -1), "not_finite"),
        ("popularity", lambda a: a.__setitem__(1, np.nan), "not_finite"),
        ("trending", lambda a: a.__setitem__(1, -1), "not_finite"),
        ("repeat_rate", lambda a: a.__setitem__(1, 1.5), "not_finite"),
        ("rebuy_days", lambda a: a.__setitem__(1, -1), "not_finite"),
        ("neighbour_offsets", lambda a: a.__setitem__(0, 1), "order"),
        ("neighbour_offsets", lambda a: a.__setitem__(5, a[4] - 1), "order"),
        ("neighbour_offsets", lambda a: a.__setitem__(5, a[4] + 51), "order"),
        ("neighbour_offsets", lambda a: a.__setitem__(-1, a[-1] - 1), "order"),
        ("neighbour_rows", lambda a: a.__setitem__(0, 300), "shape"),
        ("neighbour_rows", lambda a: a.__setitem__(0, -1), "shape"),
        ("neighbour_rows", lambda a: a.__setitem__(0, 0), "shape"),
        ("neighbour_scores", lambda a: a.__setitem__(0, 0.01), "order"),
        ("neighbour_scores", lambda a: a.__setitem__(19, 0.0), "order"),
        ("neighbour_scores", lambda a: a.__setitem__(0, np.nan), "not_finite"),
        ("canary_scores", lambda a: a.__setitem__(0, a[0] + 3e-5), "canary"),
        ("canary_features", lambda a: a.__setitem__((0, 0), np.nan), "not_finite"),
    ],
)
def test_arrays_with_wrong_content_are_refused(folder: Path, name: str, change: Any, reason: str) -> None:
    change_array(folder, name, change)
    assert refusal(folder) == reason


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("factors", np.zeros((300, 15), np.float32)),
        ("factors", np.zeros((300, 16), np.float64)),
        ("factors", np.zeros((300, 16), ">f4")),
        ("factors", np.asfortranarray(np.zeros((300, 16), np.float32))),
        ("categories", np.zeros(299, np.uint32)),
        ("categories", np.zeros(300, np.int64)),
        ("canary_features", np.zeros((32, N_FEATURES - 1), np.float32)),
        ("prices", np.array([None] * 300)),
        ("prices", np.zeros(0, np.float32)),
    ],
    ids=[
        "width",
        "float64",
        "big endian",
        "Fortran order",
        "too few",
        "other type",
        "features",
        "pickled",
        "empty",
    ],
)
def test_arrays_of_another_shape_or_type_are_refused(folder: Path, name: str, array: np.ndarray) -> None:
    replace_array(folder, name, array)
    assert refusal(folder) == "shape"


def test_a_file_that_is_no_array_is_refused(folder: Path) -> None:
    replace_file(folder, "prices.npy", b"not an array")
    assert refusal(folder) == "shape"


def test_an_array_cut_short_is_refused(folder: Path) -> None:
    replace_file(folder, "prices.npy", (folder / "prices.npy").read_bytes()[:-4])
    assert refusal(folder) == "shape"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("item_ids.json", b"{}"),
        ("item_ids.json", b"[1"),
        ("item_ids.json", b'["a"]'),
        ("item_ids.json", json.dumps([1] * 300).encode()),
        ("item_ids.json", json.dumps(["\ud800"] * 300).encode()),
        ("category_names.json", b"[]"),
        ("category_names.json", b'{"-1": "x"}'),
        ("category_names.json", b'{"4294967296": "x"}'),
        ("category_names.json", b'{"1": 2}'),
    ],
)
def test_names_that_do_not_fit_are_refused(folder: Path, name: str, content: bytes) -> None:
    replace_file(folder, name, content)
    assert refusal(folder) == "ids"


def test_a_canary_within_the_tolerance_is_taken(folder: Path) -> None:
    change_array(folder, "canary_scores", lambda a: a.__iadd__(np.float32(8e-6)))
    Bundle.open(folder)


def test_a_bundle_of_a_large_catalogue_carries_its_inverted_lists(tmp_path: Path) -> None:
    lists, _ = build_ivf(toy_items().factors, nlist=6)
    bundle = make_bundle(tmp_path / "7", ivf=lists)
    np.testing.assert_array_equal(bundle.items.lists.rows, lists.rows)
    assert bundle.items.columns.transposed.shape[1] == 0
    assert bundle.manifest.files.keys() >= LIST_FILES


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("ivf_rows", lambda a: a.__setitem__(0, a[1]), "order"),
        ("ivf_rows", lambda a: a.__setitem__(0, 300), "order"),
        ("ivf_offsets", lambda a: a.__setitem__(1, a[2] + 1), "order"),
        ("ivf_offsets", lambda a: a.__setitem__(-1, 299), "order"),
        ("ivf_centroids", lambda a: a.__setitem__((0, 0), np.nan), "not_finite"),
    ],
)
def test_inverted_lists_with_wrong_content_are_refused(
    tmp_path: Path, name: str, change: Any, reason: str
) -> None:
    make_bundle(tmp_path / "7", ivf=build_ivf(toy_items().factors, nlist=6)[0])
    change_array(tmp_path / "7", name, change)
    assert refusal(tmp_path / "7") == reason


def test_inverted_lists_that_are_not_all_there_are_refused(tmp_path: Path) -> None:
    make_bundle(tmp_path / "7", ivf=build_ivf(toy_items().factors, nlist=6)[0])
    (tmp_path / "7" / "ivf_rows.npy").unlink()
    edit_manifest(tmp_path / "7", lambda tree: tree["files"].pop("ivf_rows.npy"))
    assert refusal(tmp_path / "7") == "missing_file"


def test_too_few_canaries_are_refused(folder: Path) -> None:
    for name in ("canary_features", "canary_scores"):
        replace_array(folder, name, np.load(folder / f"{name}.npy")[:7])
    assert refusal(folder) == "canary"


def test_a_ranker_slower_than_the_limit_is_refused(folder: Path) -> None:
    times = iter([10.0, 12.5])
    assert refusal(folder, limits=BundleLimits(canary_s=2.0), clock=lambda: next(times)) == "too_slow"
    times = iter([10.0, 11.5])
    Bundle.open(folder, limits=BundleLimits(canary_s=2.0), clock=lambda: next(times))


def weight(shape: tuple[int, ...], name: str = "w") -> onnx.TensorProto:
    return numpy_helper.from_array(np.zeros(shape, np.float32), name)


def product() -> onnx.NodeProto:
    return helper.make_node("MatMul", ["features", "w"], ["scores"])


def with_external_data() -> bytes:
    tensor = weight((N_FEATURES, 1))
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../secrets"
    return onnx_model([product()], "scores", (tensor,))


def with_a_branch() -> bytes:
    constant = helper.make_node("Constant", [], ["scores"], value=weight((1, 1), "c"))
    out = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1])
    body = helper.make_graph([constant], "body", [], [out])
    node = helper.make_node("If", ["features"], ["scores"], then_branch=body, else_branch=body)
    return onnx_model([node], "scores")


def with_a_function() -> bytes:
    model = onnx.load_from_string(onnx_model([product()], "scores", (weight((N_FEATURES, 1)),)))
    relu = helper.make_node("Relu", ["x"], ["y"])
    model.functions.append(
        helper.make_function("own", "Mul", ["x"], ["y"], [relu], [helper.make_opsetid("", 17)])
    )
    return model.SerializeToString()


def with_operator(name: str, domain: str = "") -> bytes:
    return onnx_model([helper.make_node(name, ["features"], ["scores"], domain=domain)], "scores")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (with_external_data(), "external_data"),
        (with_a_branch(), "operators"),
        (with_a_function(), "operators"),
        (with_operator("Loop"), "operators"),
        (with_operator("Relu", "com.microsoft"), "operators"),
        (with_operator("RandomNormalLike"), "operators"),
        (b"", "ranker"),
        (b"\xff" * 40, "ranker"),
        (toy_trees().onnx()[:-50], "ranker"),
    ],
    ids=["external data", "If", "function", "Loop", "domain", "random", "empty", "noise", "cut short"],
)
def test_a_graph_that_asks_for_more_than_arithmetic_is_refused(
    folder: Path, model: bytes, reason: str
) -> None:
    replace_file(folder, "ranker.onnx", model)
    assert refusal(folder) == reason


def relabelled(shape: tuple[Any, ...], kind: int = TensorProto.FLOAT) -> bytes:
    model = onnx.load_from_string(onnx_model([product()], "scores", (weight((N_FEATURES, 1)),)))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("features", kind, shape))
    return model.SerializeToString()


@pytest.mark.parametrize(
    "model",
    [
        relabelled((40, N_FEATURES)),
        onnx_model(
            [helper.make_node("MatMul", ["features", "w"], ["scores"])], "scores", (weight((N_FEATURES, 2)),)
        ),
    ],
    ids=["fixed rows", "two scores"],
)
def test_a_graph_of_another_shape_is_refused(folder: Path, model: bytes) -> None:
    replace_file(folder, "ranker.onnx", model)
    assert refusal(folder) in ("shape", "ranker")


def test_the_walk_finds_the_operators_that_the_onnx_package_finds(folder: Path) -> None:
    content = (folder / "ranker.onnx").read_bytes()
    nodes = onnx.load_from_string(content).graph.node
    assert read_graph(content).operators == {f"{node.domain}:{node.op_type}" for node in nodes}
    assert read_graph(content).row_exact
    assert not read_graph(relabelled((None, N_FEATURES))).row_exact
    assert not {":Loop", ":If", ":Scan"} & ALLOWED_OPERATORS


GRAPHS = [toy_trees(2, 2).onnx(), with_external_data(), with_a_branch(), with_a_function()]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_damaged_graphs_end_in_a_refusal_or_in_operators_of_the_list(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(GRAPHS)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BundleRefused):
        assert read_graph(bytes(content)).operators <= ALLOWED_OPERATORS


def test_a_bundle_of_today_has_today_s_feature_list(folder: Path) -> None:
    manifest = parse_manifest((folder / MANIFEST).read_bytes())
    assert manifest.feature_list_hash == FEATURE_LIST_HASH
    assert manifest.epoch == EPOCH
