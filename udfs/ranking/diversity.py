"""Maximal marginal relevance by category: what the ranker would show next, given what is shown already.

The value of a finalist is ``(1 - w) * relevance - w * repetition``: relevance is its score scaled to [0, 1]
within the user's finalists, repetition the share of the slots filled so far that are of its category. An item
without a category repeats nothing.

Source: Carbonell and Goldstein, SIGIR 1998, with the mean of the similarities in place of their maximum, so
that a second repetition costs more than the first.
"""

from math import inf

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel


@kernel
def scale_scores(scores: NDArray[np.float32], count: int, relevance: NDArray[np.float64]) -> None:
    """Write ``scores[:count]`` scaled to [0, 1] into `relevance`; equal scores become 1."""
    lowest, highest = inf, -inf
    for k in range(count):
        lowest = min(lowest, float(scores[k]))
        highest = max(highest, float(scores[k]))
    for k in range(count):
        relevance[k] = (scores[k] - lowest) / (highest - lowest) if highest > lowest else 1.0


@kernel
def best_marginal(
    relevance: NDArray[np.float64],
    repeated: NDArray[np.int64],
    taken: NDArray[np.bool_],
    count: int,
    filled: int,
    weight: float,
) -> int:
    """Return the finalist of the greatest value that is not taken, -1 when none is left.

    Parameters
    ----------
    relevance
        float64 (K,) in [0, 1]
    repeated
        int64 (K,): slots filled with the finalist's category
    taken
        bool (K,)
    count
        Finalists that there are.
    filled
        Slots filled so far.
    weight
        Of repetition, in [0, 1].

    Returns
    -------
    int
        Of equal values the first finalist.
    """
    best, best_value = -1, -np.inf
    share = weight / filled if filled > 0 else 0.0
    for k in range(count):
        if taken[k]:
            continue
        value = (1.0 - weight) * relevance[k] - share * repeated[k]
        if value > best_value:
            best, best_value = k, value
    return best
