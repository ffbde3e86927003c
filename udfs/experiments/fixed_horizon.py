"""The chi-squared test of two rates, to be looked at once, at an end that was set before.

Lists of one user are alike, so the statistic is divided by the design effect (first-order correction).

Source: Pearson (1900); Rao and Scott, "On chi-squared tests for multiway contingency tables with cell proportions
estimated from survey data", Annals of Statistics 12 (1984).
"""

from __future__ import annotations

import math

import numpy as np

from udfs.experiments.ratio import Numbers, Ratio, difference

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def pearson(control: Ratio, treatment: Ratio) -> Numbers:
    """Return the statistic of the 2 x 2 table of lists with and without a gain; 0 where a margin is empty.

    Examples
    --------
    >>> few, many = (Ratio(100, 100.0, 100, hits, hits, hits, hits) for hits in (10.0, 20.0))
    >>> round(float(pearson(few, many)), 4)
    3.9216
    """
    lists = np.asarray(control.lists + treatment.lists, np.float64)
    gains = np.asarray(control.gains + treatment.gains, np.float64)
    cross = treatment.gains * (control.lists - control.gains) - control.gains * (
        treatment.lists - treatment.gains
    )
    margins = np.asarray(control.lists * treatment.lists * gains * (lists - gains), np.float64)
    return np.where(margins > 0.0, lists * cross**2 / np.where(margins > 0.0, margins, 1.0), 0.0)


def chi_squared_p(control: Ratio, treatment: Ratio) -> Numbers:
    """Return how likely a difference of rates as great as this is if there is none.

    For rates of lists with a gain. The design effect is that of both variants together, each by its share of the
    difference's variance, and at least 1.
    """
    plain = sum(one.value * (1.0 - one.value) / np.maximum(one.lists, 1.0) for one in (control, treatment))
    _, variance = difference(control, treatment)
    known = (plain > 0.0) & np.isfinite(variance)
    effect = np.where(known, variance / np.where(known, plain, 1.0), np.inf)
    return np.asarray(_erfc(np.sqrt(pearson(control, treatment) / np.maximum(effect, 1.0) / 2.0)))


def normal_p(control: Ratio, treatment: Ratio) -> Numbers:
    """Return the same for a mean, such as revenue: the difference over its standard error, as a normal variable."""
    delta, variance = difference(control, treatment)
    known = (variance > 0.0) & np.isfinite(variance)
    return np.asarray(
        _erfc(np.where(known, np.abs(delta) / np.sqrt(2.0 * np.where(known, variance, 1.0)), 0.0))
    )
