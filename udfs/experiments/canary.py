"""A model tried on a share of the users: an experiment with an epoch, and what is to be done with it at a look."""

from __future__ import annotations

from typing import Final, NamedTuple

from udfs.experiments.experiment import BUCKETS, Experiment, Guardrail, Variant
from udfs.experiments.running import RunningExperiments
from udfs.experiments.variant_sums import VariantSums
from udfs.experiments.verdict import BETTER, SAMPLE_RATIO, STOP, Verdict

SERVING: Final = "serving"
CANDIDATE: Final = "candidate"
WAIT: Final = "wait"
PROMOTE: Final = "promote"
REVERT: Final = "revert"


class CanaryPlan(NamedTuple):
    """How a model is tried.

    Attributes
    ----------
    epoch
        Of the candidate.
    share
        Of all users that get it, above 0 to at most .9; as many others are compared with, where there are as many.
    metric
        That decides, and must not fall by more than `most_drop` of its value.
    hours
        Until a candidate that did no harm is promoted.
    least_lists
        Of the candidate that count by then; with fewer nothing is known, and it is taken back.
    """

    epoch: int
    share: float = 0.1
    metric: str = "ctr"
    most_drop: float = 0.05
    hours: float = 48.0
    least_lists: int = 1_000


def canary_prefix(epoch: int) -> str:
    """Return what the names of an epoch's canaries begin with."""
    return f"canary-{epoch}-"


def canary_experiment(
    plan: CanaryPlan, running: RunningExperiments, started_s: int, layer: str
) -> Experiment:
    """Return the experiment.

    Parameters
    ----------
    started_s
        Seconds since 1970, a part of the name: another try deals users anew, and counts none of the lists before.

    Raises
    ------
    ValueError
        Where the layer has no room, or for a share out of range.

    Examples
    --------
    >>> one = canary_experiment(CanaryPlan(3, 0.1), RunningExperiments(), 1_800_000_000, "list")
    >>> one.name, one.buckets, [variant.settings for variant in one.variants]
    ('canary-3-1800000000', 2000, [{}, {'epoch': 3}])
    """
    if not 0.0 < plan.share <= 0.9:
        raise ValueError(f"share: wanted above 0, at most .9, got {plan.share}")
    even = plan.share <= 0.5
    buckets = max(2, round(2 * plan.share * BUCKETS)) if even else BUCKETS
    weights = (1, 1) if even else (BUCKETS - round(plan.share * BUCKETS), round(plan.share * BUCKETS))
    return Experiment(
        f"{canary_prefix(plan.epoch)}{started_s}",
        layer,
        running.free_bucket(layer, buckets),
        buckets,
        (Variant(SERVING, weights[0], {}), Variant(CANDIDATE, weights[1], {"epoch": plan.epoch})),
        metric=plan.metric,
        guardrails=(Guardrail(plan.metric, plan.most_drop),),
    )


def decide(plan: CanaryPlan, verdict: Verdict, candidate: VariantSums, hours: float) -> tuple[str, str]:
    """Return `WAIT`, `PROMOTE` or `REVERT`, and why.

    Parameters
    ----------
    verdict
        Of `udfs.experiments.verdict.look`.
    candidate
        What the candidate's lists have earned.
    hours
        Since the start.

    Examples
    --------
    >>> decide(CanaryPlan(3), Verdict("harmful", "candidate", ()), VariantSums(lists=9), 0.5)
    ('revert', 'its ctr is certainly more than 5 % below that of what serves')
    >>> decide(CanaryPlan(3), Verdict("running", "", ()), VariantSums(lists=2_000), 48.0)
    ('promote', 'no harm in 2,000 lists and 48 hours')
    """
    if verdict.word == SAMPLE_RATIO:
        return REVERT, "users were not dealt as planned: something loses lists"
    if verdict.word in STOP:
        drop = f"{100 * plan.most_drop:g} %"
        return REVERT, f"its {plan.metric} is certainly more than {drop} below that of what serves"
    if verdict.word == BETTER:
        if verdict.variant == CANDIDATE:
            return PROMOTE, f"its {plan.metric} is certainly higher"
        return REVERT, f"its {plan.metric} is certainly lower"
    if hours < plan.hours:
        return WAIT, f"{candidate.lists:,} lists, {hours:.1f} of {plan.hours:g} hours"
    if candidate.lists < plan.least_lists:
        return (
            REVERT,
            f"{candidate.lists:,} lists in {hours:.0f} hours, wanted {plan.least_lists:,}: nothing is known",
        )
    return PROMOTE, f"no harm in {candidate.lists:,} lists and {hours:.0f} hours"
