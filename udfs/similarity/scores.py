"""From decayed counts to what readers get: cosine, P(i|j), and a popularity that needs no clock."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

NOTHING: Final = -math.inf
"""`timeless` of no count at all."""


def timeless(count: float, as_of_ms: int, half_life_ms: float) -> float:
    """Give a decayed count as a number that does not change while time passes.

    It is log2 of the count as of 1970: counts decay alike, so differences of two such numbers hold at any
    time, and the order of items by it never needs to be computed again. At time t the count is
    2 ** (timeless - t / half_life). Known as forward decay (Cormode, Shkapenyuk, Srivastava, Xu 2009).

    Examples
    --------
    >>> timeless(8.0, 2_000, 1_000) == timeless(4.0, 3_000, 1_000)
    True
    """
    return math.log2(count) + as_of_ms / half_life_ms if count > 0 else NOTHING


def cosine(
    together: NDArray[np.float64],
    alone: float,
    as_of_ms: int,
    others_timeless: NDArray[np.float64],
    half_life_ms: float,
) -> NDArray[np.float64]:
    """Give sessions with both over the root of sessions with either: 1 for items that always come together.

    Parameters
    ----------
    together
        (n,) decayed sessions with the item and each other one, as of `as_of_ms`.
    alone
        Decayed sessions with the item, as of `as_of_ms`.
    others_timeless
        (n,) `timeless` of the others' sessions; at their own moments.
    """
    others = np.exp2(np.asarray(others_timeless) - as_of_ms / half_life_ms)
    return np.asarray(together / np.sqrt(alone * others))


def conditional(together: NDArray[np.float64], alone: float) -> NDArray[np.float64]:
    """Give P(i|j): of the sessions with item j the share that holds i too.

    Examples
    --------
    >>> conditional(np.array([1.0, 3.0]), 4.0).tolist()
    [0.25, 0.75]
    """
    return together / alone if alone > 0 else np.zeros_like(together)
