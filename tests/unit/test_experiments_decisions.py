"""Decisions: false alarms over a thousand experiments, planted effects, unequal dealing, guardrails.

A thousand experiments are simulated at once: users come a few a look, each with some lists and a click rate of their
own, so lists of one user are alike.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from udfs.experiments.experiment import Experiment, Guardrail, Variant
from udfs.experiments.fixed_horizon import chi_squared_p, normal_p, pearson
from udfs.experiments.ratio import Ratio, difference
from udfs.experiments.sample_ratio import is_mismatch
from udfs.experiments.sequential import half_width, log_evidence, ready
from udfs.experiments.variant_sums import VariantSums
from udfs.experiments.verdict import STOP, look

EXPERIMENTS, LOOKS, USERS = 1_000, 400, 6  # users a look and variant
ALPHA = 0.05


def simulate(rng: np.random.Generator, lift: float = 1.0) -> Ratio:
    """Sums of one variant after each look, (experiments, looks)."""
    shape = (EXPERIMENTS, LOOKS, USERS)
    lists = 1.0 + rng.poisson(2.0, shape)
    clicks = rng.binomial(lists.astype(np.int64), np.minimum(rng.beta(1.0, 9.0, shape) * lift, 1.0)) * 1.0

    def running(users: NDArray[np.float64]) -> NDArray[np.float64]:
        return users.sum(axis=2).cumsum(axis=1)

    return Ratio(
        running(np.ones(shape)),
        running(lists),
        running(lists**2),
        running(clicks),
        running(clicks**2),
        running(clicks * lists),
        running(clicks),
    )


@pytest.fixture(scope="module")
def control() -> Ratio:
    return simulate(np.random.default_rng(1))


@pytest.fixture(scope="module")
def same() -> Ratio:
    return simulate(np.random.default_rng(2))


def alarms(control: Ratio, treatment: Ratio, expected_effect: float) -> NDArray[np.bool_]:
    """Whether zero lies outside the interval, by experiment and look."""
    delta, variance = difference(control, treatment)
    scale = expected_effect * (control.gains + treatment.gains) / (control.lists + treatment.lists)
    return (np.abs(delta) > half_width(variance, scale, ALPHA)) & ready(control, treatment)


@pytest.mark.parametrize("expected_effect", [0.1, 0.3, 1.0])
def test_looking_after_every_batch_gives_at_most_5_percent_false_alarms(control, same, expected_effect):
    assert alarms(control, same, expected_effect).any(axis=1).mean() <= ALPHA


def test_the_same_looks_with_a_test_for_one_look_give_many_more(control, same):
    p = chi_squared_p(control, same)
    assert ((p < ALPHA) & ready(control, same)).any(axis=1).mean() > 0.25


def test_one_look_at_the_end_gives_5_percent_false_alarms(control, same):
    p = chi_squared_p(control, same)[:, -1]
    assert 0.03 < (p < ALPHA).mean() < 0.07  # four errors of 1,000 tosses are .028
    assert (p < 0.5).mean() == pytest.approx(0.5, abs=0.06)


def test_without_the_users_errors_one_look_gives_too_many(control, same):
    alone = chi_squared_p(_lists_alone(control), _lists_alone(same))[:, -1]
    assert (alone < ALPHA).mean() > 0.07


def _lists_alone(ratio: Ratio) -> Ratio:
    """The same lists as if each came from a user of its own."""
    return Ratio(ratio.lists, ratio.lists, ratio.lists, ratio.gains, ratio.gains, ratio.gains, ratio.events)


@pytest.mark.parametrize(("lift", "power"), [(1.3, 0.9), (1.6, 0.99), (0.7, 0.9)])
def test_planted_effects_are_found_and_with_their_sign(control, lift, power):
    treatment = simulate(np.random.default_rng(3), lift)
    found = alarms(control, treatment, 0.2)
    delta, _ = difference(control, treatment)
    right = found & (np.sign(delta) == np.sign(lift - 1.0))
    assert right.any(axis=1).mean() >= power
    assert (found & ~right).any(axis=1).mean() <= 0.01
    assert (chi_squared_p(control, treatment)[:, -1] < ALPHA).mean() >= power


def test_a_greater_effect_is_found_sooner(control):
    first = []
    for lift in (1.3, 1.6):
        found = alarms(control, simulate(np.random.default_rng(3), lift), 0.2)
        first.append(np.median(np.where(found.any(axis=1), found.argmax(axis=1), LOOKS)))
    assert first[1] < 0.5 * first[0]


def test_intervals_hold_the_planted_effect_at_all_looks_together(control):
    treatment = simulate(np.random.default_rng(4), 1.2)
    delta, variance = difference(control, treatment)
    wide = half_width(variance, 0.02, ALPHA)
    missed = (np.abs(delta - 0.02) > wide) & ready(
        control, treatment
    )  # rates .1 and .12, but for the cut at 1
    assert missed.any(axis=1).mean() <= ALPHA


def test_interval_and_evidence_agree(control, same):
    delta, variance = difference(control, same)
    outside = np.abs(delta) > half_width(variance, 0.02, ALPHA)
    assert np.array_equal(outside, log_evidence(delta, variance, 0.02) > np.log(1 / ALPHA))
    assert log_evidence(0.1, np.inf, 0.02) == 0.0


def test_the_chi_squared_statistic_is_the_textbook_s():
    # 10 and 20 of 100: expected 15 and 85 in both, so 2 * 25 / 15 + 2 * 25 / 85 = 3.9216, p = .0477.
    few, many = (Ratio(100.0, 100.0, 100.0, hits, hits, hits, hits) for hits in (10.0, 20.0))
    assert float(pearson(few, many)) == pytest.approx(2 * 25 / 15 + 2 * 25 / 85)
    assert float(chi_squared_p(few, many)) == pytest.approx(0.0477, abs=0.0015)  # users are 99 / 100 as many
    assert float(normal_p(few, many)) == pytest.approx(0.0467, abs=0.0015)
    nothing = Ratio(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert float(chi_squared_p(nothing, many)) == float(normal_p(nothing, many)) == 1.0


def test_users_dealt_as_planned_raise_no_alarm_however_often_one_looks():
    rng = np.random.default_rng(5)
    seen = 0
    for _ in range(300):
        dealt = rng.multinomial(40, [0.5, 0.3, 0.2], 60).cumsum(axis=0)
        seen += any(is_mismatch(row, [5, 3, 2], 0.05) for row in dealt.tolist())
    assert seen / 300 <= 0.05


def test_a_lost_tenth_of_a_variant_s_users_is_found():
    rng = np.random.default_rng(6)
    dealt = rng.multinomial(100, [10 / 19, 9 / 19], 150).cumsum(axis=0).tolist()
    assert not is_mismatch(dealt[0], [1, 1])
    assert is_mismatch(dealt[-1], [1, 1])


DAY = 86_400_000
SPREAD = Experiment("spread", "list", 0, 10_000, (Variant("a", 1, {}), Variant("b", 1, {})))


def earned(users: int, ctr: float, revenue: float = 10.0, days: float = 8.0) -> VariantSums:
    """One list a user; every tenth buys."""
    clicks, orders = round(users * ctr), users // 10
    cents = round(revenue * 100)
    gains = (clicks, 0, orders, orders * cents)
    squares = (clicks, 0, orders, orders * cents**2)
    events = (clicks, 0, orders, orders)
    return VariantSums(
        users, users, 10 * users, users, gains, squares, gains, events, 1_000, 1_000 + round(days * DAY)
    )


@pytest.mark.parametrize(
    ("changes", "sums", "word", "variant"),
    [
        ({}, {"a": earned(50, 0.1), "b": earned(50, 0.9)}, "running", ""),
        ({}, {}, "running", ""),
        ({}, {"a": earned(5_000, 0.1), "b": earned(5_000, 0.1)}, "running", ""),
        ({}, {"a": earned(5_000, 0.1, days=0.1), "b": earned(5_000, 0.14, days=0.1)}, "better", "b"),
        ({}, {"a": earned(5_000, 0.14), "b": earned(5_000, 0.1)}, "better", "a"),
        ({}, {"a": earned(5_000, 0.1), "b": earned(4_000, 0.14)}, "sample_ratio", ""),
        ({"method": "fixed"}, {"a": earned(5_000, 0.1, days=6), "b": earned(5_000, 0.14, days=6)}, "running", ""),
        ({"method": "fixed"}, {"a": earned(5_000, 0.1), "b": earned(5_000, 0.114)}, "better", "b"),
        ({"method": "fixed"}, {"a": earned(5_000, 0.1), "b": earned(5_000, 0.104)}, "no_difference", ""),
        (
            {"guardrails": (Guardrail("revenue", 0.05),)},
            {"a": earned(5_000, 0.1, 10.0, 0.1), "b": earned(5_000, 0.14, 6.0, 0.1)},
            "harmful",
            "b",
        ),
        (
            {"guardrails": (Guardrail("revenue", 0.5),)},
            {"a": earned(5_000, 0.1, 10.0), "b": earned(5_000, 0.14, 6.0)},
            "better",
            "b",
        ),
        ({"method": "fixed", "guardrails": (Guardrail("ctr"),)},
         {"a": earned(5_000, 0.14, days=1), "b": earned(5_000, 0.1, days=1)}, "harmful", "b"),
    ],
)  # fmt: skip
def test_what_a_look_says(changes, sums, word, variant):
    verdict = look(SPREAD._replace(**changes), sums)
    assert (verdict.word, verdict.variant) == (word, variant)
    assert (verdict.word in STOP) == (word in ("sample_ratio", "harmful"))
    assert verdict.comparisons[0].variant == "b"


def test_a_comparison_gives_its_figures():
    one = look(SPREAD, {"a": earned(5_000, 0.1), "b": earned(5_000, 0.14)}).comparisons[0]
    assert (one.metric, one.control, one.treatment) == ("ctr", 0.1, 0.14)
    assert one.delta == pytest.approx(0.04)
    assert 0.0 < one.low < 0.04 < one.high < 0.08
    assert 0.0 < one.p < 0.001


def test_of_several_variants_each_has_its_share_of_false_alarms():
    three = SPREAD._replace(method="fixed", variants=(*SPREAD.variants, Variant("c", 1, {})))
    sums = {"a": earned(5_000, 0.1), "b": earned(5_000, 0.113), "c": earned(5_000, 0.1)}
    assert 0.025 < look(three, sums).comparisons[0].p < 0.05
    assert look(three, sums).word == "no_difference"
    assert look(three, sums | {"c": earned(5_000, 0.13)}).variant == "c"
