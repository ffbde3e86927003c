"""The bandit protocol: whether the estimators are right, and what our streaming policies would have earned.

First the check: on the uniformly random log the value of the logged Thompson policy is estimated, and has to agree
with the clicks that this policy earned itself; the other way round too, by the logged propensities. Then policies
that learn run over both logs in order of time. They are valued on the random log: in each of its rounds by the
probabilities that they had before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model_export.protocols.bandit_history import HISTORY, HistoryRun, run_history
from model_export.protocols.bandit_later import PARTS, Above, against, halves
from model_export.protocols.bandit_log import BanditLog, mean_probabilities
from model_export.protocols.bandit_policies import MostClicked, Policy, Thompson, ThompsonSettings, Uniform
from model_export.protocols.off_policy import (
    Estimate,
    Rounds,
    cross_fitted_rates,
    doubly_robust,
    effective_rounds,
    ips,
    mean_weight,
    on_policy,
    overlap_warnings,
    snips,
    switch_doubly_robust,
)

LEARN_EVERY = 20
"""Rounds between two looks at the posteriors."""
THOMPSON = "logged Thompson"
ESTIMATORS = ("ips", "snips", "dr", "switch_dr")
POLICIES: Mapping[str, Callable[[int, int], Policy]] = {
    "uniform": Uniform,
    "most clicked so far": MostClicked,
    "tailrace, by position": lambda positions, items: Thompson(positions, items, ThompsonSettings()),
    "tailrace, all positions": lambda positions, items: Thompson(
        positions, items, ThompsonSettings(by_position=False)
    ),
    "tailrace, nothing forgotten": lambda positions, items: Thompson(
        positions, items, ThompsonSettings(by_position=False, keep=1.0, most_evidence=1e9)
    ),
}
Tell = Callable[[str, float], None]


@dataclass(frozen=True)
class Value:
    """One policy's value by each estimator, how many rounds the weights leave, and what speaks against them."""

    ips: Estimate
    snips: Estimate
    dr: Estimate
    switch_dr: Estimate
    effective: float
    mean_weight: Estimate
    max_weight: float
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        estimates = {name: getattr(self, name).to_dict() for name in ESTIMATORS}
        return estimates | {
            "effective_rounds": round(self.effective, 1),
            "mean_weight": self.mean_weight.to_dict(),
            "max_weight": round(self.max_weight, 4),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class Campaign:
    """Outcome of one campaign, or of all pooled.

    Parameters
    ----------
    rounds, clicks
        Of the random log and the Thompson log.
    random, thompson
        What both earned themselves.
    values
        Policy to its value on the random log; `THOMPSON` is the check.
    uniform_on_thompson
        The uniform policy's value on the Thompson log, by its logged propensities: the check the other way.
    against
        Part of the time to policy to log: how far it is above the logged Thompson policy.
    """

    rounds: tuple[int, int]
    clicks: tuple[int, int]
    random: Estimate
    thompson: Estimate
    values: Mapping[str, Value]
    uniform_on_thompson: Value
    against: Mapping[str, Mapping[str, Mapping[str, Above]]]

    def checks(self) -> dict[str, bool]:
        """Return for each estimator whether its interval holds what the logged policy earned, both ways."""
        thompson = self.values[THOMPSON]
        return {
            name: getattr(thompson, name).holds(self.thompson.value)
            and getattr(self.uniform_on_thompson, name).holds(self.random.value)
            for name in ESTIMATORS
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "rounds": {"random": self.rounds[0], "thompson": self.rounds[1]},
            "clicks": {"random": self.clicks[0], "thompson": self.clicks[1]},
            "on_policy": {"random": self.random.to_dict(), "thompson": self.thompson.to_dict()},
            "values": {name: value.to_dict() for name, value in self.values.items()},
            "uniform_on_thompson_log": self.uniform_on_thompson.to_dict(),
            "agrees": self.checks(),
            "against_thompson": {
                part: {
                    name: {log: one.to_dict() for log, one in logs.items()} for name, logs in policies.items()
                }
                for part, policies in self.against.items()
            },
        }


@dataclass(frozen=True)
class _Terms:
    """Rounds and expected rewards of one policy on one log; campaigns are pooled by joining them."""

    actions: npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float64]
    propensities: npt.NDArray[np.float64]
    shown: npt.NDArray[np.float64]  # probability of what was shown
    expected_shown: npt.NDArray[np.float64]
    expected: npt.NDArray[np.float64]  # of the policy


