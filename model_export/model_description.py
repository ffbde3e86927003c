"""What a manifest says of a model: its name, what it was learnt from, and the rows by which it is known again."""

from __future__ import annotations

import hashlib
import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model_export.onnx_export import Export
from model_export.sources.event_log import EventLog
from model_export.train_settings import TrainSettings
from udfs.federate.pair_table import PairTable
from udfs.model.items import ItemArrays

CANARY_ROWS = 256


def canary_rows(features: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return rows of the examples, drawn at random, float32 (`CANARY_ROWS`, F): each worker scores them again."""
    chosen = rng.choice(len(features), min(CANARY_ROWS, len(features)), replace=False)
    return np.ascontiguousarray(features[np.sort(chosen)])


def model_version(until: date | str, items: ItemArrays, export: Export) -> str:
    """Return a name that equal models share: the cut, and a hash of what scores."""
    digest = hashlib.sha256(export.model)
    for array in (items.item_hashes, items.factors, items.neighbour_rows, items.neighbour_scores):
        digest.update(np.ascontiguousarray(array).tobytes())
    return f"{until}-{digest.hexdigest()[:12]}"


def describe(
    log: EventLog, data: Path, edges: list[int], seed: int, settings: TrainSettings
) -> dict[str, Any]:
    """Return where a model comes from: the file with its hash, the split, the seed and the settings."""
    learnt = log.before(edges[-1])
    return {
        "source": log.name,
        "file": data.name,
        "file_sha256": log.file_sha256,
        "events_sha256": learnt.sha256(),
        "events": len(learnt),
        "skipped": dict(log.skipped),
        "t1_ms": edges[0],
        "t2_ms": edges[1],
        "cut_ms": edges[2],
        "seed": seed,
        "settings": json.loads(json.dumps(settings.to_dict())),
    }


def describe_federated(table: PairTable, before_ms: int) -> dict[str, Any]:
    """Return what protects a table of devices, and whether its newest contribution lies before a time."""
    newest_ms = max(version["released_time"] for version in table.versions)
    return table.privacy() | {"before_the_measures": newest_ms < before_ms}
