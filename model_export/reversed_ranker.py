"""A bundle that ranks the worst first: valid in every way but what users think of it, for drills."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
import onnx

from udfs.model.manifest import MANIFEST, NATIVE_RANKER, RANKER, FileEntry, parse_manifest

TREES = "TreeEnsembleRegressor"
CANARY_SCORES = "canary_scores.npy"
_LEAVES = ("target_weights", "base_values")


def write_reversed(source: Path, target: Path, epoch: int) -> None:
    """Write a copy of a bundle whose trees give every score with the other sign.

    Parameters
    ----------
    source
        A bundle whose ranker is an ensemble of trees.
    target
        The folder to be, ``<root>/<epoch>``; it must not exist.
    epoch
        Its number.

    Raises
    ------
    ValueError
        For a ranker of another kind.
    FileExistsError
        If `target` exists.
    """
    manifest = parse_manifest((source / MANIFEST).read_bytes())
    graph = onnx.load_model_from_string((source / RANKER).read_bytes())
    trees = [node for node in graph.graph.node if node.op_type == TREES]
    if len(trees) != 1:
        raise ValueError(f"{source / RANKER}: wanted one {TREES}, got {len(trees)}")
    for attribute in trees[0].attribute:
        if attribute.name in _LEAVES:
            attribute.floats[:] = [-value for value in attribute.floats]
    building = target.with_name(f".reversed-{target.name}")
    shutil.rmtree(building, ignore_errors=True)
    if target.exists():
        raise FileExistsError(f"{target} exists; an epoch is written once, take the next number")
    building.mkdir(parents=True)
    for name in manifest.files.keys() - {NATIVE_RANKER}:  # which explains the trees as they were
        shutil.copyfile(source / name, building / name)
    (building / RANKER).write_bytes(graph.SerializeToString(deterministic=True))
    scores = np.load(source / CANARY_SCORES, allow_pickle=False)
    np.save(building / CANARY_SCORES, -scores, allow_pickle=False)
    files = {path.name: path.read_bytes() for path in sorted(building.iterdir())}
    changed = dataclasses.replace(
        manifest,
        epoch=epoch,
        model_version=f"{manifest.model_version}-reversed",
        files={name: FileEntry(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()},
        metrics={},
    )
    (building / MANIFEST).write_bytes(changed.to_json())
    building.rename(target)
