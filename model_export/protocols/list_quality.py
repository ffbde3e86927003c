"""How good lists are, and how different: everything that a quality report prints, each with its standard error.

Accuracy is a mean over users. Coverage and inter-user similarity belong to all lists together: their errors are
the jackknife's over users, and that of a U-statistic of order two.

Source: Zhou et al., "Solving the apparent diversity-accuracy dilemma of recommender systems", PNAS 107(10), 2010
(inter-user similarity, self-information); Efron and Stein, "The jackknife estimate of variance", 1981.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

K = 10
ACCURACY = ("precision", "recall", "f1", "map", "ndcg", "hit_rate", "mrr")
NAMES = (*ACCURACY, "coverage", "similarity", "novelty")
SHOWN = (
    "P@10",
    "R@10",
    "F1@10",
    "MAP@10",
    "NDCG@10",
    "hit rate",
    "MRR@10",
    "coverage",
    "similarity",
    "novelty",
)
"""Heads of a table's columns, in the order of `NAMES`."""


@dataclass(frozen=True)
class ListQuality:
    """Values and standard errors by name, and the number of lists."""

    values: dict[str, float]
    errors: dict[str, float]
    lists: int

    @classmethod
    def of(
        cls,
        shown: npt.NDArray[np.int32],
        wanted: Sequence[Set[int]],
        owners: npt.NDArray[np.int64],
        users: int,
    ) -> ListQuality:
        """Measure lists; users who want nothing are left out.

        Parameters
        ----------
        shown
            int32 (U, at least K): item rows, best first, -1 where there are no more.
        wanted
            U sets of item rows.
        owners
            int64 (n_items,): how many users had each item before: novelty is ``-log2((owners + 1) / (users + 1))``.
        users
            Of whom `owners` tells.

        Examples
        --------
        >>> shown = np.array([[0, 1], [0, 2]], np.int32)
        >>> found = ListQuality.of(shown, [{1}, {9}], np.array([3, 1, 0, 0]), 3)
        >>> [round(found.values[name], 3) for name in ("hit_rate", "mrr", "coverage", "similarity", "novelty")]
        [0.5, 0.25, 0.75, 0.5, 0.75]
        """
        asked = np.array([bool(items) for items in wanted], np.bool_)
        lists = shown[asked, :K]
        if not len(lists):
            return cls(dict.fromkeys(NAMES, math.nan), dict.fromkeys(NAMES, math.nan), 0)
        chosen = [items for items in wanted if items]
        rows = np.array([accuracy(row, items) for row, items in zip(lists.tolist(), chosen, strict=True)])
        values = dict(zip(ACCURACY, rows.mean(axis=0).tolist(), strict=True))
        errors = dict(zip(ACCURACY, _errors(rows).tolist(), strict=True))
        counts = np.bincount(lists[lists >= 0], minlength=len(owners))
        values["coverage"], errors["coverage"] = _coverage(lists, counts)
        values["similarity"], errors["similarity"] = _similarity(lists, counts)
        novelty = -np.log2((owners + 1) / (users + 1))
        own = np.array([novelty[row[row >= 0]].mean() if (row >= 0).any() else 0.0 for row in lists])
        values["novelty"], errors["novelty"] = float(own.mean()), float(_errors(own[:, None])[0])
        return cls(values, errors, len(lists))

    def cells(self, names: Sequence[str] = NAMES) -> list[str]:
        """Return values ± errors for a table."""
        return [
            "-" if math.isnan(self.values[name]) else f"{self.values[name]:.4f} ± {self.errors[name]:.4f}"
            for name in names
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return values and errors (``precision_error``), rounded to five places; None where there is none."""
        errors = {f"{name}_error": _rounded(error) for name, error in self.errors.items()}
        return {name: _rounded(value) for name, value in self.values.items()} | errors | {"lists": self.lists}


def accuracy(shown: Sequence[int], wanted: Set[int], k: int = K) -> tuple[float, ...]:
    """Return the figures of `ACCURACY` for one list; missing places are misses.

    Average precision is over ``min(k, wanted)``, NDCG has binary gains.

    Examples
    --------
    >>> [round(value, 3) for value in accuracy([7, 1, 8, 2], {1, 2, 3})]
    [0.2, 0.667, 0.308, 0.333, 0.498, 1.0, 0.5]
    """
    hits = [place for place, item in enumerate(shown[:k], start=1) if item in wanted]
    if not hits:
        return (0.0,) * len(ACCURACY)
    precision, recall = len(hits) / k, len(hits) / len(wanted)
    most = min(k, len(wanted))
    average = sum(number / place for number, place in enumerate(hits, start=1)) / most
    gain = sum(1.0 / math.log2(place + 1) for place in hits)
    best = sum(1.0 / math.log2(place + 1) for place in range(1, most + 1))
    f1 = 2 * precision * recall / (precision + recall)
    return precision, recall, f1, average, gain / best, 1.0, 1.0 / hits[0]


def top_lists(
    scores: npt.NDArray[np.float64], left_out: npt.NDArray[np.bool_], k: int = K
) -> npt.NDArray[np.int32]:
    """Return int32 (U, k): the rows of the highest scores, equal ones by row, -1 where there are no more.

    Parameters
    ----------
    scores
        float64 (U, n_items); not changed.
    left_out
        bool (U, n_items): what may not be shown.
    """
    masked = np.where(left_out, -np.inf, scores)
    rows = np.argsort(-masked, axis=1, kind="stable")[:, :k].astype(np.int32)
    return np.where(np.take_along_axis(left_out, rows, axis=1), -1, rows).astype(np.int32)


def _errors(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if len(rows) < 2:
        return np.zeros(rows.shape[1])
    return np.asarray(rows.std(axis=0, ddof=1) / math.sqrt(len(rows)))


def _coverage(lists: npt.NDArray[np.int32], counts: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Share of the catalogue in any list; without one user the items fall out that only this one was shown."""
    items, users = len(counts), len(lists)
    lost = np.array([(counts[row[row >= 0]] == 1).sum() for row in lists]) / items
    error = math.sqrt((users - 1) / users * float(((lost - lost.mean()) ** 2).sum()))
    return float((counts > 0).sum()) / items, error


def _similarity(lists: npt.NDArray[np.int32], counts: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Mean share of one user's list that is in another's."""
    users, k = lists.shape
    if users < 2:
        return math.nan, math.nan
    own = np.array([(counts[row[row >= 0]] - 1).sum() for row in lists]) / (k * (users - 1))
    return float(own.mean()), 2.0 * float(_errors(own[:, None])[0])


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 5)
