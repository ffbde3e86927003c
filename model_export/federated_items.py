"""What devices have learnt as a file: `tailrace fed export` writes it, `tailrace train --federated` reads it."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from udfs.federate.pair_table import MAX_ITEMS, TERMS, PairTable, numbers_of

FORMAT: Final = 1
_FIELDS: Final = {"format", "line", "item_ids", "pairs", "pairs_sha256", "sigma", "versions"}


class TableError(ValueError):
    """A file that is no table of ours; the text says what was wanted."""


def write_table(path: Path, table: PairTable) -> None:
    """Write a table: JSON, with the upper triangle of the pairs as float64 in base64, and its hash."""
    upper = table.pairs[np.triu_indices(len(table.item_ids))].astype("<f8").tobytes()
    tree = {
        "format": FORMAT,
        "line": table.line,
        "item_ids": list(table.item_ids),
        "pairs": base64.b64encode(upper).decode(),
        "pairs_sha256": hashlib.sha256(upper).hexdigest(),
        "sigma": table.sigma,
        "versions": list(table.versions),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


def read_table(path: Path) -> PairTable:
    """Read a table and check it.

    Raises
    ------
    TableError
        For another format, another hash, other sizes, numbers that are not finite, or versions without their privacy.
    """
    try:
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if set(tree) != _FIELDS or tree["format"] != FORMAT:
            raise TableError(f"{path}: wanted a table of format {FORMAT} with {', '.join(sorted(_FIELDS))}")
        upper = base64.b64decode(tree["pairs"], validate=True)
        item_ids = tuple(str(name) for name in tree["item_ids"])
        sigma, versions = float(tree["sigma"]), tuple(dict(version) for version in tree["versions"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(f"{path}: cannot be read: {error}") from error
    found = hashlib.sha256(upper).hexdigest()
    if found != tree["pairs_sha256"]:
        raise TableError(f"{path}: pairs: wanted SHA-256 {tree['pairs_sha256']}, got {found}")
    size = len(item_ids)
    if not 2 <= size <= MAX_ITEMS or len(set(item_ids)) < size or len(upper) != 8 * numbers_of(size):
        raise TableError(
            f"{path}: wanted 2 to {MAX_ITEMS} different items and a number for each pair, got {size} items "
            f"({len(set(item_ids))} different) and {len(upper) // 8} numbers"
        )
    values = np.frombuffer(upper, "<f8")
    if not np.isfinite(values).all() or not (np.isfinite(sigma) and sigma >= 0.0):
        raise TableError(f"{path}: wanted finite numbers")
    if not versions or any(set(version) != set(TERMS) for version in versions):
        raise TableError(f"{path}: wanted at least one version with {', '.join(TERMS)}")
    pairs = np.zeros((size, size))
    pairs[np.triu_indices(size)] = values
    pairs = np.triu(pairs) + np.triu(pairs, 1).T
    return PairTable(str(tree["line"]), item_ids, pairs, sigma, versions)
