"""How good lists of ten are: precision, recall, hit rate and NDCG, with standard errors.

Source: NDCG with binary gains, Jarvelin and Kekalainen, ACM TOIS 20(4), 2002.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

K = 10
NAMES = ("precision", "recall", "hit_rate", "ndcg")


@dataclass(frozen=True)
class ListMetrics:
    """Means over lists and their standard errors, in the order of `NAMES`, and the number of lists."""

    means: tuple[float, ...]
    errors: tuple[float, ...]
    lists: int

    @classmethod
    def of(cls, pairs: Iterable[tuple[Sequence[int], Set[int]]], k: int = K) -> ListMetrics:
        """Average over (list, wanted items) pairs; pairs that want nothing are left out.

        Examples
        --------
        >>> ListMetrics.of([([1, 2], {1}), ([3], {4})]).to_dict()["hit_rate"]
        0.5
        """
        rows = np.array([list_metrics(shown, wanted, k) for shown, wanted in pairs if wanted])
        if not len(rows):
            return cls((math.nan,) * len(NAMES), (math.nan,) * len(NAMES), 0)
        errors = (
            rows.std(axis=0, ddof=1) / math.sqrt(len(rows)) if len(rows) > 1 else np.full(len(NAMES), 0.0)
        )
        return cls(tuple(rows.mean(axis=0).tolist()), tuple(errors.tolist()), len(rows))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, rounded to four places; None where there were no lists."""
        values = {name: _rounded(mean) for name, mean in zip(NAMES, self.means, strict=True)}
        errors = {f"{name}_error": _rounded(error) for name, error in zip(NAMES, self.errors, strict=True)}
        return {**values, **errors, "lists": self.lists}

    def __str__(self) -> str:
        return " ".join(f"{name} {mean:.3f}" for name, mean in zip(NAMES, self.means, strict=True))


def list_metrics(
    shown: Sequence[Hashable], wanted: Set[Any], k: int = K
) -> tuple[float, float, float, float]:
    """Return precision, recall, hit and NDCG of the first `k` items shown; missing places are misses.

    Examples
    --------
    >>> list_metrics([1, 2, 3], {1, 9})
    (0.1, 0.5, 1.0, 0.6131471927654584)
    """
    hits = [item in wanted for item in shown[:k]]
    count = sum(hits)
    gain = sum(1.0 / math.log2(place + 2) for place, hit in enumerate(hits) if hit)
    best = sum(1.0 / math.log2(place + 2) for place in range(min(k, len(wanted))))
    return count / k, count / len(wanted), float(count > 0), gain / best


def top_rows(scores: npt.NDArray[np.float64], k: int = K) -> list[int]:
    """Return the rows of the k highest scores; equal scores by row."""
    rows: list[int] = np.argsort(-scores, kind="stable")[:k].tolist()
    return rows


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
