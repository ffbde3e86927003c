"""The report of the bandit protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_export.protocols.bandit import THOMPSON, Campaign

ESTIMATORS = ("ips", "snips", "dr")


@dataclass(frozen=True)
class BanditReport:
    """Outcomes by campaign and what they were made from."""

    campaigns: Mapping[str, Campaign]
    sha256: Mapping[str, str]
    seed: int
    wall_s: float
    cpu_s: float
    protocol: str = "bandit"

    def title(self) -> str:
        """Return the section's heading."""
        return "Bandits: off-policy values on Open Bandit"

    def intro(self) -> str:
        """Return what is estimated from what."""
        return (
            "Clicks a hundred rounds, with 95 % bootstrap intervals, estimated on the uniformly random log. First "
            "the check of the estimators: their value of the logged Thompson policy against the clicks it earned "
            "itself, and, by its logged propensities, the uniform policy's value on its log against the clicks of "
            "the random log. Then the engine's Thompson sampling with a floor, arms being items; it learns from both "
            "logs in order of time and is judged in each round by what it knew before."
        )

    def tables(self) -> Mapping[str, Sequence[Sequence[str]]]:
        """Return the check and the values."""
        check = [["campaign", "policy", "earned itself", "IPS", "SNIPS", "DR", "rounds that count", "agrees"]]
        values = [["campaign", "policy", "IPS", "SNIPS", "DR", "rounds that count"]]
        for name, found in self.campaigns.items():
            for policy, earned, value in (
                (THOMPSON, found.thompson, found.values[THOMPSON]),
                ("uniform", found.random, found.uniform_on_thompson),
            ):
                agrees = all(getattr(value, one).holds(earned.value) for one in ESTIMATORS)
                estimates = [str(getattr(value, one)) for one in ESTIMATORS]
                check.append(
                    [
                        name,
                        policy,
                        str(earned),
                        *estimates,
                        f"{value.effective:,.0f}",
                        "yes" if agrees else "no",
                    ]
                )
            for policy, value in found.values.items():
                estimates = [str(getattr(value, one)) for one in ESTIMATORS]
                values.append([name, policy, *estimates, f"{value.effective:,.0f}"])
        return {"Check of the estimators": check, "Values on the random log": values}

    def remarks(self) -> Sequence[str]:
        """Return what is to be said with the figures."""
        sizes = "; ".join(
            f"{name}: {found.rounds[0]:,} random rounds with {found.clicks[0]} clicks, {found.rounds[1]:,} of "
            f"Thompson with {found.clicks[1]}"
            for name, found in self.campaigns.items()
        )
        hashes = ", ".join(f"{name} {digest}" for name, digest in self.sha256.items())
        return [
            f"{sizes}. An interval knows nothing of what the policy's own probabilities are uncertain by: the logged "
            "Thompson policy's are its shares in the week.",
            "Intervals are as wide as the values: with so few clicks these logs can refute an estimator, and tell "
            "policies apart only where one is several times better. Nothing was tuned on them.",
            f"Data SHA-256: {hashes}. Seed {self.seed}; {self.wall_s:.0f} s, {self.cpu_s:.0f} CPU-s.",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "protocol": self.protocol,
            "data_sha256": dict(self.sha256),
            "seed": self.seed,
            "wall_s": round(self.wall_s, 1),
            "cpu_s": round(self.cpu_s, 1),
            "campaigns": {name: found.to_dict() for name, found in self.campaigns.items()},
        }
