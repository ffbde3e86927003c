"""The report of a candidate's value on the product's own examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_export.protocols.logged_slots import LoggedSlots
from model_export.protocols.off_policy import Estimate
from model_export.protocols.policy_value import (
    ESTIMATORS,
    PolicyValue,
    earned_itself,
    expected_rates,
    policy_value,
)
from model_export.protocols.slot_policies import candidate_probabilities
from udfs.user_state import SOURCES


@dataclass(frozen=True)
class PolicyReport:
    """A candidate beside what the log earned itself."""

    candidate: str
    metric: str
    slots: int
    lists: int
    users: int
    skipped: int
    earned: Estimate
    value: PolicyValue
    seed: int
    unit: str = "slot"
    protocol: str = "policy"

    def title(self) -> str:
        """Return the section's heading."""
        return f"Policy {self.candidate}"

    def intro(self) -> str:
        """Return what is estimated from what."""
        return (
            f"What {self.candidate} would have earned a {self.unit} ({self.metric}), estimated on examples of the "
            "product, with 95 % intervals from drawing users again."
        )

    def tables(self) -> Mapping[str, Sequence[Sequence[str]]]:
        """Return the value by each estimator."""
        head = ["policy", "estimator", self.metric, "from", "to"]
        rows = [_row("as logged", "mean", self.earned)]
        rows += [_row(self.candidate, name, getattr(self.value, name)) for name in ESTIMATORS]
        return {"": [head, *rows]}

    def remarks(self) -> Sequence[str]:
        """Return what is to be said with the figures."""
        value = self.value
        return [
            f"{self.slots:,} {self.unit}s of {self.lists:,} lists and {self.users:,} users; {self.skipped} lists "
            f"could not be used. They tell as much as {value.effective:,.0f} {self.unit}s; the greatest weight is "
            f"{value.max_weight:.1f}, the mean {value.mean_weight.value:.3f}. Seed {self.seed}.",
            *(f"Warning: {text}." for text in value.warnings),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        sizes = {name: getattr(self, name) for name in ("slots", "lists", "users", "skipped", "seed")}
        named = {
            "protocol": self.protocol,
            "candidate": self.candidate,
            "metric": self.metric,
            "unit": self.unit,
        }
        return named | sizes | {"as_logged": self.earned.to_dict()} | self.value.to_dict()


def judge(
    log: LoggedSlots, candidate: str, metric: str, evidence: str, seed: int, arms: Sequence[str] = SOURCES
) -> PolicyReport:
    """Value a candidate.

    Parameters
    ----------
    candidate, evidence, arms
        As of `candidate_probabilities`.
    metric
        That the log was read with.
    seed
        Of folds and intervals.

    Raises
    ------
    ValueError
        For a candidate that does not exist.
    """
    probabilities = candidate_probabilities(candidate, log, evidence, arms)
    rng = np.random.default_rng(seed)
    value = policy_value(log, probabilities, expected_rates(log, rng), rng)
    sizes = len(log.rewards), len(log.users), int(log.users.max()) + 1
    earned = earned_itself(log, rng)
    return PolicyReport(candidate, metric, *sizes, log.skipped, earned, value, seed, log.unit)


def _row(policy: str, name: str, found: Estimate) -> list[str]:
    return [
        policy,
        name.replace("_", "-"),
        *(f"{number:.5f}" for number in (found.value, found.low, found.high)),
    ]
