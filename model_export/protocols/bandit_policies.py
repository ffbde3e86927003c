"""Policies that learn from a stream of rounds which item to show in which position.

The Thompson sampling is the engine's: `udfs.bandit` turns Beta posteriors into the probabilities that slots are
drawn from, floor included, and a posterior takes a reward as a user's does there. Here the arms are items, and one
posterior serves everybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from udfs.bandit import KEEP, MAX_EVIDENCE, PRIOR_ALPHA, PRIOR_BETA, arm_probabilities_batch
from udfs.bandits.evidence import add_evidence

FLOOR_SHARE = 0.05
"""Of all slots, spread evenly: the engine's floor of .01 for each of five arms."""
_PRIOR_ROUNDS = 200.0
_ALPHA, _BETA = PRIOR_ALPHA[1], PRIOR_BETA[1]  # of the arms that nothing speaks for


class Policy(Protocol):
    """A policy over K items and P positions."""

    def probabilities(self) -> npt.NDArray[np.float64]:
        """Return float64 (P, K): as of now, rows sum to 1."""

    def learn(self, position: int, item: int, reward: float) -> None:
        """Take in one round."""


class Uniform:
    """Every item alike."""

    def __init__(self, positions: int, items: int) -> None:
        self._share = np.full((positions, items), 1.0 / items)

    def probabilities(self) -> npt.NDArray[np.float64]:
        """Return the probabilities."""
        return self._share

    def learn(self, position: int, item: int, reward: float) -> None:
        """Learn nothing."""


class MostClicked:
    """The item with the best click rate so far in any position, with a floor for the others.

    An item's rate is drawn to that of all items, as if it had been shown `_PRIOR_ROUNDS` times more at that rate.
    """

    def __init__(self, positions: int, items: int) -> None:
        self._clicks = np.zeros(items)
        self._rounds = np.zeros(items)
        self._positions = positions

    def probabilities(self) -> npt.NDArray[np.float64]:
        """Return the probabilities."""
        items = len(self._clicks)
        rate = self._clicks.sum() / max(float(self._rounds.sum()), 1.0)
        rates = (self._clicks + _PRIOR_ROUNDS * rate) / (self._rounds + _PRIOR_ROUNDS)
        shares = np.full(items, FLOOR_SHARE / items)
        shares[int(np.argmax(rates))] += 1.0 - FLOOR_SHARE
        return np.tile(shares, (self._positions, 1))

    def learn(self, position: int, item: int, reward: float) -> None:
        """Count."""
        self._clicks[item] += reward
        self._rounds[item] += 1.0


@dataclass(frozen=True)
class ThompsonSettings:
    """How posteriors are kept.

    Parameters
    ----------
    by_position
        Each position learns for itself.
    keep
        What a reward leaves of the arm's earlier evidence.
    most_evidence
        Cap of alpha + beta beyond the prior.
    """

    by_position: bool = True
    keep: float = KEEP
    most_evidence: float = MAX_EVIDENCE


class Thompson:
    """Thompson sampling with a floor, by `udfs.bandit.arm_probabilities_batch`."""

    def __init__(self, positions: int, items: int, settings: ThompsonSettings) -> None:
        rows = positions if settings.by_position else 1
        self._more = np.zeros((rows, items))
        self._less = np.zeros((rows, items))
        self._positions = positions
        self._settings = settings

    def probabilities(self) -> npt.NDArray[np.float64]:
        """Return the probabilities."""
        items = self._more.shape[1]
        shares = arm_probabilities_batch(_ALPHA + self._more, _BETA + self._less, FLOOR_SHARE / items)
        return shares if self._settings.by_position else np.repeat(shares, self._positions, axis=0)

    def learn(self, position: int, item: int, reward: float) -> None:
        """Update one arm's posterior as `udfs.bandit.credit_arm` does."""
        row = position if self._settings.by_position else 0
        keep, most = self._settings.keep, self._settings.most_evidence
        self._more[row, item], self._less[row, item] = add_evidence(
            float(self._more[row, item]), float(self._less[row, item]), reward, keep, most
        )
