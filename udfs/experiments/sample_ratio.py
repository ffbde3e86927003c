"""The alarm that users were not dealt as planned: then no figure of the experiment means anything.

Evidence that holds at any look: users by variant as a multinomial count, a Dirichlet mixture of shares against the
planned ones. Its mean is 1 if they are dealt as planned, so it reaches 1 / alpha with a probability of alpha at most.

Source: Lindon and Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

ALPHA: Final = 0.001
CONCENTRATION: Final = 100.0
"""Of the mixture around the planned shares: mismatches of some percent are found soonest."""


def log_evidence(users: Sequence[int], weights: Sequence[int]) -> float:
    """Return the logarithm of the evidence against the planned shares.

    Parameters
    ----------
    users
        By variant.
    weights
        As planned.

    Examples
    --------
    >>> log_evidence([1_000, 1_000], [1, 1]) < 0 < log_evidence([1_000, 1_200], [1, 1])
    True
    """
    total = sum(weights)
    shares = [weight / total for weight in weights]
    prior = [CONCENTRATION * share for share in shares]
    log = math.lgamma(CONCENTRATION) - math.lgamma(CONCENTRATION + sum(users))
    for count, share, mass in zip(users, shares, prior, strict=True):
        log += math.lgamma(mass + count) - math.lgamma(mass) - count * math.log(share)
    return log


def is_mismatch(users: Sequence[int], weights: Sequence[int], alpha: float = ALPHA) -> bool:
    """Whether the users by variant cannot be the planned shares."""
    return log_evidence(users, weights) >= math.log(1.0 / alpha)
