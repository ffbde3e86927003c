"""The gate that an update with local noise must pass: its norm tells whether the noise is in it.

An update is a delta of norm at most C plus N(0, sigma² I). Its squared norm over sigma² is chi-square with d
degrees of freedom and an offset of at most (C/sigma)². Below the band the client forgot its noise: the update
must be refused and destroyed, unread. Above it the update is poisoned or was clipped elsewhere.

It finds clients that are broken. One that means ill can pass: it only has to send a long vector.
"""

from __future__ import annotations

from functools import lru_cache
from math import exp, lgamma, log, sqrt
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.refusal import Refused

MISS_RATE: Final = 1e-3
"""Honest updates refused, both ends together."""
_TINY: Final = 1e-300
_PRECISION: Final = 1e-15


class NoiseBand(NamedTuple):
    """Norms that an honest update may have.

    Attributes
    ----------
    low, high
        L2 norms.
    clip_norm
        Largest norm without noise.

    Examples
    --------
    >>> band = noise_band(64, 1.0, 0.0, 0.0)
    >>> round(band.low / 8.0, 2), round(band.high / 8.0, 2)
    (0.72, 1.3)
    """

    low: float
    high: float
    clip_norm: float

    @property
    def has_power(self) -> bool:
        """Whether every update without noise lies below the band."""
        return self.clip_norm < self.low

    def check(self, values: NDArray[np.float64]) -> None:
        """Refuse an update outside.

        Parameters
        ----------
        values
            float64 (d,), as received. How far outside is not told: that would be about the data.

        Raises
        ------
        Refused
            `noise_missing` below the band, `norm_too_large` above it.
        """
        norm = sqrt(float(values @ values))
        if norm < self.low:
            raise Refused("noise_missing", f"norm: wanted at least {self.low:.6g}; the noise is not in it")
        if not norm <= self.high:
            raise Refused("norm_too_large", f"norm: wanted at most {self.high:.6g}")


@lru_cache(maxsize=1024)
def noise_band(
    dimension: int, sigma: float, clip_norm: float, step: float, miss_rate: float = MISS_RATE
) -> NoiseBand:
    """Return the band of updates under given terms.

    Parameters
    ----------
    dimension
        d.
    sigma
        Noise of the device.
    clip_norm
        C, by which the signal may lengthen the noise.
    step
        Of the quantiser, in values: rounding moves each coordinate by less.
    miss_rate
        Share of honest updates that fall outside, half on each side at most.
    """
    low = sigma * sqrt(chi_square_quantile(miss_rate / 2.0, dimension))
    high = sigma * sqrt(chi_square_quantile(1.0 - miss_rate / 2.0, dimension))
    return NoiseBand(low, high + clip_norm + step * sqrt(dimension), clip_norm)


@lru_cache(maxsize=1024)
def chi_square_quantile(probability: float, degrees: int) -> float:
    """Number below which a chi-square variable lies with this probability.

    Source: inverts the incomplete gamma function by bisection, within 20 standard deviations.

    Examples
    --------
    >>> round(chi_square_quantile(0.95, 1), 3), round(chi_square_quantile(0.5, 100), 3)
    (3.841, 99.334)
    """
    if not 0.0 < probability < 1.0:
        raise ValueError(f"probability: wanted above 0 and below 1, got {probability}")
    low, high = 0.0, degrees + 20.0 * sqrt(2.0 * degrees) + 100.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        if chi_square_cdf(middle, degrees) < probability:
            low = middle
        else:
            high = middle
        if high - low <= 1e-12 * high:
            break
    return 0.5 * (low + high)


def chi_square_cdf(x: float, degrees: int) -> float:
    """Probability that a chi-square variable is at most `x`.

    Source: Abramowitz and Stegun 6.5.29 (series) and 6.5.31 (continued fraction, by Lentz's method).
    """
    if x <= 0.0:
        return 0.0
    a, half = degrees / 2.0, x / 2.0
    front = exp(a * log(half) - half - lgamma(a))
    if half < a + 1.0:
        term = total = 1.0 / a
        n = a
        while term > total * _PRECISION:
            n += 1.0
            term *= half / n
            total += term
        return min(total * front, 1.0)
    b = half + 1.0 - a
    c, d = 1.0 / _TINY, 1.0 / b
    fraction = d
    n = 0.0
    while True:
        n += 1.0
        numerator = -n * (n - a)
        b += 2.0
        d = 1.0 / (numerator * d + b or _TINY)
        c = b + numerator / c or _TINY
        change = c * d
        fraction *= change
        if abs(change - 1.0) < _PRECISION:
            return max(1.0 - fraction * front, 0.0)
