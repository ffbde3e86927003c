"""What every policy is: settings that turn a state into probabilities, and an outcome into the next state."""

from __future__ import annotations

from typing import Final, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

SERVED: Final = ("thompson", "epsilon_greedy", "ucb1", "linucb", "thompson_linear")
"""Those by which the recommend job can fill slots: `udfs.ranking.play_shares`."""


class ArmState(Protocol):
    """What was learnt: a value that nothing changes, and its bytes."""

    def encode(self) -> bytes:
        """Return versioned bytes."""

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the bytes of any released version.

        Raises
        ------
        ValueError
            For bytes that are not such a state.
        """


State = TypeVar("State", bound=ArmState)


class Policy(Protocol[State]):
    """Settings of a policy over K arms; `state` is always passed in and given back.

    **Order** Sums are in the order of updates where evidence is discounted; else updates commute but for rounding.
    """

    @property
    def arms(self) -> int:
        """K."""

    def start(self) -> State:
        """Return the state of a policy that has learnt nothing."""

    def probabilities(self, state: State, context: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return with which probability each arm is to be played.

        Parameters
        ----------
        state
            What was learnt.
        context
            float64 (d,): what is known before; policies without contexts do not look at it.

        Returns
        -------
        p
            float64 (K,), each at least the floor; multiples of 2**-40, so their sum is exactly 1 in any order. What
            is drawn from them has them as its exact propensity.
        """

    def update(self, state: State, arm: int, reward: float, context: NDArray[np.float64]) -> State:
        """Return the state after an arm was played.

        Parameters
        ----------
        arm
            Index.
        reward
            Clamped to [0, 1]; NaN counts as 0.
        context
            As it was when the arm was drawn.
        """
