"""LinUCB with disjoint arms: the arm whose reward in this context could be the best. Probabilities are exact.

Source: Li, Chu, Langford and Schapire, "A contextual-bandit approach to personalized news article recommendation",
WWW 2010, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from udfs.bandits.linear_arms import MAX_DIM, LinearArms
from udfs.bandits.shares import check_floor, share_of_best


@dataclass(frozen=True)
class LinUcb:
    """The policy.

    Parameters
    ----------
    arms, dim
        K, and length of a context, whose first number should be 1.
    floor
        Least probability of every arm; the paper's policy has none.
    width
        Factor of the bound's width, the paper's alpha.
    ridge
        The paper's has 1.
    keep
        What a reward leaves of the arm's earlier sums.

    Examples
    --------
    >>> policy = LinUcb(2, dim=1, floor=0.0)
    >>> state = policy.update(policy.start(), 0, 0.0, np.ones(1))
    >>> policy.probabilities(state, np.ones(1)).tolist()
    [0.0, 1.0]
    """

    arms: int
    dim: int
    floor: float = 0.01
    width: float = 0.5
    ridge: float = 1.0
    keep: float = 1.0

    def __post_init__(self) -> None:
        check_floor(self.floor, self.arms)
        check_dim(self.dim)

    def start(self) -> LinearArms:
        """Return the state of a policy that has learnt nothing."""
        return LinearArms.none(self.arms, self.dim)

    def probabilities(self, state: LinearArms, context: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `udfs.bandits.policy.Policy`; arms with equal bounds share evenly."""
        mean, spread = state.scores(context, self.ridge)
        return share_of_best(mean + self.width * spread, self.floor)

    def update(self, state: LinearArms, arm: int, reward: float, context: NDArray[np.float64]) -> LinearArms:
        """See `udfs.bandits.policy.Policy`."""
        return state.after(arm, reward, context, self.keep)


def check_dim(dim: int) -> None:
    """Refuse contexts without or with too many numbers."""
    if not 1 <= dim <= MAX_DIM:
        raise ValueError(f"dim: wanted 1 to {MAX_DIM}, got {dim}")
