"""Epsilon-greedy: mostly the arm with the best mean so far, else any. Probabilities are exact.

Source: Sutton and Barto, Reinforcement Learning, 2nd edition, section 2.2; Auer, Cesa-Bianchi and Fischer, Machine
Learning 47 (2002), section 2, for a share of exploration that falls.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from udfs.bandits.evidence import Evidence, EvidencePolicy
from udfs.bandits.shares import mix_with_floor


@dataclass(frozen=True)
class EpsilonGreedy(EvidencePolicy):
    """The policy; the other parameters are those of `EvidencePolicy`.

    Parameters
    ----------
    epsilon
        Share that goes to all arms evenly at first.
    half_after
        After this many plays the share is half of it, after three times as many a quarter. Infinite: it stays.

    Examples
    --------
    >>> policy = EpsilonGreedy(2, floor=0.0, epsilon=0.5, half_after=float("inf"))
    >>> state = policy.update(policy.start(), 1, 1.0, np.empty(0))
    >>> policy.probabilities(state, np.empty(0)).tolist()
    [0.25, 0.75]
    """

    epsilon: float = 0.5
    half_after: float = 100.0

    def probabilities(self, state: Evidence, context: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `udfs.bandits.policy.Policy`; arms with equal means share evenly."""
        plays = state.plays
        means = state.won / np.maximum(plays, 1e-300)
        best = means >= means.max(axis=-1, keepdims=True) - 1e-12
        share = self.epsilon / (1.0 + plays.sum(axis=-1, keepdims=True) / self.half_after)
        evenly = best / best.sum(axis=-1, keepdims=True)
        return mix_with_floor(share / self.arms + (1.0 - share) * evenly, self.floor)
