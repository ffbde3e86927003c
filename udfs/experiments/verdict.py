"""What is to be done with an experiment at a look: go on, stop it, or take the better variant.

In this order: users not dealt as planned; a guardrail that is certainly broken; the metric, by the experiment's
method.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import numpy as np

from udfs.experiments.experiment import Experiment
from udfs.experiments.fixed_horizon import chi_squared_p, normal_p
from udfs.experiments.ratio import Ratio, difference
from udfs.experiments.sample_ratio import is_mismatch
from udfs.experiments.sequential import half_width, log_evidence, ready
from udfs.experiments.variant_sums import VariantSums

DAY_MS: Final = 86_400_000

RUNNING: Final = "running"
SAMPLE_RATIO: Final = "sample_ratio"
HARMFUL: Final = "harmful"
BETTER: Final = "better"
NO_DIFFERENCE: Final = "no_difference"
STOP: Final = (SAMPLE_RATIO, HARMFUL)
"""What stops an experiment at once."""


class Comparison(NamedTuple):
    """One variant against the control, in one metric per list.

    Attributes
    ----------
    variant, metric
        Which.
    control, treatment
        Their values.
    delta, low, high
        The difference and the interval that holds at all looks together; infinite as long as too little is known.
    p
        Always-valid for ``sequential``, else that of the one look at the end.
    """

    variant: str
    metric: str
    control: float
    treatment: float
    delta: float
    low: float
    high: float
    p: float


class Verdict(NamedTuple):
    """What a look says: one of the words above, the variant that it is about ('' for none), and the figures."""

    word: str
    variant: str
    comparisons: tuple[Comparison, ...]


def look(experiment: Experiment, sums: Mapping[str, VariantSums]) -> Verdict:
    """Judge an experiment by what its variants have earned so far.

    Parameters
    ----------
    experiment
        The first variant is the control.
    sums
        By variant; one that is missing has earned nothing.
    """
    found = {variant.name: sums.get(variant.name, VariantSums()) for variant in experiment.variants}
    control, *others = [variant.name for variant in experiment.variants]
    alpha = experiment.alpha / len(others)  # each treatment has its share of the false alarms
    compared = tuple(
        compare(experiment, experiment.metric, found[control], name, found[name], alpha) for name in others
    )
    if is_mismatch(
        [one.users for one in found.values()], [variant.weight for variant in experiment.variants]
    ):
        return Verdict(SAMPLE_RATIO, "", compared)
    for guardrail in experiment.guardrails:
        share = alpha / len(experiment.guardrails)
        for name in others:
            one = compare(experiment, guardrail.metric, found[control], name, found[name], share)
            if one.high < -guardrail.most_drop * one.control:
                return Verdict(HARMFUL, name, (*compared, one))
    if experiment.method == "fixed" and _days(found.values()) < experiment.days:
        return Verdict(RUNNING, "", compared)
    different = [one for one in compared if one.p <= alpha]
    better = [one for one in different if one.delta > 0]
    if better:
        return Verdict(BETTER, max(better, key=lambda one: one.delta).variant, compared)
    if len(different) == len(compared):
        return Verdict(BETTER, control, compared)
    return Verdict(NO_DIFFERENCE if experiment.method == "fixed" else RUNNING, "", compared)


def compare(
    experiment: Experiment,
    metric: str,
    control: VariantSums,
    name: str,
    treatment: VariantSums,
    alpha: float,
) -> Comparison:
    """Return one variant against the control.

    Parameters
    ----------
    name
        Of the variant.
    alpha
        Probability with which the interval fails at some look.
    """
    one, other = Ratio.of(control, metric), Ratio.of(treatment, metric)
    delta, variance = difference(one, other)
    width, always_p = np.inf, 1.0
    # The spread of effects mixed over may not depend on what a variant earned: at the pooled rate it hardly does.
    pooled = (one.gains + other.gains) / max(one.lists + other.lists, 1.0)
    scale = experiment.expected_effect * pooled
    if bool(ready(one, other)) and scale > 0:
        width = float(half_width(variance, scale, alpha))
        always_p = float(np.exp(-np.maximum(log_evidence(delta, variance, scale), 0.0)))
    if experiment.method == "fixed":
        p = float((normal_p if metric == "revenue" else chi_squared_p)(one, other))
    else:
        p = always_p
    at = float(delta)
    return Comparison(name, metric, float(one.value), float(other.value), at, at - width, at + width, p)


def _days(sums: Iterable[VariantSums]) -> float:
    """Return how much event time the lists cover."""
    both = [one for one in sums if one.lists]
    if not both:
        return 0.0
    return (max(one.last_ms for one in both) - min(one.first_ms for one in both)) / DAY_MS
