"""How often items go together, as devices learn it: the vector a device sends, and what is made of a line's versions.

A line of M items has M (M + 1) / 2 numbers: the upper triangle of a symmetric matrix. What is made of released
versions (the sum, an inverse without the noise's share, neighbour lists) costs no privacy.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, sqrt
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.records import EdgeModel
from udfs.privacy.gaussian import epsilon_of
from udfs.privacy.terms import Mode

Matrix = NDArray[np.float64]
RIDGE: Final = 5.0
"""Beside the noise's own: the more noise, the stronger the pull to nothing."""
EDGE_CUT: Final = 0.5
"""Of the largest eigenvalue that noise alone would have: taken off every eigenvalue."""
MAX_ITEMS: Final = 893
"""A line has at most 400,000 numbers."""
TERMS: Final = (
    "version", "cohort_size", "mode", "epsilon", "delta", "unit", "adjacency", "clip_norm", "noise_multiplier", "mu",
    "budget_epsilon", "cohort_digest", "released_time",
)  # fmt: skip
"""What goes from a version's record into a bundle's manifest."""


class PairTable(NamedTuple):
    """What a line of pairs has learnt.

    Attributes
    ----------
    line
        Its name.
    item_ids
        M ids, in the order that devices have them.
    pairs
        float64 (M, M), symmetric: sums over users, with noise.
    sigma
        Standard deviation of the noise of a number of the vector; 0: there is none.
    versions
        `TERMS` of every version that is in it, in order.
    """

    line: str
    item_ids: tuple[str, ...]
    pairs: Matrix
    sigma: float
    versions: tuple[dict[str, Any], ...]

    @property
    def epsilon(self) -> float | None:
        """Of a user who contributed to every version, at the delta of the versions; None: no privacy."""
        mu = sqrt(sum(version["mu"] ** 2 for version in self.versions))
        return epsilon_of(mu, self.versions[0]["delta"]) if isfinite(mu) else None

    def privacy(self) -> dict[str, Any]:
        """Plain values for a manifest: what this table cost its users, and whom the noise protects from."""
        return {
            "line": self.line,
            "items": len(self.item_ids),
            "contributions": sum(version["cohort_size"] for version in self.versions),
            "epsilon_of_all_versions": self.epsilon,
            "delta": self.versions[0]["delta"],
            "versions": [
                {name: value if _is_plain(value) else None for name, value in version.items()}
                for version in self.versions
            ],
        }


def numbers_of(items: int) -> int:
    """Numbers in a line of so many items.

    Examples
    --------
    >>> numbers_of(300), numbers_of(MAX_ITEMS) <= 400_000 < numbers_of(MAX_ITEMS + 1)
    (45150, True)
    """
    return items * (items + 1) // 2


def pair_vectors(amounts: Matrix) -> Matrix:
    """Vectors of length one, float64 (k, M (M + 1) / 2), of how much each of k users took of M items, (k, M).

    Examples
    --------
    >>> pair_vectors(np.array([[3.0, 4.0]])).round(3).tolist(), pair_vectors(np.zeros((1, 2))).tolist()
    ([[0.36, 0.679, 0.64]], [[0.0, 0.0, 0.0]])
    """
    lengths = np.sqrt(np.einsum("km,km->k", amounts, amounts))
    unit = amounts / np.maximum(lengths, 1e-12)[:, None]
    rows, columns, scale = _triangle(amounts.shape[1])
    vectors: Matrix = unit[:, rows] * unit[:, columns] * scale
    return vectors


def pair_matrix(vector: Matrix, items: int) -> Matrix:
    """Symmetric float64 (M, M) of a sum of `pair_vectors`.

    Examples
    --------
    >>> pair_matrix(pair_vectors(np.array([[3.0, 4.0]]))[0], 2).round(2).tolist()
    [[0.36, 0.48], [0.48, 0.64]]
    """
    rows, columns, scale = _triangle(items)
    pairs = np.zeros((items, items))
    pairs[rows, columns] = vector / scale
    pairs[columns, rows] = pairs[rows, columns]
    return pairs


def table_of(records: Sequence[EdgeModel], item_ids: Sequence[str]) -> PairTable:
    """Make a table of the released versions of one line, whose server's step size is 1.

    Parameters
    ----------
    records
        All versions from the first to the one that is meant; version 0, all zeros, may be left out.
    item_ids
        What the line's devices took for its items, in their order.

    Raises
    ------
    ValueError
        For other items than the line has numbers for, a version that is missing, terms that are no one's, or
        numbers that are not finite.
    """
    items = len(item_ids)
    made = sorted((record for record in records if record.version > 0), key=lambda record: record.version)
    if not made:
        raise ValueError("wanted at least one version with contributions, got none")
    if len(set(item_ids)) < items or not 2 <= items <= MAX_ITEMS:
        raise ValueError(
            f"items: wanted 2 to {MAX_ITEMS} different ids, got {items} ({len(set(item_ids))} different)"
        )
    before = np.zeros(numbers_of(items))
    total = np.zeros(numbers_of(items))
    variance = 0.0
    for wanted, record in enumerate(made, start=1):
        if (record.version, record.parent, record.model_line) != (wanted, wanted - 1, made[0].model_line):
            raise ValueError(
                f"wanted version {wanted} of line {made[0].model_line}, got {record.version} of {record.model_line}"
            )
        weights = np.frombuffer(record.weights, "<f8")
        if weights.size != numbers_of(items) or not np.isfinite(weights).all():
            raise ValueError(
                f"version {wanted}: wanted {numbers_of(items)} finite numbers for {items} items, got {weights.size}"
            )
        total += record.cohort_size * (weights - before)
        variance += _noise_variance(record)
        before = weights
    versions = tuple({name: getattr(record, name) for name in TERMS} for record in made)
    return PairTable(made[0].model_line, tuple(item_ids), pair_matrix(total, items), sqrt(variance), versions)


def item_weights(pairs: Matrix, sigma: float) -> Matrix:
    """How much an item taken speaks for another, float64 (M, M), row for column; nothing for itself.

    Source: Steck, "Embarrassingly Shallow Autoencoders" (2019), on a table whose eigenvalues are freed of noise.
    """
    size = len(pairs)
    edge = 2.0 * sigma * sqrt(size / 2.0)
    values, vectors = np.linalg.eigh(pairs)
    clean = (vectors * np.maximum(values - EDGE_CUT * edge, 0.0)) @ vectors.T
    inverse = np.linalg.inv(clean + (RIDGE + edge) * np.eye(size))
    weights: Matrix = -inverse / np.diag(inverse)[None, :]
    np.fill_diagonal(weights, 0.0)
    return weights


def _noise_variance(record: EdgeModel) -> float:
    """Variance of the noise of a number of the sum, at most: stale shares are weighted down."""
    one = (record.noise_multiplier * record.clip_norm) ** 2
    if record.mode == Mode.CENTRAL:
        return one
    return record.cohort_size * (one if record.mode == Mode.LOCAL else one / record.cohort_min)


def _triangle(items: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Matrix]:
    rows, columns = np.triu_indices(items)
    # Off the diagonal a number stands for two places: so the vector has the length of the matrix.
    return rows, columns, np.where(rows == columns, 1.0, sqrt(2.0))


def _is_plain(value: Any) -> bool:
    return not isinstance(value, float) or isfinite(value)