def evaluate(
    logs: Mapping[str, tuple[BanditLog, BanditLog]], seed: int, tell: Tell | None
) -> dict[str, Campaign]:
    """Run the protocol.

    Parameters
    ----------
    logs
        Campaign to its random and its Thompson log.
    seed
        Of folds and bootstrap.
    tell
        Called with a phase and the share that is done.

    Returns
    -------
    Outcome by campaign, and ``pooled`` if there are several.
    """
    terms: dict[str, dict[str, _Terms]] = {}
    backward: dict[str, _Terms] = {}
    runs: dict[str, HistoryRun] = {}
    middle = halves([log.times_ns for pair in logs.values() for log in pair])
    for number, (campaign, (random, thompson)) in enumerate(logs.items()):
        rng = np.random.default_rng([seed, number])
        rates = cross_fitted_rates(random.items, random.positions, random.clicks, random.n_items, rng)
        chosen = {THOMPSON: mean_probabilities(thompson, random)}
        for at, (name, make) in enumerate(POLICIES.items()):
            if tell is not None:
                tell(f"campaign {campaign}", at / len(POLICIES))
            chosen[name] = progressive(make(random.n_positions, random.n_items), random, thompson)
        if random.affinities is not None and thompson.affinities is not None:
            runs[campaign] = run_history(random, thompson)
            chosen[HISTORY] = runs[campaign].probabilities
        terms[campaign] = {name: _terms(random, found, rates) for name, found in chosen.items()}
        even = np.full((len(thompson), random.n_items), 1.0 / random.n_items)
        rates = cross_fitted_rates(thompson.items, thompson.positions, thompson.clicks, random.n_items, rng)
        backward[campaign] = _terms(thompson, even, rates)
        if tell is not None:
            tell(f"campaign {campaign}", 1.0)
    groups = {campaign: [campaign] for campaign in logs}
    if len(logs) > 1:
        groups["pooled"] = list(logs)
    return {
        name: _outcome(
            [logs[one] for one in parts],
            [terms[one] for one in parts],
            [backward[one] for one in parts],
            [runs[one] for one in parts if one in runs],
            middle,
            np.random.default_rng([seed, 100 + number]),
        )
        for number, (name, parts) in enumerate(groups.items())
    }


def progressive(policy: Policy, judged: BanditLog, other: BanditLog) -> npt.NDArray[np.float64]:
    """Return a learning policy's probabilities in each round of one log, float64 (n, K).

    It learns from the rounds of both logs, in order of time, and looks at what it learnt every `LEARN_EVERY` rounds;
    the probabilities of a round are those from before it.
    """
    found = np.empty((len(judged), judged.n_items))
    times = np.concatenate([judged.times_ns, other.times_ns])
    order = np.argsort(times, kind="stable").tolist()
    items = np.concatenate([judged.items, other.items]).tolist()
    positions = np.concatenate([judged.positions, other.positions]).tolist()
    clicks = np.concatenate([judged.clicks, other.clicks]).tolist()
    shares = policy.probabilities()
    for number, row in enumerate(order):
        if number % LEARN_EVERY == 0:
            shares = policy.probabilities()
        if row < len(judged):
            found[row] = shares[positions[row]]
        policy.learn(positions[row], items[row], clicks[row])
    return found


def _terms(log: BanditLog, probabilities: npt.NDArray[np.float64], rates: npt.NDArray[np.float64]) -> _Terms:
    at = log.items[:, None]
    return _Terms(
        log.items,
        log.clicks,
        log.propensities,
        np.take_along_axis(probabilities, at, axis=1)[:, 0],
        np.take_along_axis(rates, at, axis=1)[:, 0],
        (probabilities * rates).sum(axis=1),
    )


def _outcome(
    logs: list[tuple[BanditLog, BanditLog]],
    terms: list[dict[str, _Terms]],
    backward: list[_Terms],
    runs: list[HistoryRun],
    middle: int,
    rng: np.random.Generator,
) -> Campaign:
    random, thompson = ([pair[at] for pair in logs] for at in (0, 1))
    clicks = [np.concatenate([log.clicks for log in group]) for group in (random, thompson)]
    values = {name: _value([part[name] for part in terms], rng) for name in terms[0]}
    weights = {
        name: [part[name].shown / part[name].propensities for part in terms]
        for name in values
        if name != THOMPSON
    }
    return Campaign(
        (len(clicks[0]), len(clicks[1])),
        (int(clicks[0].sum()), int(clicks[1].sum())),
        on_policy(clicks[0], rng),
        on_policy(clicks[1], rng),
        values,
        _value(backward, rng),
        {part: against(logs, weights, runs, middle, part == PARTS[1], rng) for part in PARTS},
    )


def _value(parts: list[_Terms], rng: np.random.Generator) -> Value:
    """Estimate from terms alone: two actions, the one that was shown and all others."""
    rewards = np.concatenate([part.rewards for part in parts])
    shown = np.concatenate([part.shown for part in parts])
    rounds = Rounds(
        np.zeros(len(rewards), np.int64),
        rewards,
        np.concatenate([part.propensities for part in parts]),
        np.stack([shown, 1.0 - shown], axis=1).clip(0.0),
    )
    weights = rounds.weights()
    mean = mean_weight(rounds, rng)
    of_shown = np.concatenate([part.expected_shown for part in parts])
    of_policy = np.concatenate([part.expected for part in parts])
    others = np.where(shown < 1.0, (of_policy - shown * of_shown) / np.maximum(1.0 - shown, 1e-12), 0.0)
    expected = np.stack([of_shown, others], axis=1)
    return Value(
        ips(rounds, rng),
        snips(rounds, rng),
        doubly_robust(rounds, expected, rng),
        switch_doubly_robust(rounds, expected, rng),
        effective_rounds(weights),
        mean,
        float(weights.max()),
        overlap_warnings(weights, mean),
    )
