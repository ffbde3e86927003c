"""What all users of a tenant taught about the arms, as a policy takes it: the sums of `schemas/posterior.avsc`.

The users' evidence is a prior of each user's own, not the last word: it is scaled down to a number of credits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.records import Posterior
from udfs.bandits.evidence import Evidence
from udfs.bandits.linear_arms import LinearArms
from udfs.bandits.user_context import LENGTH
from udfs.user_state import LIST_POLICY

_UPPER = np.triu_indices(LENGTH)


class SharedPosterior(NamedTuple):
    """Sums of K arms, not to be written to; zeros of arms that the record does not name.

    Attributes
    ----------
    version
        Of the record.
    squares
        float64 (K, 3, 3): sum of x x' over contexts.
    rewards
        float64 (K, 3): sum of reward times x.
    lists
        Name of a list policy → the same two sums of it.
    """

    version: int
    squares: NDArray[np.float64]
    rewards: NDArray[np.float64]
    lists: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    @classmethod
    def of(cls, record: Posterior, names: Sequence[str]) -> SharedPosterior:
        """Read a record.

        Parameters
        ----------
        names
            The K arms; others of the record are left out, but for list policies.

        Raises
        ------
        ValueError
            For sums of another length or that are not finite, for more reward than credits, or less than none.
        """
        squares, rewards = np.zeros((len(names), LENGTH, LENGTH)), np.zeros((len(names), LENGTH))
        lists = {}
        for one in record.arms:
            if len(one.squares) != len(_UPPER[0]) or len(one.rewards) != LENGTH:
                got = f"{len(one.squares)} and {len(one.rewards)}"
                raise ValueError(
                    f"posterior, arm {one.arm}: wanted {len(_UPPER[0])} and {LENGTH} sums, got {got}"
                )
            if not np.isfinite([*one.squares, *one.rewards]).all():
                raise ValueError(f"posterior, arm {one.arm}: wanted finite sums, got {one}")
            if not 0.0 <= one.rewards[0] <= one.squares[0] * (1.0 + 1e-9):
                got = f"{one.rewards[0]} of {one.squares[0]} credits"
                raise ValueError(f"posterior, arm {one.arm}: wanted rewards from 0 to 1, got {got}")
            if one.arm in names:
                arm = names.index(one.arm)
                squares[arm][_UPPER] = squares[arm].T[_UPPER] = one.squares
                rewards[arm] = one.rewards
            elif one.arm.startswith(LIST_POLICY):
                whole = np.zeros((LENGTH, LENGTH))
                whole[_UPPER] = whole.T[_UPPER] = one.squares
                lists[one.arm.removeprefix(LIST_POLICY)] = whole, np.array(one.rewards, np.float64)
        return cls(record.version, squares, rewards, lists)

    def of_list_policies(self, names: Sequence[str]) -> SharedPosterior:
        """Return the sums of some list policies as those of arms, in the order of their names."""
        nothing = np.zeros((LENGTH, LENGTH)), np.zeros(LENGTH)
        squares, rewards = zip(*(self.lists.get(name, nothing) for name in names), strict=True)
        return SharedPosterior(self.version, np.stack(squares), np.stack(rewards))

    def evidence(self, most: float) -> Evidence:
        """Return the arms' evidence for a policy without contexts.

        Parameters
        ----------
        most
            Credits that an arm's evidence counts for at most.
        """
        credits, won = self.squares[:, 0, 0], self.rewards[:, 0]
        share = _share(credits, most)
        return Evidence(won * share, np.maximum(credits - won, 0.0) * share)

    def linear(self, most: float) -> LinearArms:
        """Return the same for a policy with contexts."""
        share = _share(self.squares[:, 0, 0], most)
        return LinearArms(self.squares * share[:, None, None], self.rewards * share[:, None])


def _share(credits: NDArray[np.float64], most: float) -> NDArray[np.float64]:
    return np.asarray(np.minimum(1.0, most / np.maximum(credits, 1e-300)))
