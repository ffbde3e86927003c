"""With which probability each source is drawn at a slot: a policy, what the user taught, and what all users taught.

A user's own evidence stands on a prior: that of `udfs.bandit`, and on it the tenant's shared posterior, which counts
for so many credits at most. So a user of whom little is known gets what works for all, and one with a history what
worked for them. All policies of `udfs.bandits.policy.SERVED` write their probabilities out, with a floor; a slot is
drawn from them, so what is logged is exact under each.

The policies with contexts take the user's own credits as if they had been earned in today's context.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from udfs.bandit import PRIOR_ALPHA, PRIOR_BETA, arm_probabilities_batch
from udfs.bandits.evidence import Evidence
from udfs.bandits.linear_arms import LinearArms, LinearPolicy
from udfs.bandits.policy import SERVED
from udfs.bandits.shared_posterior import SharedPosterior
from udfs.bandits.user_context import LENGTH, UNITS, context_units
from udfs.ranking.rank_settings import SHARED_CREDITS, THOMPSON
from udfs.ranking.served_rules import RuleWidths, by_posterior, served_rule
from udfs.ranking.snapshot import StateColumns
from udfs.user_state import SOURCES

N_ARMS: Final = len(SOURCES)
CELLS: Final = 48
"""Enough for posteriors of 50 to 800 credits, whose widths are alike: seen to be off by less than 1e-6."""

# For the prior of `udfs.bandit`, under which the ranker comes first and another may soon be tried.
_WIDTHS: Final = RuleWidths(ucb1=0.5, linucb=1.0, thompson_linear=0.12, cells=CELLS)


def play_probabilities(
    states: StateColumns,
    floor: float,
    policy: str = THOMPSON,
    shared: Sequence[SharedPosterior | None] = (),
    shared_credits: float = SHARED_CREDITS,
) -> NDArray[np.float64]:
    """Return how likely each arm is to be drawn, float64 (U, 5).

    Parameters
    ----------
    states
        U users; one whose state has no arms has the prior.
    floor
        Least probability of every arm.
    policy
        One of `udfs.bandits.policy.SERVED`.
    shared
        The posterior of each user's tenant, or None; empty: of nobody.
    shared_credits
        What an arm's shared evidence counts for at most.

    Raises
    ------
    ValueError
        For another policy, or a floor out of range.
    """
    if policy not in SERVED:
        raise ValueError(f"exploration_policy: wanted one of {', '.join(SERVED)}, got {policy!r}")
    users = len(states.n_arms)
    result = np.empty((users, N_ARMS))
    for posterior, place in by_posterior(shared, users):
        result[place] = _of_tenant(states, place, floor, policy, posterior, shared_credits)
    return result


def _of_tenant(
    states: StateColumns,
    place: NDArray[np.int64],
    floor: float,
    policy: str,
    shared: SharedPosterior | None,
    most: float,
) -> NDArray[np.float64]:
    own = states.n_arms[place] == N_ARMS
    alpha, beta = (
        np.where(own[:, None], arms[place, :N_ARMS].astype(np.float64), prior)
        for arms, prior in (
            (states.arm_alpha, np.array(PRIOR_ALPHA)),
            (states.arm_beta, np.array(PRIOR_BETA)),
        )
    )
    made = None if policy == THOMPSON else served_rule(policy, N_ARMS, floor, _WIDTHS)
    if isinstance(made, LinearPolicy):
        return _in_context(made, states, place, alpha, beta, shared, most)
    if shared is not None:
        evidence = shared.evidence(most)
        alpha, beta = alpha + evidence.won, beta + evidence.lost
    # Users without evidence of their own are all alike: one row for them, computed once.
    rows = np.flatnonzero(own)
    first = int(np.argmin(own)) if len(rows) < len(own) else 0
    wanted = np.append(rows, first)
    if made is None:
        found = arm_probabilities_batch(alpha[wanted], beta[wanted], floor)
    else:
        found = made.probabilities(Evidence(alpha[wanted], beta[wanted]), np.empty(0))
    result = np.repeat(found[-1:], len(own), axis=0)
    result[rows] = found[:-1]
    return result


def _in_context(
    policy: Any,
    states: StateColumns,
    place: NDArray[np.int64],
    alpha: NDArray[np.float64],
    beta: NDArray[np.float64],
    shared: SharedPosterior | None,
    most: float,
) -> NDArray[np.float64]:
    """Return a policy's probabilities for users of one tenant, each in their context, float64 (B, 5).

    Parameters
    ----------
    policy
        With contexts of three numbers.
    place
        int64 (B,): the users' rows in `states`.
    alpha, beta
        float64 (B, 5): their posteriors, prior included.
    shared, most
        As for `play_probabilities`.
    """
    context = context_units(states.n_events[place], states.n_purchases[place]) / UNITS
    squares = np.zeros((len(place), N_ARMS, LENGTH, LENGTH))
    rewards = np.zeros((len(place), N_ARMS, LENGTH))
    prior_won, prior_plays = np.array(PRIOR_ALPHA), np.array(PRIOR_ALPHA) + np.array(PRIOR_BETA)
    squares[:, :, 0, 0] = prior_plays
    rewards[:, :, 0] = prior_won
    if shared is not None:
        linear = shared.linear(most)
        squares += linear.squares
        rewards += linear.rewards
    won, plays = alpha - prior_won, np.maximum(alpha + beta - prior_plays, 0.0)
    squares += plays[:, :, None, None] * (context[:, :, None] * context[:, None, :])[:, None]
    rewards += won[:, :, None] * context[:, None, :]
    return np.asarray(policy.probabilities(LinearArms(squares, rewards), context))
