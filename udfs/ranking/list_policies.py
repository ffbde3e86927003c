"""Which list policy fills a whole list: few, named, drawn a list with written-out probabilities and a floor.

A list policy changes how a list is put together: the weight of diversity, or from which sources slots are drawn. It
earns what its lists earn. What all users' lists taught of each stands in the tenant's shared posterior, under the
arm `udfs.user_state.LIST_POLICY` and the name; no user has evidence of their own, because one sees few lists. The
draw is counted from the list's seed, as the slots' draws are, so a replay with the same posterior repeats it.

The propensities of the slots are those given the list policy: to see a list at all had the list policy's probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.bandits.linear_arms import LinearArms, LinearPolicy
from udfs.bandits.list_policy import ListPolicy
from udfs.bandits.shared_posterior import SharedPosterior
from udfs.bandits.shares import mix_with_floor
from udfs.bandits.thompson_beta import MAX_EVIDENCE
from udfs.bandits.user_context import UNITS, context_units
from udfs.kernel_cache import kernel
from udfs.ranking.exploration import draw_arm, uniform
from udfs.ranking.served_rules import RuleWidths, by_posterior, served_rule
from udfs.ranking.snapshot import StateColumns

NONE: Final = -1
"""In place of a list policy: the list is made as the settings say."""
_DRAW: Final = 2_000  # number of the draw: behind those of slots and new items
_WIDTHS: Final = RuleWidths(ucb1=0.5, linucb=0.5, thompson_linear=0.3, cells=128)


class DrawnPolicies(NamedTuple):
    """The list policy of each of U lists, of K that there are.

    `drawn` index `names`, `NONE`: no list policy.
    """

    names: tuple[str, ...]
    drawn: NDArray[np.int32]  # (U,)
    probabilities: NDArray[np.float64]  # (U, K)

    def name_of(self, user: int) -> str:
        """Return the name of a list's policy; empty: none."""
        return self.names[self.drawn[user]] if self.names else ""


def no_policies(users: int) -> DrawnPolicies:
    """Return what is drawn where there is nothing to draw from."""
    return DrawnPolicies((), np.full(users, NONE, np.int32), np.empty((users, 0)))


def draw_list_policies(
    policies: Sequence[ListPolicy],
    rule: str,
    floor: float,
    states: StateColumns,
    shared: Sequence[SharedPosterior | None],
    seeds: NDArray[np.uint64],
) -> DrawnPolicies:
    """Draw each list's policy.

    Parameters
    ----------
    policies
        K; none: nothing is drawn.
    rule
        One of `udfs.bandits.policy.SERVED`: how probabilities are made of what was learnt.
    floor
        Least probability of each.
    states
        Of the U users: their context, for rules that know one.
    shared
        The posterior of each user's tenant, or None; empty: of nobody.
    seeds
        uint64 (U,): of the lists.
    """
    if not policies:
        return no_policies(len(seeds))
    names = tuple(one.name for one in policies)
    made = served_rule(rule, len(names), floor, _WIDTHS)
    probabilities = np.empty((len(seeds), len(names)))
    for posterior, place in by_posterior(shared, len(seeds)):
        probabilities[place] = _of_tenant(made, names, posterior, states, place)
    return DrawnPolicies(names, draw_rows(probabilities, seeds, _DRAW), probabilities)


def _of_tenant(
    policy: Any,
    names: tuple[str, ...],
    shared: SharedPosterior | None,
    states: StateColumns,
    place: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return a rule's probabilities for users of one tenant, float64 (B, K) or (1, K) where all are alike."""
    learnt = None if shared is None else shared.of_list_policies(names)
    in_context = isinstance(policy, LinearPolicy)
    if in_context:
        state = policy.start() if learnt is None else learnt.linear(MAX_EVIDENCE)
        context = context_units(states.n_events[place], states.n_purchases[place]) / UNITS
        squares, rewards = (np.broadcast_to(one, (len(place), *one.shape)) for one in state)
        return np.asarray(policy.probabilities(LinearArms(squares, rewards), context))
    evidence = policy.start() if learnt is None else learnt.evidence(MAX_EVIDENCE)
    return np.asarray(policy.probabilities(evidence, np.empty(0)))[None, :]


def apply_list_policies(
    policies: Sequence[ListPolicy],
    drawn: NDArray[np.int32],
    probabilities: NDArray[np.float64],
    diversity: float,
    floor: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what lists are filled by: probabilities of the sources, float64 (U, 5), and diversity, float64 (U,).

    Parameters
    ----------
    policies, drawn
        Which of them each list has; `NONE`: the list stays as it would be.
    probabilities
        float64 (U, 5): what the slots' policy says; returned as it is where no list policy says otherwise.
    diversity
        Of the settings.
    floor
        Least probability of every source.

    Examples
    --------
    >>> some = ListPolicy("plain"), ListPolicy("loyal", 0.5, (1, 0, 0, 1, 0))
    >>> sources, weights = apply_list_policies(some, np.array([1, 0]), np.full((2, 5), 0.2), 0.1, 0.0)
    >>> sources.tolist(), weights.tolist()
    ([[0.5, 0.0, 0.0, 0.5, 0.0], [0.2, 0.2, 0.2, 0.2, 0.2]], [0.5, 0.1])
    """
    weights = np.full(len(drawn), diversity)
    for number, policy in enumerate(policies):
        members = drawn == number
        if policy.diversity is not None:
            weights[members] = policy.diversity
        if policy.sources:
            probabilities = np.where(
                members[:, None], mix_with_floor(np.array(policy.sources, np.float64), floor), probabilities
            )
    return probabilities, weights


@kernel
def draw_rows(
    probabilities: NDArray[np.float64], seeds: NDArray[np.uint64], counter: int
) -> NDArray[np.int32]:
    """Return the arm that each row's seed draws, int32 (U,).

    Parameters
    ----------
    probabilities
        float64 (U, K), as `udfs.bandits.shares.mix_with_floor` gives them.
    seeds
        uint64 (U,)
    counter
        Number of the draw.
    """
    result = np.empty(len(seeds), np.int32)
    for user in range(len(seeds)):
        result[user] = draw_arm(probabilities, user, uniform(seeds[user], counter))
    return result
