"""What must hold inside a bundle's arrays, and that its ranker answers as it did in training."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.ids import check_id, item_hash
from schemas.refusal import Refused
from udfs.model.manifest import ALL_ARRAYS, MAY_BE_NAN, NEIGHBOURS_PER_ITEM, Manifest
from udfs.model.refusal import BundleRefused
from udfs.ranking.features import N_FEATURES
from udfs.ranking.onnx_ranker import NotFiniteScoreError, OnnxRanker
from udfs.ranking.sequence_network import LENGTH

CANARY_TOLERANCE = 1e-5
MIN_CANARY_ROWS = 8


def check_arrays(
    arrays: Mapping[str, NDArray[Any]],
    item_ids: Sequence[Any],
    category_names: Mapping[str, Any],
    manifest: Manifest,
    terms: Sequence[Any] = (),
) -> None:
    """Refuse arrays of the wrong type, shape, order or content.

    Parameters
    ----------
    arrays
        By the names of `ARRAYS`, and all or none of `LIST_ARRAYS`, of `DEVICE_ARRAYS`, of `CONTENT_ARRAYS`, of
        `SEQUENCE_ARRAYS`, and of `RULE_ARRAYS`.
    item_ids
        The content of ``item_ids.json``.
    category_names
        The content of ``category_names.json``: decimal hash to name.
    manifest
        What the arrays must agree with.
    terms
        The content of ``content_terms.json``; empty without one.

    Raises
    ------
    BundleRefused
    """
    _check_shapes(arrays, manifest, len(terms))
    _check_values(arrays)
    hashes = arrays["item_hashes"]
    if (hashes[1:] <= hashes[:-1]).any() or hashes[0] == 0:
        raise BundleRefused("order", "item_hashes: must ascend without repeats and hold no 0")
    _check_neighbours(arrays, "neighbour")
    if "device_rows" in arrays:
        _check_neighbours(arrays, "device")
    if "rule_rows" in arrays:
        _check_neighbours(arrays, "rule")
    if "content_rows" in arrays:
        _check_neighbours(arrays, "content")
        if not all(isinstance(term, str) for term in terms) or len(set(terms)) != len(terms):
            raise BundleRefused("ids", "content_terms: wanted different texts")
    if "ivf_rows" in arrays:
        _check_lists(arrays)
    _check_ids(item_ids, hashes)
    for key, name in category_names.items():
        if (
            not key.isascii()
            or not key.isdecimal()
            or len(key) > 10
            or int(key) >= 1 << 32
            or not isinstance(name, str)
        ):
            raise BundleRefused(
                "ids", f"category_names: wanted a decimal hash and a name, got {key!r}: {name!r}"
            )


def _check_shapes(arrays: Mapping[str, NDArray[Any]], manifest: Manifest, terms: int) -> None:
    sizes = {"n": manifest.items, "n+1": manifest.items + 1, "d": manifest.dimension, "f": N_FEATURES}
    sizes["z"] = int(arrays["neighbour_rows"].size)
    sizes["y"] = int(arrays["device_rows"].size) if "device_rows" in arrays else 0
    sizes["x"] = int(arrays["content_rows"].size) if "content_rows" in arrays else 0
    sizes["r"] = int(arrays["rule_rows"].size) if "rule_rows" in arrays else 0
    sizes["v"] = terms
    sizes["e"] = int(arrays["content_vectors"].shape[-1]) if "content_vectors" in arrays else 0
    sizes["m"] = int(arrays["canary_scores"].size)
    if "sequence_rows" in arrays:
        sizes |= {"w": len(arrays["sequence_rows"]), "h": int(arrays["sequence_vectors"].shape[-1])}
        sizes |= {"q": len(arrays["sequence_canary_lengths"]), "l": LENGTH}
    cells = len(arrays["ivf_centroids"]) if "ivf_centroids" in arrays else 0
    sizes |= {"c": cells, "c+1": cells + 1}
    for name, array in arrays.items():
        dtype, symbols = ALL_ARRAYS[name]
        wanted = tuple(sizes[symbol] for symbol in symbols)
        if array.dtype != np.dtype(dtype) or array.shape != wanted:
            raise BundleRefused(
                "shape", f"{name}: wanted {dtype} {wanted}, got {array.dtype.str} {array.shape}"
            )
        if not array.flags.c_contiguous:
            raise BundleRefused("shape", f"{name}: wanted C order, got Fortran order")
    if sizes["m"] < MIN_CANARY_ROWS:
        raise BundleRefused("canary", f"wanted at least {MIN_CANARY_ROWS} canary rows, got {sizes['m']}")


def _check_values(arrays: Mapping[str, NDArray[Any]]) -> None:
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            continue
        bad = np.isinf(array) if name in MAY_BE_NAN else ~np.isfinite(array)
        if bad.any():
            raise BundleRefused("not_finite", f"{name}: {int(bad.sum())} values are NaN or infinite")
    for name in ("prices", "popularity", "trending", "rebuy_days", "repeat_rate"):
        if (arrays[name] < 0).any():
            raise BundleRefused(
                "not_finite", f"{name}: {int((arrays[name] < 0).sum())} values are below zero"
            )
    if (arrays["repeat_rate"] > 1).any():
        raise BundleRefused("not_finite", "repeat_rate: a share above 1")


def _check_neighbours(arrays: Mapping[str, NDArray[Any]], kind: str) -> None:
    offsets, rows, scores = (arrays[f"{kind}_{name}"] for name in ("offsets", "rows", "scores"))
    counts = np.diff(offsets)
    if (
        offsets[0] != 0
        or offsets[-1] != rows.size
        or (counts < 0).any()
        or (counts > NEIGHBOURS_PER_ITEM).any()
    ):
        raise BundleRefused(
            "order",
            f"{kind}_offsets: must ascend from 0 to {rows.size}, at most {NEIGHBOURS_PER_ITEM} a step",
        )
    owner = np.repeat(np.arange(counts.size), counts)
    if rows.size and (rows.min() < 0 or rows.max() >= counts.size or (rows == owner).any()):
        raise BundleRefused("shape", f"{kind}_rows: wanted rows 0 to {counts.size - 1}, never an item itself")
    within = owner[1:] == owner[:-1]
    if (scores <= 0).any() or (scores[1:][within] > scores[:-1][within]).any():
        raise BundleRefused("order", f"{kind}_scores: must be above 0 and descend within an item")


def _check_lists(arrays: Mapping[str, NDArray[Any]]) -> None:
    offsets, rows = arrays["ivf_offsets"], arrays["ivf_rows"]
    if offsets[0] != 0 or offsets[-1] != rows.size or (np.diff(offsets) < 0).any():
        raise BundleRefused("order", f"ivf_offsets: must ascend from 0 to {rows.size}")
    if not np.array_equal(np.sort(rows), np.arange(rows.size)):
        raise BundleRefused("order", "ivf_rows: must hold every row once")


def _check_ids(item_ids: Sequence[Any], hashes: NDArray[np.uint64]) -> None:
    if len(item_ids) != hashes.size:
        raise BundleRefused("ids", f"item_ids: wanted {hashes.size}, got {len(item_ids)}")
    for row, (item_id, wanted) in enumerate(zip(item_ids, hashes.tolist(), strict=True)):
        if not isinstance(item_id, str):
            raise BundleRefused("ids", f"item_ids: row {row}: wanted a text, got {item_id!r}")
        try:
            check_id("item_id", item_id)
        except Refused as error:
            raise BundleRefused("ids", f"item_ids: row {row}: {error.detail}") from error
        if item_hash(item_id) != wanted:
            raise BundleRefused(
                "ids", f"item_ids: row {row} ({item_id!r}) does not hash to item_hashes[{row}]"
            )


def check_canary(
    ranker: OnnxRanker,
    features: NDArray[np.float32],
    wanted: NDArray[np.float32],
    limit_s: float,
    clock: Callable[[], float] | None,
) -> None:
    """Score the canary rows and compare with what training got.

    Parameters
    ----------
    ranker
        The graph under test.
    features
        float32 (m, F).
    wanted
        float32 (m,), the training library's own scores.
    limit_s
        Seconds that the first scoring of all rows may take.
    clock
        Seconds; None measures nothing.

    Raises
    ------
    BundleRefused
        ``ranker``, ``not_finite``, ``canary`` or ``too_slow``.
    """
    started = clock() if clock is not None else 0.0
    try:
        got = ranker.score(np.ascontiguousarray(features), len(features))
    except NotFiniteScoreError as error:
        raise BundleRefused("not_finite", str(error)) from error
    except BundleRefused:
        raise
    except Exception as error:  # ONNX Runtime raises a class per status code, none of them public
        raise BundleRefused("ranker", f"ONNX Runtime cannot run it: {error}") from error
    elapsed_s = clock() - started if clock is not None else 0.0
    worst = float(np.abs(got.astype(np.float64) - wanted).max())
    if worst > CANARY_TOLERANCE:
        raise BundleRefused(
            "canary", f"scores differ by {worst:.3g} from training's, allowed {CANARY_TOLERANCE:g}"
        )
    if elapsed_s > limit_s:
        raise BundleRefused("too_slow", f"{len(features)} rows took {elapsed_s:.3f} s, allowed {limit_s:g} s")
