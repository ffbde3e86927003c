"""What a policy would have earned on a log of another: IPS, self-normalised IPS and doubly robust estimates.

Every round shows one of K actions, drawn by the logging policy with a known propensity, and earns a reward. The
policy in question gives each action of each round a probability, which may depend on what came before the round.

Source: Horvitz and Thompson, JASA 47, 1952 (IPS); Swaminathan and Joachims, "The self-normalized estimator for
counterfactual learning", NIPS 2015; Dudik, Langford and Li, "Doubly robust policy evaluation and learning",
ICML 2011.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Z95 = 1.959964
RESAMPLES = 600
SWITCH_AT = 10.0
"""Weights beyond it are left to the model of rewards."""
FEW_ROUNDS = 500
LEAST_SHARE = 0.01
ROUNDED = 1e-6
"""Propensities are logged with nine decimals."""
_CHUNK = 200
"""Resamples at once: bounds the memory."""


@dataclass(frozen=True)
class Estimate:
    """A value, its standard error by the normal approximation, and a bootstrap interval of 95 %."""

    value: float
    error: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Return whether a value lies in the interval."""
        return self.low <= value <= self.high

    def to_dict(self) -> dict[str, float]:
        """Return plain values, rounded to seven places."""
        return {name: round(getattr(self, name), 7) for name in ("value", "error", "low", "high")}

    def __str__(self) -> str:
        return f"{100 * self.value:.3f} [{100 * self.low:.3f}, {100 * self.high:.3f}]"


@dataclass(frozen=True)
class Rounds:
    """A log of n rounds and what the policy in question would have done.

    Parameters
    ----------
    actions
        int64 (n,): what was shown.
    rewards
        float64 (n,).
    propensities
        float64 (n,): with which probability the log's own policy showed it; above 0.
    probabilities
        float64 (n, K): with which probability the policy in question shows each action.
    """

    actions: npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float64]
    propensities: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        if not (self.propensities > 0).all():
            raise ValueError("propensities: wanted numbers above 0")
        if (self.probabilities < 0).any():
            raise ValueError("probabilities: wanted numbers from 0")

    def weights(self) -> npt.NDArray[np.float64]:
        """Return float64 (n,): how many times likelier the policy is to show what the log shows."""
        shown = np.take_along_axis(self.probabilities, self.actions[:, None], axis=1)[:, 0]
        return np.asarray(shown / self.propensities)


def effective_rounds(weights: npt.NDArray[np.float64]) -> float:
    """Return how many equally weighted rounds would tell as much (Kish).

    Examples
    --------
    >>> effective_rounds(np.array([1.0, 1.0, 0.0, 0.0]))
    2.0
    """
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def on_policy(rewards: npt.NDArray[np.float64], rng: np.random.Generator) -> Estimate:
    """Return what the log's own policy earned: the mean reward."""
    return _mean(np.asarray(rewards, np.float64), rng)


def ips(rounds: Rounds, rng: np.random.Generator) -> Estimate:
    """Return the mean of weight times reward: unbiased.

    Examples
    --------
    A log that tosses a coin, and a policy that always takes action 1:

    >>> log = Rounds(np.array([0, 1, 1, 0]), np.array([0.0, 1, 1, 1]), np.full(4, 0.5), np.tile([0.0, 1], (4, 1)))
    >>> ips(log, np.random.default_rng(0)).value
    1.0
    """
    return _mean(rounds.weights() * rounds.rewards, rng)


def snips(rounds: Rounds, rng: np.random.Generator) -> Estimate:
    """Return weighted rewards over the sum of the weights: slightly biased, and steadier where weights vary."""
    weights = rounds.weights()
    total = float(weights.sum())
    if total == 0.0:
        return Estimate(math.nan, math.nan, math.nan, math.nan)
    gains = weights * rounds.rewards
    value = float(gains.sum()) / total
    error = math.sqrt(float(((gains - value * weights) ** 2).sum())) / total
    sums = resampled_sums(np.stack([gains, weights], axis=1), rng)
    ratios = sums[:, 0] / np.maximum(sums[:, 1], 1e-300)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Estimate(value, error, float(low), float(high))


