"""Two models on the same snapshots: how alike their lists and their scores are.

Lists are compared as the models order them, before exploration: draws differ by epoch, whatever the models say.

Source: Webber, Moffat and Zobel, "A similarity measure for indefinite rankings", ACM TOIS 28(4), 2010, equation 32
(rank-biased overlap, extrapolated); Siddiqi, *Credit Risk Scorecards*, 2006 (population stability index).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

RBO_P = 0.9
PSI_BINS = 10
_LEAST_SHARE = 1e-4  # of an empty bin, so that its logarithm is one


class Ordered(NamedTuple):
    """One model's order for one user: item ids, best first, and their scores float32."""

    items: Sequence[str]
    scores: npt.NDArray[np.float32]


def rank_biased_overlap(one: Sequence[Hashable], other: Sequence[Hashable], p: float = RBO_P) -> float:
    """Return the extrapolated rank-biased overlap of two rankings without repeats, 0 to 1.

    Parameters
    ----------
    p
        How much of the attention goes on to the next place.

    Examples
    --------
    >>> rank_biased_overlap("abc", "abc"), rank_biased_overlap("abc", "xyz")
    (1.0, 0.0)
    >>> round(rank_biased_overlap("abc", "bac"), 4), round(rank_biased_overlap("abc", "acb"), 4)
    (0.9, 0.955)
    """
    short, long = sorted((one, other), key=len)
    if not long:
        return 1.0
    if not short:
        return 0.0
    seen_short: set[Hashable] = set()
    seen_long: set[Hashable] = set()
    overlap, at_short, total = 0, 0, 0.0
    s = len(short)
    for depth, item in enumerate(long, start=1):
        seen_long.add(item)
        if depth <= s:
            seen_short.add(short[depth - 1])
        overlap = len(seen_short & seen_long)
        if depth <= s:
            at_short = overlap
        beyond = at_short * (depth - s) / s if depth > s else 0.0
        total += (overlap + beyond) / depth * p**depth
    last = (overlap - at_short) / len(long) + at_short / s
    return round((1 - p) / p * total + last * p ** len(long), 12)


def overlap_at(one: Sequence[Hashable], other: Sequence[Hashable], k: int) -> float:
    """Return which share of the first k places holds items of both; 1 where both are empty.

    Examples
    --------
    >>> overlap_at("abcd", "bxad", 3)
    0.6666666666666666
    """
    most = min(k, max(len(one), len(other)))
    return len(set(one[:k]) & set(other[:k])) / most if most else 1.0


def stability_index(before: npt.NDArray[np.float32], now: npt.NDArray[np.float32]) -> float:
    """Return the population stability index of scores: 0 for equal distributions, above .25 for a shift.

    Bins are the tenths of `before`.

    Examples
    --------
    >>> scores = np.arange(1000, dtype=np.float32)
    >>> stability_index(scores, scores), stability_index(scores, scores + 500) > 1
    (0.0, True)
    """
    if not len(before) or not len(now):
        return math.nan
    edges = np.unique(np.quantile(before, np.linspace(0, 1, PSI_BINS + 1)[1:-1]))
    shares = [
        np.maximum(
            np.bincount(np.searchsorted(edges, part, side="right"), minlength=len(edges) + 1) / len(part),
            _LEAST_SHARE,
        )
        for part in (before, now)
    ]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def largest_gap(before: npt.NDArray[np.float32], now: npt.NDArray[np.float32]) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples of scores, 0 to 1.

    Examples
    --------
    >>> largest_gap(np.array([1, 2, 3, 4], np.float32), np.array([3, 4, 5, 6], np.float32))
    0.5
    """
    if not len(before) or not len(now):
        return math.nan
    both = np.concatenate([before, now])
    below = [np.searchsorted(np.sort(part), both, side="right") / len(part) for part in (before, now)]
    return float(np.abs(below[0] - below[1]).max())


class Shadow:
    """The comparison of a candidate with what serves, list by list.

    Parameters
    ----------
    k
        Places that a user sees.
    """

    def __init__(self, k: int) -> None:
        self._k = k
        self._rbo: list[float] = []
        self._overlap: list[float] = []
        self._first: list[bool] = []
        self._scores: tuple[list[npt.NDArray[np.float32]], list[npt.NDArray[np.float32]]] = ([], [])

    def add(self, serving: Ordered, candidate: Ordered) -> None:
        """Take one user's two orders."""
        one, other = serving.items[: self._k], candidate.items[: self._k]
        self._rbo.append(rank_biased_overlap(one, other))
        self._overlap.append(overlap_at(one, other, self._k))
        self._first.append(list(one[:1]) != list(other[:1]))
        for kept, ordered in zip(self._scores, (serving, candidate), strict=True):
            kept.append(ordered.scores[: self._k])

    def __len__(self) -> int:
        return len(self._rbo)

    def report(self) -> dict[str, Any]:
        """Return means over the lists and the drift of all scores; None where there were no lists."""
        if not self._rbo:
            return {"lists": 0}
        before, now = (np.concatenate(part) for part in self._scores)
        return {
            "lists": len(self),
            "rbo": round(float(np.mean(self._rbo)), 6),
            f"overlap_at_{self._k}": round(float(np.mean(self._overlap)), 6),
            "first_item_changed": round(float(np.mean(self._first)), 6),
            "score_psi": round(stability_index(before, now), 6),
            "score_ks": round(largest_gap(before, now), 6),
        }
