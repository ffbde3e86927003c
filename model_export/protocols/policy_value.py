"""What a candidate would have earned a slot on the product's own log, with intervals that know of users.

Lists of one user are alike, so users are drawn again, not slots. Each slot is weighted by itself: that what the other
slots of the list would have held changes nothing in what this one earns is an assumption.

Source: Li, Abbasi-Yadkori, Kveton, Muthukrishnan, Vinay and Wen, "Offline evaluation of ranking policies with click
models", KDD 2018 (slots apart); Dudik, Langford and Li, ICML 2011 (doubly robust); Wang, Agarwal and Dudik, "Optimal
and adaptive off-policy evaluation in contextual bandits", ICML 2017 (switch).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from model_export.protocols.logged_slots import LoggedSlots
from model_export.protocols.off_policy import (
    FEW_ROUNDS,
    LEAST_SHARE,
    ROUNDED,
    SWITCH_AT,
    Estimate,
    cross_fitted_rates,
    effective_rounds,
    resampled_sums,
)

ESTIMATORS: Final = ("ips", "snips", "dr", "switch_dr")
_FLOORS: Final = {"slot": "model.exploration_floor", "list": "model.list_floor"}


@dataclass(frozen=True)
class PolicyValue:
    """One candidate's value, and how far the log can tell.

    Attributes
    ----------
    ips, snips, dr, switch_dr
        Estimates of what it earns a slot.
    effective
        Slots of equal weight that would tell as much.
    mean_weight
        1 if the propensities are right; with its interval.
    max_weight, switched
        The greatest weight; the share of slots beyond `SWITCH_AT`.
    warnings
        What speaks against the estimates, for people.
    """

    ips: Estimate
    snips: Estimate
    dr: Estimate
    switch_dr: Estimate
    effective: float
    mean_weight: Estimate
    max_weight: float
    switched: float
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        estimates = {name: getattr(self, name).to_dict() for name in ESTIMATORS}
        return estimates | {
            "effective_slots": round(self.effective, 1),
            "mean_weight": self.mean_weight.to_dict(),
            "max_weight": round(self.max_weight, 4),
            "switched": round(self.switched, 6),
            "warnings": list(self.warnings),
        }


def earned_itself(log: LoggedSlots, rng: np.random.Generator) -> Estimate:
    """Return what the log earned a slot."""
    return by_user(log.rewards, np.ones(len(log.rewards)), log.users[log.lists], rng)


def expected_rates(log: LoggedSlots, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return a model of rewards, float64 (N, K): each arm's mean at this place, learnt from other slots."""
    return cross_fitted_rates(log.arms, log.places, log.rewards, log.plays.shape[1], rng)


def policy_value(
    log: LoggedSlots,
    probabilities: npt.NDArray[np.float64],
    rates: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> PolicyValue:
    """Return a candidate's value.

    Parameters
    ----------
    probabilities
        float64 (L, K): of each arm for each list.
    rates
        float64 (N, K): expected reward of each arm.
    """
    users, ones = log.users[log.lists], np.ones(len(log.rewards))
    arms = probabilities[log.lists]
    weights = (arms * log.covers).sum(axis=1) / log.propensities
    # The model's reward of the shown item, as the candidate would have come to it: then the terms below are unbiased.
    modelled = (arms * log.covers * rates).sum(axis=1) / log.propensities
    of_policy = (arms * rates).sum(axis=1)
    gains = weights * log.rewards
    near = weights <= SWITCH_AT
    found = PolicyValue(
        by_user(gains, ones, users, rng),
        by_user(gains, weights, users, rng),
        by_user(of_policy + gains - modelled, ones, users, rng),
        by_user(of_policy + near * (gains - modelled), ones, users, rng),
        effective_rounds(weights),
        by_user(weights, ones, users, rng),
        float(weights.max()),
        float((~near).mean()),
        (),
    )
    return PolicyValue(**{**found.__dict__, "warnings": _warnings(found, log)})


def by_user(
    gains: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    users: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> Estimate:
    """Return the ratio of two sums, its standard error by linearisation, and an interval; users are drawn.

    Examples
    --------
    >>> one = by_user(np.array([1.0, 0, 1]), np.ones(3), np.array([0, 0, 1]), np.random.default_rng(0))
    >>> round(one.value, 4)
    0.6667
    """
    sums = np.stack([np.bincount(users, column) for column in (gains, weights)], axis=1)
    total = float(sums[:, 1].sum())
    if total == 0.0:
        return Estimate(math.nan, math.nan, math.nan, math.nan)
    value = float(sums[:, 0].sum()) / total
    error = math.sqrt(float(((sums[:, 0] - value * sums[:, 1]) ** 2).sum())) / total
    drawn = resampled_sums(sums, rng)
    low, high = np.quantile(drawn[:, 0] / np.maximum(drawn[:, 1], 1e-300), [0.025, 0.975])
    return Estimate(value, error, float(low), float(high))


def _warnings(found: PolicyValue, log: LoggedSlots) -> tuple[str, ...]:
    texts = []
    slots = len(log.rewards)
    if found.effective < max(FEW_ROUNDS, LEAST_SHARE * slots):
        texts.append(
            f"little overlap: the log tells as much as {found.effective:,.0f} {log.unit}s of {slots:,}; "
            f"a higher {_FLOORS[log.unit]} would tell more"
        )
    if not found.mean_weight.low - ROUNDED <= 1.0 <= found.mean_weight.high + ROUNDED:
        texts.append(
            f"weights have the mean {found.mean_weight.value:.3f}, wanted 1 within their interval: the propensities "
            "are not those of this floor, or the candidate draws what was never drawn"
        )
    unexplained = 1.0 - float(log.explained.mean())
    if unexplained > 0.001:
        texts.append(
            f"{100 * unexplained:.1f} % of the slots have a propensity that the sources' probabilities do not give: "
            "lists under another model.new_item_share, or of an earlier release under another model.exploration_floor"
        )
    return tuple(texts)
