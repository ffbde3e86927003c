"""Sums of contributions in whole numbers: the same bits in any order, and never an overflow.

All contributions, sums and noise are multiples of one unit, 2^-24. Two gains: a replay that sees the records in
another order gives the same model bit for bit; and the low bits of a float, which tell more than the Gaussian
mechanism allows (Mironov 2012), do not exist. A whole number plus rounded Gaussian noise is the rounding of the
number plus unrounded noise, so rounding is post-processing and costs no privacy.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.refusal import Refused

UNIT: Final = 2.0**-24
MAX_UNITS: Final = 1 << 40
"""Largest coordinate of a contribution, 65,536."""
MAX_COUNT: Final = 1 << 20
"""Most contributions in one sum: with `MAX_UNITS` it stays within 2^60."""
MIN_SIGMA: Final = 256 * UNIT
"""Least noise of a device or of a release: a rounded Gaussian this wide is a Gaussian to 1e-9."""


def to_units(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole units of (d,), cut toward zero, so that no norm grows.

    Raises
    ------
    Refused
        `bad_value` for NaN, infinity or a coordinate beyond `MAX_UNITS`.

    Examples
    --------
    >>> to_units(np.array([1.0, -1.0, 2.0**-25])).tolist()
    [16777216, -16777216, 0]
    """
    scaled = values / UNIT
    if not (np.abs(scaled) <= MAX_UNITS).all():  # false for NaN too
        raise Refused("bad_value", f"values: wanted finite numbers of at most {MAX_UNITS * UNIT:g}")
    units: NDArray[np.int64] = np.trunc(scaled).astype(np.int64)
    return units


def noise_units(noise: NDArray[np.float64], sigma: float) -> NDArray[np.int64]:
    """Whole units of sigma times standard normal noise (d,), rounded to nearest.

    Raises
    ------
    ValueError
        For a sigma so small that rounding would be seen, or so large that sums would overflow; 0 is no noise.
    """
    if sigma != 0.0 and not MIN_SIGMA <= sigma <= MAX_UNITS * UNIT / 16.0:
        raise ValueError(f"sigma: wanted {MIN_SIGMA:g} to {MAX_UNITS * UNIT / 16.0:g}, got {sigma:g}")
    units: NDArray[np.int64] = np.rint(noise * (sigma / UNIT)).astype(np.int64)
    return units


def from_units(units: NDArray[np.int64]) -> NDArray[np.float64]:
    """Numbers of whole units; exact below 2^53 units."""
    return units.astype(np.float64) * UNIT


class FixedPointSum(NamedTuple):
    """A running sum.

    Attributes
    ----------
    contributions
        How many are in it.
    total
        int64 (d,), in units.

    Examples
    --------
    >>> one = empty_sum(2).add(np.array([3, -4]))
    >>> one.add(np.array([1, 1])).total.tolist(), one.contributions
    ([4, -3], 1)
    """

    contributions: int
    total: NDArray[np.int64]

    def add(self, units: NDArray[np.int64]) -> FixedPointSum:
        """Return the sum with one contribution more.

        Raises
        ------
        Refused
            `wrong_shape` for another dimension; `bad_value` for a coordinate beyond `MAX_UNITS`, or when
            `MAX_COUNT` contributions are in: nothing can wrap around.
        """
        if units.shape != self.total.shape:
            raise Refused("wrong_shape", f"wanted {self.total.shape[0]} numbers, got shape {units.shape}")
        if units.size and (int(units.max()) > MAX_UNITS or int(units.min()) < -MAX_UNITS):
            raise Refused("bad_value", f"wanted coordinates of at most {MAX_UNITS} units")
        if self.contributions >= MAX_COUNT:
            raise Refused("bad_value", f"wanted at most {MAX_COUNT} contributions in one sum")
        return FixedPointSum(self.contributions + 1, self.total + units)

    def add_many(self, count: int, total: NDArray[np.int64]) -> FixedPointSum:
        """Return the sum with the sum of `count` contributions more, each within `MAX_UNITS`.

        Raises
        ------
        Refused
            As `add`.
        """
        if total.shape != self.total.shape:
            raise Refused("wrong_shape", f"wanted {self.total.shape[0]} numbers, got shape {total.shape}")
        if self.contributions + count > MAX_COUNT:
            raise Refused("bad_value", f"wanted at most {MAX_COUNT} contributions in one sum")
        return FixedPointSum(self.contributions + count, self.total + total)


def empty_sum(dimension: int) -> FixedPointSum:
    """Return the sum of nothing."""
    return FixedPointSum(0, np.zeros(dimension, np.int64))


def weigh(total: NDArray[np.int64], weight: float) -> NDArray[np.int64]:
    """Return a sum times a weight of at most 1, in whole units cut toward zero; a weight of 1 changes nothing.

    A user's contribution moves the result by at most weight * clip + one unit a coordinate, which whoever
    calibrates noise must count (`udfs.federate.release.largest_clip`).
    """
    if not 0.0 < weight <= 1.0:
        raise ValueError(f"weight: wanted above 0 and at most 1, got {weight}")
    if weight == 1.0:
        return total
    weighed: NDArray[np.int64] = np.trunc(total.astype(np.float64) * weight).astype(np.int64)
    return weighed
