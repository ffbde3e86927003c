"""What speaks for an arm and against it: sums that forget, with a cap."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.bandits.shares import check_floor

VERSION: Final = 1
MAX_ARMS: Final = 4_096
_HEADER: Final = Struct("<BH")


def held(reward: float) -> float:
    """Return a reward within [0, 1]; NaN is 0, it would never leave the state."""
    return min(reward, 1.0) if reward > 0.0 else 0.0


def add_evidence(won: float, lost: float, reward: float, keep: float, most: float) -> tuple[float, float]:
    """Return an arm's evidence after a reward.

    Parameters
    ----------
    won, lost
        Rewards earned and missed so far.
    reward
        In [0, 1].
    keep
        What a reward leaves of the earlier evidence.
    most
        Cap of both together.

    Examples
    --------
    >>> add_evidence(1.0, 3.0, 1.0, keep=1.0, most=4.0)
    (1.6, 2.4000000000000004)
    """
    more = keep * won + reward
    less = keep * lost + 1.0 - reward
    shrink = min(1.0, most / (more + less)) if more + less > 0 else 1.0
    return more * shrink, less * shrink


class Evidence(NamedTuple):
    """Evidence of K arms: float64 (K,) each, not to be written to."""

    won: NDArray[np.float64]
    lost: NDArray[np.float64]

    @classmethod
    def none(cls, arms: int) -> Evidence:
        """Return that of arms never played."""
        return cls(np.zeros(arms), np.zeros(arms))

    @property
    def plays(self) -> NDArray[np.float64]:
        """How often each was played, as far as it is remembered."""
        return self.won + self.lost

    def after(self, arm: int, reward: float, keep: float = 1.0, most: float = np.inf) -> Evidence:
        """Return the evidence after an arm earned a reward, which is held within [0, 1]."""
        won, lost = self.won.copy(), self.lost.copy()
        won[arm], lost[arm] = add_evidence(float(won[arm]), float(lost[arm]), held(reward), keep, most)
        return Evidence(won, lost)

    def encode(self) -> bytes:
        """Return the bytes of version 1: u8 version, u16 arms, f64 won, f64 lost.

        Examples
        --------
        >>> Evidence.decode(Evidence.none(2).after(1, 0.25).encode()).won.tolist()
        [0.0, 0.25]
        """
        return (
            _HEADER.pack(VERSION, len(self.won))
            + self.won.astype("<f8").tobytes()
            + self.lost.astype("<f8").tobytes()
        )

    @classmethod
    def decode(cls, data: bytes) -> Evidence:
        """Read the bytes of any released version.

        Raises
        ------
        ValueError
            For another version or length.
        """
        if len(data) < _HEADER.size or data[0] != VERSION:
            raise ValueError(f"evidence: wanted version {VERSION}, got {data[:1].hex() or 'no bytes'}")
        _, arms = _HEADER.unpack_from(data)
        if len(data) != _HEADER.size + 16 * arms:
            raise ValueError(
                f"evidence: wanted {_HEADER.size + 16 * arms} bytes of {arms} arms, got {len(data)}"
            )
        columns = np.frombuffer(data, "<f8", 2 * arms, _HEADER.size).astype(np.float64)
        return cls(columns[:arms], columns[arms:])


@dataclass(frozen=True)
class EvidencePolicy:
    """What policies that go by arms' evidence have in common: all but the probabilities.

    Parameters
    ----------
    arms
        K.
    floor
        Least probability of every arm.
    keep
        What a reward leaves of the arm's earlier evidence.
    """

    arms: int
    floor: float = 0.01
    keep: float = 1.0

    def __post_init__(self) -> None:
        check_floor(self.floor, self.arms)

    def start(self) -> Evidence:
        """Return the state of a policy that has learnt nothing."""
        return Evidence.none(self.arms)

    def update(self, state: Evidence, arm: int, reward: float, context: NDArray[np.float64]) -> Evidence:
        """See `udfs.bandits.policy.Policy`."""
        return state.after(arm, reward, self.keep)
