"""The rules by which the recommend job draws, and whose posterior they read: the same for slots and for lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.bandits.epsilon_greedy import EpsilonGreedy
from udfs.bandits.linucb import LinUcb
from udfs.bandits.shared_posterior import SharedPosterior
from udfs.bandits.thompson_beta import MAX_EVIDENCE, ThompsonBeta
from udfs.bandits.thompson_linear import ThompsonLinear
from udfs.bandits.ucb1 import Ucb1
from udfs.bandits.user_context import LENGTH


class RuleWidths(NamedTuple):
    """How wide the rules take what is uncertain; which widths are right depends on the prior and the rewards.

    `cells` are those of `udfs.bandits.thompson_linear`.
    """

    ucb1: float
    linucb: float
    thompson_linear: float
    cells: int


def served_rule(name: str, arms: int, floor: float, widths: RuleWidths) -> Any:
    """Return one of `udfs.bandits.policy.SERVED` over so many arms."""
    match name:
        case "thompson":
            return ThompsonBeta(arms, floor, most_evidence=MAX_EVIDENCE)
        case "epsilon_greedy":
            return EpsilonGreedy(arms, floor)
        case "ucb1":
            return Ucb1(arms, floor, width=widths.ucb1)
        case "linucb":
            return LinUcb(arms, LENGTH, floor, width=widths.linucb)
        case "thompson_linear":
            return ThompsonLinear(arms, LENGTH, floor, width=widths.thompson_linear, cells=widths.cells)
    raise KeyError(name)


def by_posterior(
    shared: Sequence[SharedPosterior | None], users: int
) -> Iterator[tuple[SharedPosterior | None, NDArray[np.int64]]]:
    """Yield each tenant's posterior with the places of its users, int64 (B,).

    Parameters
    ----------
    shared
        The posterior of each user's tenant, or None; empty: of nobody, and all users come together.
    users
        U.
    """
    alike: dict[int, list[int]] = {}
    for user, posterior in enumerate(shared):
        alike.setdefault(id(posterior), []).append(user)
    for members in alike.values():
        yield shared[members[0]], np.array(members, np.int64)
    if not shared:
        yield None, np.arange(users)
