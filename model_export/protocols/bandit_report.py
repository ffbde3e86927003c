"""The report of the bandit protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_export.protocols.bandit import ESTIMATORS, THOMPSON, Campaign
from model_export.protocols.bandit_history import HISTORY
from model_export.protocols.bandit_later import FEW_CLICKS, PARTS
from model_export.protocols.off_policy import Z95


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
            "the random log. Then policies of the engine; each learns from both logs in order of time and is judged "
            "in each round by what it knew before: Thompson sampling with a floor, arms being items, and "
            f"{HISTORY!r}, a linear Thompson sampling between two sources, the shop's own sampler and items that the "
            "user has clicked before. Last, how far each is above the logged Thompson policy in the same time. The "
            "source with a history was thought of at a look at the first half; the later half was not looked at."
        )

    def tables(self) -> Mapping[str, Sequence[Sequence[str]]]:
        """Return the check and the values."""
        names = ["IPS", "SNIPS", "DR", "switch-DR", "rounds that count"]
        check = [["campaign", "policy", "earned itself", *names, "agrees"]]
        values = [["campaign", "policy", *names]]
        head = ["time", "policy", "by the log", "clicks", "logged Thompson", "above by"]
        later = [[*head, "rounds that speak for it", "with a click", "above"]]
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
        for part in PARTS:
            for policy, logs in self._widest().against[part].items():
                for log, one in logs.items():
                    shown = [f"{100 * number:.3f}" for number in (one.value, one.thompson)]
                    speak = [f"{one.speak:,}", str(one.speak_clicks), "yes" if one.is_above else "no"]
                    later.append([part, policy, log, *shown, str(one.difference), *speak])
        return {
            "Check of the estimators": check,
            "Values on the random log": values,
            "Against the logged Thompson policy, all campaigns": later,
        }

    def _least_shown(self) -> str:
        """Say what a difference would have to be."""
        one = self._widest().against[PARTS[1]]["uniform"]["random"]
        return (
            f"Even a policy whose weights vary as little as the uniform one's would have to earn "
            f"{100 * Z95 * one.difference.error:.3f} more than {100 * one.thompson:.3f} to be seen above it."
        )

    def _widest(self) -> Campaign:
        """Return the outcome of all campaigns, or of the only one."""
        return self.campaigns.get("pooled") or next(iter(self.campaigns.values()))

    def remarks(self) -> Sequence[str]:
        """Return what is to be said with the figures."""
        sizes = "; ".join(
            f"{name}: {found.rounds[0]:,} random rounds with {found.clicks[0]} clicks, {found.rounds[1]:,} of "
            f"Thompson with {found.clicks[1]}"
            for name, found in self.campaigns.items()
        )
        warned = [
            f"{name}, {policy}: {text}"
            for name, found in self.campaigns.items()
            for policy, value in (
                *found.values.items(),
                ("uniform on the Thompson log", found.uniform_on_thompson),
            )
            for text in value.warnings
        ]
        hashes = ", ".join(f"{name} {digest}" for name, digest in self.sha256.items())
        return [
            f"{sizes}. An interval knows nothing of what the policy's own probabilities are uncertain by: the logged "
            "Thompson policy's are its shares in the week.",
            "Intervals are as wide as the values: with so few clicks these logs can refute an estimator, and tell "
            "policies apart only where one is several times better. Nothing was tuned on them.",
            "By the log `random`: by weights on the random log, against the clicks that the other log earned; "
            "`random, beside the sampler`: the same rounds under what the sampler had shown by then; `Thompson`: the "
            "logged policy's own rounds and propensities, in which the two differ only for users with a history; "
            "`both`: the mean of the last two, as was settled before a look at the later half. Rounds speak for a "
            "policy where it is likelier than the other to show what was shown; with fewer than "
            f"{FEW_CLICKS} clicks among them an interval is too narrow, and nothing is called above. "
            f"{self._least_shown()}",
            f"Warnings: {'; '.join(warned) or 'none'}.",
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
