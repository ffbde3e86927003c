"""Policies against the logged Thompson policy over the later half of the logs' time.

What is chosen is chosen by a look at the first half. A figure is clicks a round, the difference to what the logged
policy earned itself in the same time, with an interval of 95 % from drawing rounds again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from model_export.protocols.bandit_history import HISTORY, HistoryRun
from model_export.protocols.bandit_log import BanditLog
from model_export.protocols.off_policy import Estimate, effective_rounds, resampled_sums

FEW_CLICKS = 5
_NOTHING: npt.NDArray[np.float64] = np.empty(0)
PARTS = ("first half", "later half")
RANDOM_LOG, SAMPLER, SHOP_LOG, BOTH_LOGS = "random", "random, beside the sampler", "Thompson", "both"
"""By which rounds: the random log against what the other log earned; against the sampler in the same rounds; the
logged policy's own; the mean of the last two."""


class Gains(NamedTuple):
    """Rounds of one log under one policy: what each adds to its value, its weight, and what the other earned there.

    Attributes
    ----------
    own, weights
        float64 (n,): weight times reward; the weight.
    speak
        bool (n,): the policy is likelier than the other to show what was shown.
    other
        float64 (n,): as `own`, of the logged Thompson policy, where it stands in the same rounds; else empty.
    """

    own: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    speak: npt.NDArray[np.bool_]
    other: npt.NDArray[np.float64] = _NOTHING


@dataclass(frozen=True)
class Above:
    """One policy on one log, or on both, over one part of the time.

    Parameters
    ----------
    value, thompson
        Of the policy, and of the logged one.
    difference
        How far the policy is above, by rounds drawn again.
    effective, rounds
        Rounds of equal weight that would tell as much, and all.
    speak, speak_clicks
        Rounds that speak for the policy, and those of them with a click.
    """

    value: float
    thompson: float
    difference: Estimate
    effective: float
    rounds: int
    speak: int
    speak_clicks: int

    @property
    def is_above(self) -> bool:
        """Whether the log shows that the policy is above."""
        return self.difference.low > 0.0 and self.speak_clicks >= FEW_CLICKS

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "value": round(self.value, 7),
            "thompson": round(self.thompson, 7),
            "difference": self.difference.to_dict(),
            "above": self.is_above,
            "speak_for_it": {"rounds": self.speak, "with_a_click": self.speak_clicks},
            "effective_rounds": round(self.effective, 1),
            "rounds": self.rounds,
        }


def halves(logs: Sequence[npt.NDArray[np.int64]]) -> int:
    """Return the moment in the middle of all logs' time, nanoseconds."""
    first, last = min(int(times.min()) for times in logs), max(int(times.max()) for times in logs)
    return first + (last - first) // 2


def against(
    logs: Sequence[tuple[BanditLog, BanditLog]],
    weights: Mapping[str, Sequence[npt.NDArray[np.float64]]],
    runs: Sequence[HistoryRun],
    middle: int,
    later: bool,
    rng: np.random.Generator,
) -> dict[str, dict[str, Above]]:
    """Return policy to rounds to how far it is above the logged policy, before `middle` or from then on.

    Parameters
    ----------
    logs
        A random log and one of the logged policy for each campaign.
    weights
        Policy to how many times likelier than the random one it is to show what its log shows, float64 (n,) for each
        campaign.
    runs
        Of the policy with a history, for each campaign; none where logs do not know users.
    """

    def joined(parts: Iterable[npt.NDArray[np.float64]], side: int) -> npt.NDArray[np.float64]:
        inside = [(pair[side].times_ns >= middle) == later for pair in logs]
        return np.concatenate([part[mask] for part, mask in zip(parts, inside, strict=True)])

    clicks = joined((random.clicks for random, _ in logs), 0)
    thompson = joined((shop.clicks for _, shop in logs), 1)
    found: dict[str, dict[str, Above]] = {}
    for name, of_policy in weights.items():
        weight = joined(of_policy, 0)
        found[name] = {RANDOM_LOG: above(Gains(weight * clicks, weight, weight > 1.0), thompson, rng)}
    if runs:
        own = joined(weights[HISTORY], 0)
        sampler = joined(
            (run.sampler_weights(random) for run, (random, _) in zip(runs, logs, strict=True)), 0
        )
        of_shop = joined((run.weights for run in runs), 1)
        beside = {
            SAMPLER: Gains(own * clicks, own, own > sampler, sampler * clicks),
            SHOP_LOG: Gains(of_shop * thompson, of_shop, of_shop > 1.0, thompson),
        }
        found[HISTORY] |= {name: above(gains, thompson, rng) for name, gains in beside.items()}
        found[HISTORY][BOTH_LOGS] = on_both(beside, rng)
    return found


def above(gains: Gains, thompson: npt.NDArray[np.float64], rng: np.random.Generator) -> Above:
    """Return how far a policy is above the logged one.

    Parameters
    ----------
    gains
        Of the policy, on the random log or on the logged policy's own.
    thompson
        float64 (m,): rewards of the logged policy's own log in that time.
    """
    weights = effective_rounds(gains.weights)
    value = float(gains.own.mean())
    speak = int(gains.speak.sum()), int((gains.own[gains.speak] > 0.0).sum())
    if len(gains.other):
        terms = gains.own - gains.other
        drawn = resampled_sums(terms[:, None], rng)[:, 0] / len(terms)
        error = float(terms.std(ddof=1)) / np.sqrt(len(terms))
        return Above(
            value,
            float(gains.other.mean()),
            _estimate(float(terms.mean()), error, drawn),
            weights,
            len(terms),
            *speak,
        )
    drawn = resampled_sums(gains.own[:, None], rng)[:, 0] / len(gains.own)
    drawn = drawn - resampled_sums(thompson[:, None], rng)[:, 0] / len(thompson)
    error = float(
        np.hypot(
            gains.own.std(ddof=1) / np.sqrt(len(gains.own)), thompson.std(ddof=1) / np.sqrt(len(thompson))
        )
    )
    other = float(thompson.mean())
    return Above(value, other, _estimate(value - other, error, drawn), weights, len(gains.own), *speak)


def on_both(parts: Mapping[str, Gains], rng: np.random.Generator) -> Above:
    """Return how far a policy is above the logged one by two logs that have both: the mean of the two differences."""
    found = [above(one, _NOTHING, rng) for one in parts.values()]
    terms = [one.own - one.other for one in parts.values()]
    drawn = np.mean([resampled_sums(one[:, None], rng)[:, 0] / len(one) for one in terms], axis=0)
    difference = float(np.mean([one.difference.value for one in found]))
    error = float(np.sqrt(sum(one.difference.error**2 for one in found))) / len(found)
    return Above(
        float(np.mean([one.value for one in found])),
        float(np.mean([one.thompson for one in found])),
        _estimate(difference, error, drawn),
        sum(one.effective for one in found),
        sum(one.rounds for one in found),
        sum(one.speak for one in found),
        sum(one.speak_clicks for one in found),
    )


def _estimate(value: float, error: float, drawn: npt.NDArray[np.float64]) -> Estimate:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value, error, float(low), float(high))
