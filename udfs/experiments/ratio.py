"""A rate per list with the error that it has because users, not lists, were dealt to variants.

Everything takes numbers or arrays of them, so a thousand experiments cost as much as one.

Source: Cochran, Sampling Techniques, 3rd edition (1977), section 6.4 (a ratio by linearisation); Deng, Knoblich and
Lu, "Applying the delta method in metric analytics", KDD 2018.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.experiments.experiment import METRICS
from udfs.experiments.variant_sums import REVENUE_UNIT, VariantSums

Numbers = NDArray[np.float64]


class Ratio(NamedTuple):
    """Sums of n users' gains x and lists l: users, and the sums of l, l^2, x, x^2, x l; lists with a gain."""

    users: Any
    lists: Any
    lists_squared: Any
    gains: Any
    gains_squared: Any
    gains_lists: Any
    events: Any

    @classmethod
    def of(cls, sums: VariantSums, metric: str) -> Ratio:
        """Return one metric of a variant; revenue in the shop's currency."""
        at = METRICS.index(metric)
        unit = REVENUE_UNIT if metric == "revenue" else 1.0
        return cls(
            float(sums.users),
            float(sums.lists),
            float(sums.lists_squared),
            sums.gains[at] * unit,
            sums.gains_squared[at] * unit**2,
            sums.gains_lists[at] * unit,
            float(sums.events[at]),
        )

    @property
    def value(self) -> Numbers:
        """The rate."""
        return np.asarray(self.gains / np.maximum(self.lists, 1.0))

    @property
    def variance(self) -> Numbers:
        """Of the rate; infinite with fewer than two users."""
        rate, users = self.value, np.asarray(self.users, np.float64)
        rest = self.gains_squared - 2.0 * rate * self.gains_lists + rate**2 * self.lists_squared
        spread = np.maximum(rest, 0.0) / np.maximum(self.lists, 1.0) ** 2
        return np.where(users >= 2.0, spread * users / np.maximum(users - 1.0, 1.0), np.inf)

    @property
    def design_effect(self) -> Numbers:
        """How many times the variance is that of independent lists; for rates of lists with a gain."""
        plain = self.value * (1.0 - self.value) / np.maximum(self.lists, 1.0)
        return np.where(plain > 0.0, self.variance / np.where(plain > 0.0, plain, 1.0), 1.0)


def difference(control: Ratio, treatment: Ratio) -> tuple[Numbers, Numbers]:
    """Return how much higher the treatment's rate is, and the variance of that.

    Examples
    --------
    A hundred users a side with one list each, 10 and 20 of them with a click:

    >>> low, high = (Ratio(100, 100, 100, clicks, clicks, clicks, clicks) for clicks in (10.0, 20.0))
    >>> delta, variance = difference(low, high)
    >>> round(float(delta), 3), round(float(variance) ** 0.5, 4)
    (0.1, 0.0503)
    """
    return treatment.value - control.value, treatment.variance + control.variance
