"""A ridge regression of rewards on contexts for each arm, as sums: what the linear policies learn."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.bandits.evidence import held
from udfs.bandits.shares import check_floor

VERSION: Final = 1
MAX_DIM: Final = 64
_HEADER: Final = Struct("<BHH")


class LinearArms(NamedTuple):
    """Sums of K arms, without the ridge, not to be written to.

    Attributes
    ----------
    squares
        float64 (K, d, d): sum of x x'.
    rewards
        float64 (K, d): sum of reward times x.
    """

    squares: NDArray[np.float64]
    rewards: NDArray[np.float64]

    @classmethod
    def none(cls, arms: int, dim: int) -> LinearArms:
        """Return those of arms never played."""
        return cls(np.zeros((arms, dim, dim)), np.zeros((arms, dim)))

    def after(self, arm: int, reward: float, context: NDArray[np.float64], keep: float = 1.0) -> LinearArms:
        """Return the sums after an arm earned a reward, which is held within [0, 1].

        Raises
        ------
        ValueError
            For a context of another length, or one that is not finite: it would never leave the state.
        """
        self.check(context)
        squares, rewards = self.squares.copy(), self.rewards.copy()
        squares[arm] = keep * squares[arm] + np.multiply.outer(context, context)
        rewards[arm] = keep * rewards[arm] + held(reward) * context
        return LinearArms(squares, rewards)

    def check(self, context: NDArray[np.float64]) -> None:
        """Refuse a context that does not fit."""
        dim = self.rewards.shape[-1]
        if context.shape != (*self.rewards.shape[:-2], dim) or not np.isfinite(context).all():
            raise ValueError(f"context: wanted {dim} finite numbers, got {context}")

    def scores(
        self, context: NDArray[np.float64], ridge: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return each arm's expected reward and its width sqrt(x' A^-1 x), float64 (..., K) each.

        States of many users may stand one behind the other: squares (U, K, d, d), rewards (U, K, d), contexts (U, d).

        Raises
        ------
        ValueError
            For a context that does not fit.
        """
        self.check(context)
        precision = self.squares + ridge * np.eye(self.rewards.shape[-1])
        of_arms = np.broadcast_to(context[..., None, :], self.rewards.shape)
        solved = np.linalg.solve(precision, np.stack([self.rewards, of_arms], axis=-1))
        mean, spread = (of_arms[..., None] * solved).sum(axis=-2).transpose((-1, *range(of_arms.ndim - 1)))
        return mean, np.sqrt(np.maximum(spread, 0.0))

    def encode(self) -> bytes:
        """Return the bytes of version 1: u8 version, u16 arms, u16 d; f64 upper triangles, f64 rewards."""
        arms, dim = self.rewards.shape
        upper = self.squares[:, *np.triu_indices(dim)]
        return (
            _HEADER.pack(VERSION, arms, dim)
            + upper.astype("<f8").tobytes()
            + self.rewards.astype("<f8").tobytes()
        )

    @classmethod
    def decode(cls, data: bytes) -> LinearArms:
        """Read the bytes of any released version.

        Raises
        ------
        ValueError
            For another version or length.

        Examples
        --------
        >>> state = LinearArms.none(2, 2).after(1, 0.5, np.array([1.0, 2.0]))
        >>> LinearArms.decode(state.encode()).squares[1].tolist()
        [[1.0, 2.0], [2.0, 4.0]]
        """
        if len(data) < _HEADER.size or data[0] != VERSION:
            raise ValueError(f"linear arms: wanted version {VERSION}, got {data[:1].hex() or 'no bytes'}")
        _, arms, dim = _HEADER.unpack_from(data)
        triangle = dim * (dim + 1) // 2
        wanted = _HEADER.size + 8 * arms * (triangle + dim)
        if len(data) != wanted:
            raise ValueError(f"linear arms: wanted {wanted} bytes of {arms} arms in {dim}, got {len(data)}")
        upper = np.frombuffer(data, "<f8", arms * triangle, _HEADER.size).reshape(arms, triangle)
        squares = np.zeros((arms, dim, dim))
        rows, columns = np.triu_indices(dim)
        squares[:, rows, columns] = upper
        squares[:, columns, rows] = upper
        rewards = np.frombuffer(data, "<f8", arms * dim, _HEADER.size + 8 * arms * triangle)
        return cls(squares, rewards.astype(np.float64).reshape(arms, dim))


@dataclass(frozen=True)
class LinearPolicy:
    """What policies over linear arms have in common: all but the probabilities.

    Parameters
    ----------
    arms, dim
        K, and length of a context, from 1 to `MAX_DIM`, whose first number should be 1.
    floor
        Least probability of every arm.
    width
        Factor of the width of what is uncertain.
    ridge
        Added to the diagonal of each arm's squares.
    keep
        What a reward leaves of the arm's earlier sums.
    """

    arms: int
    dim: int
    floor: float = 0.01
    width: float = 0.5
    ridge: float = 1.0
    keep: float = 1.0

    def __post_init__(self) -> None:
        check_floor(self.floor, self.arms)
        if not 1 <= self.dim <= MAX_DIM:
            raise ValueError(f"dim: wanted 1 to {MAX_DIM}, got {self.dim}")

    def start(self) -> LinearArms:
        """Return the state of a policy that has learnt nothing."""
        return LinearArms.none(self.arms, self.dim)

    def update(self, state: LinearArms, arm: int, reward: float, context: NDArray[np.float64]) -> LinearArms:
        """See `udfs.bandits.policy.Policy`."""
        return state.after(arm, reward, context, self.keep)
