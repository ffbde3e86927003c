"""UCB1: the arm whose mean could be the best, by an upper confidence bound. Probabilities are exact.

Source: Auer, Cesa-Bianchi and Fischer, "Finite-time analysis of the multiarmed bandit problem", Machine Learning 47
(2002), figure 1. With `keep` below 1: Garivier and Moulines, ALT 2011 (discounted UCB).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from udfs.bandits.evidence import Evidence, EvidencePolicy
from udfs.bandits.shares import share_of_best


@dataclass(frozen=True)
class Ucb1(EvidencePolicy):
    """The policy; the other parameters are those of `EvidencePolicy`. The paper's has no floor.

    Parameters
    ----------
    width
        Factor of the bound's width. 1 is the paper's, for rewards anywhere in [0, 1]; clicks vary less.

    Examples
    --------
    Arms that were never played come first:

    >>> policy = Ucb1(3, floor=0.0)
    >>> policy.probabilities(policy.update(policy.start(), 0, 1.0, np.empty(0)), np.empty(0)).tolist()
    [0.0, 0.5, 0.5]
    """

    width: float = 1.0

    def probabilities(self, state: Evidence, context: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `udfs.bandits.policy.Policy`; arms with equal bounds share evenly."""
        plays = state.plays
        played = np.maximum(plays, 1e-300)
        log = 2.0 * np.log(np.maximum(plays.sum(axis=-1, keepdims=True), 1.0))
        bounds = np.where(plays > 0.0, state.won / played + self.width * np.sqrt(log / played), np.inf)
        return share_of_best(bounds, self.floor)
