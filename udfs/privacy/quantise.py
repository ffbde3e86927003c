"""A contribution in few bits: a step that no data decides, and rounding that is right on average."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.refusal import Refused
from udfs.privacy.fixed_point import MAX_UNITS, UNIT

WIDTHS: Final = {8: "<i1", 16: "<i2", 32: "<i4"}
"""Bits a coordinate to the NumPy type of the payload, little endian."""
_SIGMAS: Final = 8.3
"""Where the noise ends: `keyed_gaussian` gives nothing beyond."""


class Quantiser(NamedTuple):
    """How coordinates become small whole numbers.

    Attributes
    ----------
    bits
        8, 16 or 32 a coordinate.
    step
        Units a whole number stands for, a power of two, so that what was quantised can be summed exactly.
    """

    bits: int
    step: int

    @property
    def largest(self) -> int:
        """Largest whole number."""
        return (1 << (self.bits - 1)) - 1

    def round(self, units: NDArray[np.int64], chances: NDArray[np.int64]) -> NDArray[np.int64]:
        """Quantise int64 (d,) up or down so that the mean is right.

        Parameters
        ----------
        chances
            int64 (d,): evenly from 0 to below `step`, from secret bits.

        Examples
        --------
        >>> Quantiser(8, 4).round(np.array([5, 5, 5, 5]), np.arange(4)).tolist()
        [1, 1, 1, 2]
        """
        rounded: NDArray[np.int64] = np.clip((units + chances) // self.step, -self.largest, self.largest)
        return rounded

    def cut(self, units: NDArray[np.int64]) -> NDArray[np.int64]:
        """Quantise int64 (d,) toward zero: biased by less than a step, and no norm grows."""
        numbers: NDArray[np.int64] = np.sign(units) * np.minimum(np.abs(units) // self.step, self.largest)
        return numbers

    def pack(self, numbers: NDArray[np.int64]) -> bytes:
        """Write whole numbers as bytes."""
        return numbers.astype(WIDTHS[self.bits]).tobytes()

    def unpack(self, payload: bytes, dimension: int) -> NDArray[np.int64]:
        """Read a payload into units, int64 (d,).

        Raises
        ------
        Refused
            `wrong_shape` for a payload of another length.
        """
        wanted = dimension * self.bits // 8
        if len(payload) != wanted:
            raise Refused("wrong_shape", f"payload: wanted {wanted} bytes, got {len(payload)}")
        return np.frombuffer(payload, WIDTHS[self.bits]).astype(np.int64) * self.step


def quantiser(clip_norm: float, device_sigma: float, bits: int) -> Quantiser:
    """Choose the finest quantiser that holds clip and noise. It depends on public terms alone.

    Raises
    ------
    ValueError
        For other bits than `WIDTHS` names, or terms that no quantiser of ours holds.

    Examples
    --------
    >>> quantiser(1.0, 1.0, 8), quantiser(1.0, 0.0, 32)
    (Quantiser(bits=8, step=2097152), Quantiser(bits=32, step=1))
    """
    if bits not in WIDTHS:
        raise ValueError(f"bits: wanted one of {sorted(WIDTHS)}, got {bits}")
    reach = (clip_norm + _SIGMAS * device_sigma) / UNIT
    if not reach <= MAX_UNITS / 2:
        raise ValueError(
            f"clip and noise: wanted at most {MAX_UNITS * UNIT / 2:g} together, got {reach * UNIT:g}"
        )
    step = 1
    while step * ((1 << (bits - 1)) - 1) < reach:
        step *= 2
    return Quantiser(bits, step)
