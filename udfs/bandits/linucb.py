"""LinUCB with disjoint arms: the arm whose reward in this context could be the best. Probabilities are exact.

Source: Li, Chu, Langford and Schapire, "A contextual-bandit approach to personalized news article recommendation",
WWW 2010, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from udfs.bandits.linear_arms import LinearArms, LinearPolicy
from udfs.bandits.shares import share_of_best


@dataclass(frozen=True)
class LinUcb(LinearPolicy):
    """The policy, with the parameters of `LinearPolicy`: `width` is the paper's alpha. The paper's has no floor.

    Examples
    --------
    >>> policy = LinUcb(2, dim=1, floor=0.0)
    >>> state = policy.update(policy.start(), 0, 0.0, np.ones(1))
    >>> policy.probabilities(state, np.ones(1)).tolist()
    [0.0, 1.0]
    """

    def probabilities(self, state: LinearArms, context: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `udfs.bandits.policy.Policy`; arms with equal bounds share evenly."""
        mean, spread = state.scores(context, self.ridge)
        return share_of_best(mean + self.width * spread, self.floor)
