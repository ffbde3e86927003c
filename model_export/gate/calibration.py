"""Whether a score means the same later: how often its finalists are taken, learnt on one half, held to the other.

A ranking score is no probability; what is asked is that the map from scores to rates, which experiments and blends
rest on, holds for users it was not learnt from.

Source: Zadrozny and Elkan, "Obtaining calibrated probability estimates from decision trees and naive Bayesian
classifiers", ICML 2001 (binning); Naeini, Cooper and Hauskrecht, AAAI 2015 (expected calibration error).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

BINS = 10


def calibration_error(
    scores: npt.NDArray[np.float32], taken: npt.NDArray[np.bool_], later: npt.NDArray[np.bool_]
) -> float:
    """Return the expected calibration error of binned scores, over the later half's rate.

    Parameters
    ----------
    scores
        float32 (n,), of finalists.
    taken
        bool (n,), whether the user did something with the item.
    later
        bool (n,), the half that is predicted from the other.

    Returns
    -------
    float
        0: each bin is taken as often as before; nan where a half has no finalist or nothing was taken later.

    Examples
    --------
    >>> scores = np.repeat(np.arange(10, dtype=np.float32), 20)
    >>> taken = np.tile(np.arange(20) % 2 == 0, 10)
    >>> calibration_error(scores, taken, np.tile(np.arange(20) >= 10, 10))
    0.0
    """
    rate = float(taken[later].mean()) if later.any() else 0.0
    if not rate or later.all():
        return math.nan
    edges = np.quantile(scores[~later], np.linspace(0, 1, BINS + 1)[1:-1])
    bins = np.searchsorted(edges, scores, side="right")

    def rates(half: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        rows = np.bincount(bins[half], minlength=BINS).astype(np.float64)
        return rows, np.bincount(bins[half], taken[half], BINS) / np.maximum(rows, 1.0)

    before, learnt = rates(~later)
    rows, found = rates(later)
    known = before > 0
    return float((rows * np.abs(found - learnt))[known].sum() / rows[known].sum()) / rate