def doubly_robust(rounds: Rounds, expected: npt.NDArray[np.float64], rng: np.random.Generator) -> Estimate:
    """Return what a model of rewards expects of the policy, corrected by IPS of the model's errors.

    Parameters
    ----------
    rounds
        The log.
    expected
        float64 (n, K): the model's reward of each action in each round, not learnt from that round.
    """
    shown = np.take_along_axis(expected, rounds.actions[:, None], axis=1)[:, 0]
    terms = (rounds.probabilities * expected).sum(axis=1) + rounds.weights() * (rounds.rewards - shown)
    return _mean(terms, rng)


def switch_doubly_robust(
    rounds: Rounds, expected: npt.NDArray[np.float64], rng: np.random.Generator, at: float = SWITCH_AT
) -> Estimate:
    """Return `doubly_robust` that leaves rounds of a weight beyond `at` to the model: biased by it, and steadier.

    Source: Wang, Agarwal and Dudik, "Optimal and adaptive off-policy evaluation in contextual bandits", ICML 2017.
    """
    shown = np.take_along_axis(expected, rounds.actions[:, None], axis=1)[:, 0]
    weights = rounds.weights()
    corrections = np.where(weights <= at, weights * (rounds.rewards - shown), 0.0)
    return _mean((rounds.probabilities * expected).sum(axis=1) + corrections, rng)


def mean_weight(rounds: Rounds, rng: np.random.Generator) -> Estimate:
    """Return the mean weight, with its interval: 1 if the propensities are right."""
    return _mean(rounds.weights(), rng)


def overlap_warnings(weights: npt.NDArray[np.float64], mean: Estimate) -> tuple[str, ...]:
    """Return what speaks against estimates from these weights, for people."""
    texts = []
    effective = effective_rounds(weights)
    if effective < max(FEW_ROUNDS, LEAST_SHARE * len(weights)):
        texts.append(f"little overlap: the log tells as much as {effective:,.0f} rounds of {len(weights):,}")
    if not mean.low - ROUNDED <= 1.0 <= mean.high + ROUNDED:
        texts.append(f"weights have the mean {mean.value:.3f}, wanted 1 within their interval")
    return tuple(texts)


def cross_fitted_rates(
    actions: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    rewards: npt.NDArray[np.float64],
    n_actions: int,
    rng: np.random.Generator,
    folds: int = 5,
    prior_rounds: float = 200.0,
) -> npt.NDArray[np.float64]:
    """Return a simple model of rewards for `doubly_robust`: each action's rate in its group, drawn to the group's.

    A round's rates are learnt from the other folds.

    Parameters
    ----------
    actions, groups, rewards
        (n,): what was shown, where (the position on the page), and what it earned.
    n_actions
        K.
    rng
        Deals rounds to folds.
    folds
        Number of folds.
    prior_rounds
        Rounds that the group's own rate counts as.

    Returns
    -------
    float64 (n, K).
    """
    fold = rng.permutation(len(actions)) % folds
    n_groups = int(groups.max(initial=0)) + 1
    result = np.empty((len(actions), n_actions))
    for held in range(folds):
        learn = fold != held
        cell = groups[learn] * n_actions + actions[learn]
        shown = np.bincount(cell, minlength=n_groups * n_actions).reshape(n_groups, n_actions)
        won = np.bincount(cell, rewards[learn], n_groups * n_actions).reshape(n_groups, n_actions)
        rate = won.sum(axis=1, keepdims=True) / np.maximum(shown.sum(axis=1, keepdims=True), 1)
        table = (won + prior_rounds * rate) / (shown + prior_rounds)
        result[~learn] = table[groups[~learn]]
    return result


def _mean(terms: npt.NDArray[np.float64], rng: np.random.Generator) -> Estimate:
    n = len(terms)
    value = float(terms.mean())
    error = float(terms.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    means = resampled_sums(terms[:, None], rng)[:, 0] / n
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(value, error, float(low), float(high))


def resampled_sums(columns: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return sums of bootstrap resamples, float64 (RESAMPLES, columns), of (n, columns).

    Equal rows are drawn together: a log of clicks has few different ones.
    """
    rows, counts = np.unique(columns, axis=0, return_counts=True)
    n = len(columns)
    parts = [rng.multinomial(n, counts / n, _CHUNK) @ rows for _ in range(RESAMPLES // _CHUNK)]
    return np.concatenate(parts)
