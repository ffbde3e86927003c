"""Clipping: what makes the sensitivity of one user's whole contribution a number."""

from __future__ import annotations

from math import sqrt
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schemas.refusal import Refused

_SAFE: Final = 1.0 - 2.0**-40  # scaling rounds: a norm never ends above the clip


class Clipped(NamedTuple):
    """A delta within its norm.

    Attributes
    ----------
    values
        float64 (d,), norm at most the clip.
    norm
        Before clipping. Private: it stays on the device.
    within
        Whether nothing had to be cut.
    """

    values: NDArray[np.float64]
    norm: float
    within: bool


def l2_norm(values: NDArray[np.float64]) -> float:
    """L2 norm of (d,) without overflow of its squares.

    Examples
    --------
    >>> round(l2_norm(np.array([3e200, 4e200])) / 1e200, 6)
    5.0
    """
    largest = float(np.max(np.abs(values), initial=0.0))
    if largest == 0.0:
        return 0.0
    scaled = values / largest
    return largest * sqrt(float(scaled @ scaled))


def clip_delta(delta: ArrayLike, clip_norm: float) -> Clipped:
    """Shorten a client's whole delta to the clip, keeping its direction.

    The whole delta of all parameters at once: clipping layer by layer or after averaging bounds something else.

    Parameters
    ----------
    delta
        (d,), any norm.
    clip_norm
        Above 0.

    Raises
    ------
    Refused
        `bad_value` for NaN or infinity: there is no direction to keep.

    Examples
    --------
    >>> clipped = clip_delta([30.0, 40.0], 5.0)
    >>> clipped.values.round(6).tolist(), clipped.norm, clipped.within
    ([3.0, 4.0], 50.0, False)
    """
    values = np.asarray(delta, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"delta: wanted shape (d,), got {values.shape}")
    if not (clip_norm > 0.0 and np.isfinite(clip_norm)):
        raise ValueError(f"clip_norm: wanted a finite number above 0, got {clip_norm}")
    if not np.isfinite(values).all():
        raise Refused("bad_value", "delta: wanted finite numbers, got NaN or infinity")
    largest = float(np.max(np.abs(values), initial=0.0))
    norm = l2_norm(values)
    if norm <= clip_norm:
        return Clipped(values + 0.0, norm, True)
    # In two steps, because the norm of huge values is itself beyond a float.
    scaled = values / largest
    return Clipped(scaled * (clip_norm * _SAFE / l2_norm(scaled)), norm, False)
