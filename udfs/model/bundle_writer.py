"""Writes a bundle: hashes, manifest, and one rename, so that a reader sees all of it or nothing."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udfs.model.bundle_checks import check_arrays
from udfs.model.items import ItemArrays
from udfs.model.manifest import (
    ALL_ARRAYS,
    CATEGORY_NAMES,
    CONTENT_TERMS,
    ITEM_IDS,
    MANIFEST,
    NATIVE_RANKER,
    RANKER,
    SEQUENCE,
    FileEntry,
    Manifest,
    ModelSettings,
)
from udfs.model.onnx_graph import read_graph
from udfs.ranking.content_table import ItemContent
from udfs.ranking.features import FEATURE_LIST_HASH, FEATURE_NAMES
from udfs.ranking.inverted_lists import InvertedLists
from udfs.ranking.item_links import ItemLinks
from udfs.ranking.onnx_session import CPU
from udfs.ranking.sequence_network import SequenceArrays, open_network


def write_bundle(
    path: Path | str,
    items: ItemArrays,
    ranker: bytes,
    canary_features: NDArray[np.float32],
    canary_scores: NDArray[np.float32],
    *,
    epoch: int,
    model_version: str,
    created_ms: int,
    settings: ModelSettings | None = None,
    data: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    canary: Mapping[str, Any] | None = None,
    ivf: InvertedLists | None = None,
    devices: ItemLinks | None = None,
    content: ItemContent | None = None,
    sequence: tuple[bytes, SequenceArrays] | None = None,
    rules: ItemLinks | None = None,
    native: bytes | None = None,
) -> str:
    """Write a bundle folder atomically.

    Parameters
    ----------
    path
        The folder to be, ``<root>/<epoch>``; it must not exist.
    items
        In ascending order of item hash (`ItemArrays.in_hash_order`).
    ranker
        A serialised ONNX graph: float [rows, F] to float [rows, 1], operators on the allow-list.
    canary_features, canary_scores
        float32 (m, F) and (m,), m at least 8: rows and the training library's own scores of them, which
        ONNX Runtime must meet within 1e-5 wherever the bundle is opened.
    epoch, model_version, created_ms
        What lists and snapshots name, and when training ended (an argument: this code has no clock).
    settings
        How the model retrieves and blends.
    data, metrics, canary
        For people: what it was trained on, what it reached, how the canaries were chosen.
    ivf
        Of `udfs.ranking.inverted_lists.build_ivf`, for a catalogue above `EXACT_UP_TO_ITEMS`.
    devices
        What devices have learnt, row-aligned with the items; its privacy belongs into `data`.
    content
        What is said of the items, row-aligned; no arrivals.
    sequence
        The graph of a network that reads what users did last, and what belongs to it.
    rules
        What followed each item, row-aligned with the items.
    native
        The ranker as its trainer saves it (XGBoost's UBJSON), for exact explanations; None: none.

    Returns
    -------
    str
        The SHA-256 of the manifest, which the model pointer names.

    Raises
    ------
    FileExistsError
        If `path` exists: an epoch is written once.
    BundleRefused
        For content that `Bundle.open` would refuse anyway.
    """
    target = Path(path)
    if target.exists():
        raise FileExistsError(f"{target} exists; an epoch is written once, take the next number")
    values = vars(items) | {"item_hashes": items.item_hashes, "gram": items.gram}
    values |= {"canary_features": canary_features, "canary_scores": canary_scores}
    if ivf is not None:
        values |= {f"ivf_{name}": value for name, value in ivf._asdict().items()}
    if devices is not None:
        values |= {f"device_{name}": value for name, value in devices._asdict().items()}
    terms: list[str] = []
    if content is not None:
        terms = sorted(content.vocabulary.terms, key=content.vocabulary.terms.__getitem__)
        values |= {"content_idf": content.vocabulary.idf, "content_components": content.vocabulary.components}
        values |= {"content_vectors": content.vectors}
        values |= {f"content_{name}": getattr(content.table, name) for name in ItemLinks._fields}
    if sequence is not None:
        values |= {f"sequence_{name}": value for name, value in sequence[1]._asdict().items()}
    if rules is not None:
        values |= {f"rule_{name}": value for name, value in rules._asdict().items()}
    arrays = {
        name: np.ascontiguousarray(np.asarray(values[name]).astype(dtype, casting="same_kind", copy=False))
        for name, (dtype, _) in ALL_ARRAYS.items()
        if name in values
    }
    files = {f"{name}.npy": _npy(array) for name, array in arrays.items()}
    files[ITEM_IDS] = json.dumps(list(items.item_ids)).encode()
    names = {str(key): name for key, name in sorted(items.category_names.items())}
    files[CATEGORY_NAMES] = json.dumps(names).encode()
    files[RANKER] = ranker
    if content is not None:
        files[CONTENT_TERMS] = json.dumps(terms).encode()
    if sequence is not None:
        files[SEQUENCE] = sequence[0]
    if native is not None:
        files[NATIVE_RANKER] = native
    manifest = Manifest(
        epoch=epoch,
        model_version=model_version,
        created_ms=created_ms,
        feature_names=FEATURE_NAMES,
        feature_list_hash=FEATURE_LIST_HASH,
        files={
            name: FileEntry(hashlib.sha256(content).hexdigest(), len(content))
            for name, content in files.items()
        },
        items=len(items.item_ids),
        dimension=int(arrays["factors"].shape[1]),
        settings=settings or ModelSettings(),
        data=data or {},
        metrics=metrics or {},
        canary=canary or {},
    )
    check_arrays(arrays, items.item_ids, names, manifest, terms)
    read_graph(ranker)
    if sequence is not None:
        open_network(*sequence, len(items.item_ids), CPU)
    files[MANIFEST] = manifest.to_json()
    _write_folder(target, files)
    return hashlib.sha256(files[MANIFEST]).hexdigest()


def _npy(array: NDArray[Any]) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _write_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Write all files beside the target and rename the folder into place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    try:
        for name, content in files.items():
            with (partial / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        partial.chmod(0o755)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
