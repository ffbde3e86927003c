"""How high the true item stands: recall and reciprocal rank at k, with standard errors.

Source: Hidasi et al., "Session-based recommendations with recurrent neural networks", ICLR 2016.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ABSENT = np.iinfo(np.int32).max
"""The rank of an item that stands nowhere in the list."""
CUTS = (10, 20)
DEEPEST = max(CUTS)


@dataclass(frozen=True)
class RankMetrics:
    """Means by name, such as ``recall@20``, their standard errors, and the number of predictions."""

    values: dict[str, float]
    errors: dict[str, float]
    predictions: int

    @classmethod
    def of(cls, ranks: npt.NDArray[np.int32], groups: npt.NDArray[np.int64]) -> RankMetrics:
        """Average over predictions.

        Parameters
        ----------
        ranks
            int32 (n,): place of the true item, from 1; `ABSENT` where it has none.
        groups
            int64 (n,): the session of each prediction. Predictions of one session fail and succeed together, so
            the standard error takes sessions, not predictions, as independent.

        Examples
        --------
        >>> found = RankMetrics.of(np.array([1, 4, ABSENT], np.int32), np.array([0, 1, 2]))
        >>> round(found.values["recall@20"], 4), round(found.values["mrr@20"], 4)
        (0.6667, 0.4167)
        """
        values, errors = {}, {}
        _, group = np.unique(groups, return_inverse=True)
        for k in CUTS:
            inside = ranks <= k
            for name, gains in (("recall", inside.astype(np.float64)), ("mrr", inside / ranks)):
                mean = float(gains.mean()) if len(gains) else math.nan
                spread = np.bincount(group, gains - mean) if len(gains) else np.zeros(0)
                values[f"{name}@{k}"] = mean
                errors[f"{name}@{k}"] = float(np.sqrt((spread**2).sum())) / max(len(gains), 1)
        return cls(values, errors, len(ranks))

    @classmethod
    def mean_of(cls, parts: Sequence[RankMetrics]) -> RankMetrics:
        """Return the mean over periods, each with the same weight whatever its size."""
        count = max(len(parts), 1)
        names = parts[0].values if parts else {}
        return cls(
            {name: sum(part.values[name] for part in parts) / count for name in names},
            {name: math.sqrt(sum(part.errors[name] ** 2 for part in parts)) / count for name in names},
            sum(part.predictions for part in parts),
        )

    def to_dict(self) -> dict[str, float]:
        """Return means and errors (``recall@20_error``), rounded to five places."""
        errors = {f"{name}_error": round(error, 5) for name, error in self.errors.items()}
        return {name: round(value, 5) for name, value in self.values.items()} | errors


def ranks_in(rows: npt.NDArray[np.int32], items: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return the place of each item in its list, from 1; `ABSENT` where it has none.

    Parameters
    ----------
    rows
        int32 (B, N): lists, best first.
    items
        int32 (B,).

    Examples
    --------
    >>> ranks_in(np.array([[5, 3], [1, 2]], np.int32), np.array([3, 9], np.int32)).tolist()
    [2, 2147483647]
    """
    found = rows == items[:, None]
    place = np.where(found.any(axis=1), found.argmax(axis=1) + 1, ABSENT)
    return place.astype(np.int32)
