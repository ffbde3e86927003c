"""A policy with a context: for users with a history, slots are shared between the shop's sampler and that history.

Two sources fill a slot, as sources do in a list of the product: the shop's own Thompson sampler, and items that the
user has clicked before, by how often (the log's affinities). `udfs.bandits.thompson_linear` draws between them in the
user's context, with a floor, and learns from both logs. A user without a history gets what the shop's sampler gives.

On the shop's log the two differ in few rounds, all others cancel: with the logged propensity p of the shown item a
round weighs ``1 - q + q h / p``, with q the probability of the second source and h that of the item in it. On the
random log the sampler is known by what it has shown so far.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from model_export.protocols.bandit_log import BanditLog
from udfs.bandits.linear_arms import LinearArms
from udfs.bandits.thompson_linear import ThompsonLinear

HISTORY: Final = "tailrace, clicked before"
FLOOR: Final = 0.05
_SHOP, _HISTORY = 0, 1
_FULL_LOG: Final = 8.0
_PRIOR_SHOWN: Final = 1.0  # of every item in every position, in what the sampler has shown so far


class HistoryRun(NamedTuple):
    """What the policy would have done in each round of both logs, and the shop's sampler beside it.

    Attributes
    ----------
    probabilities, sampler
        float64 (n, K): of each item in the n rounds of the random log, of this policy and of the sampler as it was
        known by then.
    weights
        float64 (m,): how many times likelier than the sampler the policy is to show what the shop's log shows.
    """

    probabilities: npt.NDArray[np.float64]
    sampler: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]

    def sampler_weights(self, random: BanditLog) -> npt.NDArray[np.float64]:
        """Return how many times likelier than the random policy the sampler is to show what its log shows, (n,)."""
        shown = np.take_along_axis(self.sampler, random.items[:, None], axis=1)[:, 0]
        return np.asarray(shown / random.propensities)


def run_history(random: BanditLog, shop: BanditLog) -> HistoryRun:
    """Run the policy over both logs in order of time; a round is decided by what was known before it.

    Raises
    ------
    ValueError
        For logs without affinities.
    """
    if random.affinities is None or shop.affinities is None:
        raise ValueError("logs: wanted affinities of users and items")
    policy = ThompsonLinear(2, 2, FLOOR)
    state = policy.start()
    k = random.n_items
    shown = np.full((random.n_positions, k), _PRIOR_SHOWN)
    probabilities, sampler = np.empty((len(random), k)), np.empty((len(random), k))
    weights = np.ones(len(shop))
    times = np.concatenate([random.times_ns, shop.times_ns])
    for row in np.argsort(times, kind="stable").tolist():
        of_random = row < len(random)
        log, at = (random, row) if of_random else (shop, row - len(random))
        affinity = log.affinities[at]  # type: ignore[index]  # checked above
        item, position = int(log.items[at]), int(log.positions[at])
        total = float(affinity.sum())
        history = affinity / total if total > 0.0 else affinity
        context = np.array([1.0, min(np.log1p(total) / _FULL_LOG, 1.0)])
        share = float(policy.probabilities(state, context)[_HISTORY]) if total > 0.0 else 0.0
        if of_random:
            sampler[at] = shown[position] / shown[position].sum()
            probabilities[at] = (1.0 - share) * sampler[at] + share * history
        else:
            weights[at] = 1.0 - share + share * history[item] / log.propensities[at]
            shown[position, item] += 1.0
        if total > 0.0:
            state = _learnt(state, log, at, float(history[item]), k, not of_random, context)
    return HistoryRun(probabilities, sampler, weights)


def _learnt(
    state: LinearArms,
    log: BanditLog,
    at: int,
    chance: float,
    items: int,
    of_shop: bool,
    context: npt.NDArray[np.float64],
) -> LinearArms:
    """Return what both sources are known for after a round.

    The sampler learns from its own rounds. The history learns from rounds that show an item as it would have: each
    counts in proportion to how likely it is there over how likely it was, a round drawn from the history itself
    as one.

    Source: Li, Chu, Langford and Wang, "Unbiased offline evaluation of contextual-bandit-based news article
    recommendation algorithms", WSDM 2011 (rounds that agree), with weights in place of rejection.
    """
    squares, rewards = state.squares.copy(), state.rewards.copy()
    counts = {_HISTORY: min(1.0, chance / (items * float(log.propensities[at])))}
    if of_shop:
        counts[_SHOP] = 1.0
    for source, count in counts.items():
        squares[source] += count * np.outer(context, context)
        rewards[source] += count * float(log.clicks[at]) * context
    return LinearArms(squares, rewards)
