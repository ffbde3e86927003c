"""Probabilities of arms: mixed with a floor, exact in their sum, and drawn from by a counted random number."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

_UNIT: Final = 2.0**40
_TOLERANCE: Final = 1e-12


def check_floor(floor: float, arms: int) -> None:
    """Refuse a floor that leaves less than a tenth to choose with.

    Raises
    ------
    ValueError
        Outside [0, 0.9 / arms].
    """
    if not 0.0 <= floor <= 0.9 / arms:
        raise ValueError(f"floor: wanted 0 to {0.9 / arms:.3f} for {arms} arms, got {floor}")


def mix_with_floor(weights: NDArray[np.float64], floor: float) -> NDArray[np.float64]:
    """Return weights as probabilities of at least `floor`.

    Parameters
    ----------
    weights
        (..., K), from 0, each row with a sum above 0; a row does not depend on its neighbours.

    Returns
    -------
    p
        float64 (..., K), multiples of 2**-40: their sum is exactly 1 in any order.

    Examples
    --------
    >>> mix_with_floor(np.array([3.0, 1.0]), floor=0.25).tolist()
    [0.625, 0.375]
    """
    mixed = floor + (1.0 - weights.shape[-1] * floor) * weights / weights.sum(axis=-1, keepdims=True)
    units = np.ceil(mixed * _UNIT)
    top = np.argmax(mixed, axis=-1, keepdims=True)
    others = units.sum(axis=-1, keepdims=True) - np.take_along_axis(units, top, axis=-1)
    np.put_along_axis(units, top, _UNIT - others, axis=-1)
    return np.asarray(units / _UNIT)


def share_of_best(scores: NDArray[np.float64], floor: float) -> NDArray[np.float64]:
    """Return all to the greatest of each row's scores but for the floor; equal ones (to 1e-12) share evenly.

    Examples
    --------
    >>> share_of_best(np.array([0.5, np.inf, np.inf]), floor=0.0).tolist()
    [0.0, 0.5, 0.5]
    """
    best = scores.max(axis=-1, keepdims=True)
    tied = (scores == best) | (np.isfinite(best) & (scores >= best - _TOLERANCE))
    return mix_with_floor(tied.astype(np.float64), floor)


def draw(probabilities: NDArray[np.float64], seed: str, counter: int = 1) -> int:
    """Return the arm that a seed draws: the same in a replay.

    Parameters
    ----------
    probabilities
        (K,), as `mix_with_floor` gives them.
    seed
        Names the decision, e.g. user, version and epoch; hashed with the counter.
    counter
        Number of the draw within the decision.

    Examples
    --------
    >>> [draw(np.array([0.5, 0.5]), "default/u1", slot) for slot in range(6)]
    [1, 0, 0, 1, 0, 1]
    """
    number = (xxh3_64_intdigest(f"{seed}\0{counter}") >> 11) * 2.0**-53
    below = 0.0
    for arm, share in enumerate(probabilities.tolist()):
        below += share
        if number < below:
            return arm
    return len(probabilities) - 1
