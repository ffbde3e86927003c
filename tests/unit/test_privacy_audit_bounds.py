"""Audits that count, and audits of one cohort: their figures are the literature's, and they tell right from wrong."""

from __future__ import annotations

from math import comb
from pathlib import Path

import numpy as np
import pytest

from model_export.protocols.federated import audited_users
from udfs.federate.audit import line_mechanism
from udfs.federate.audit_suite import ALSO_CATCHES, NOISE_MULTIPLIER, audited_line
from udfs.privacy.audit_bounds import (
    at_most_probability,
    counted_worlds,
    epsilon_bound,
    lower_limit,
    one_run,
    one_run_bound,
    upper_limit,
)
from udfs.privacy.audit_canaries import area_under_curve, membership, one_shot
from udfs.privacy.broken import BROKEN, plain, under
from udfs.privacy.gaussian import normal_cdf
from udfs.privacy.terms import Mode, Terms

KEY = b"key of the audits in tests, long"
ONLINE_RETAIL = Path(__file__).parents[2] / "datasets/online-retail/online_retail.parquet"
TERMS = Terms(Mode.CENTRAL, 0.5, NOISE_MULTIPLIER, 1e-5, 10)


@pytest.mark.parametrize("trials", [1, 7, 30])
@pytest.mark.parametrize("probability", [0.03, 0.5, 0.91])
def test_the_chance_of_few_successes_is_the_sum_of_the_binomials(trials: int, probability: float) -> None:
    for most in range(trials + 1):
        wanted = sum(
            comb(trials, n) * probability**n * (1 - probability) ** (trials - n) for n in range(most + 1)
        )
        assert at_most_probability(most, trials, probability) == pytest.approx(wanted, abs=1e-12)


def test_limits_hold_the_true_probability_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    for truth in (0.02, 0.4, 0.97):
        seen = rng.binomial(60, truth, 400)
        above = [upper_limit(int(k), 60, 0.95) >= truth for k in seen]
        below = [lower_limit(int(k), 60, 0.95) <= truth for k in seen]
        assert min(np.mean(above), np.mean(below)) >= 0.93


@pytest.mark.parametrize(("noise", "expected"), [(3.7303, 0.33), (1.0814, 1.85), (0.5, 4.21)])
def test_ten_thousand_runs_tell_of_gaussian_noise_what_can_be_told_by_counting(
    noise: float, expected: float
) -> None:
    """The figures of recipe 4, from the normal distribution instead of runs: the best threshold of a grid."""
    best = 0.0
    for threshold in np.linspace(0.0, 6.0, 25).tolist():
        hits, alarms = (round(10_000 * normal_cdf(mu - threshold)) for mu in (1.0 / noise, 0.0))
        best = max(best, epsilon_bound(hits, alarms, 10_000, 1e-5, 0.99))
    assert best == pytest.approx(expected, rel=0.12)


def test_one_run_tells_of_guesses_what_the_publication_says() -> None:
    assert one_run_bound(600, 1000, 0.0) == pytest.approx(0.30, abs=0.01)
    assert one_run_bound(900, 1000, 0.0) == pytest.approx(2.03, abs=0.02)
    assert one_run_bound(1000, 1000, 0.0) == pytest.approx(5.81, abs=0.01)
    assert one_run_bound(100, 100, 0.0) == pytest.approx(3.49, abs=0.01)
    assert one_run_bound(480, 1000, 0.0) == 0.0
    assert one_run_bound(900, 1000, 1e-5) < one_run_bound(900, 1000, 0.0)


@pytest.mark.parametrize(("name", "audit"), ALSO_CATCHES, ids=lambda one: getattr(one, "__name__", one))
def test_a_broken_mechanism_is_rejected_and_the_right_one_passes(name, audit) -> None:
    wrong = audit(under(TERMS, BROKEN[name]), TERMS, KEY)
    assert not wrong.passed, wrong
    right = audit(under(TERMS, plain), TERMS, KEY)
    assert right.passed, right


@pytest.mark.parametrize("mode", list(Mode))
def test_the_line_passes_every_seed(mode: Mode) -> None:
    line = audited_line(mode)
    terms = line.terms(line.first_clip_norm)
    cohort = line_mechanism(line, skips_refused=True)
    for seed in range(4):
        key = KEY + bytes([seed])
        for finding in (
            counted_worlds(line_mechanism(line), terms, key, 150),
            one_run(cohort, terms, key, 400),
            one_shot(cohort, terms, key, canaries=150, dimension=4_000),
        ):
            assert finding.passed, finding


def test_canaries_in_one_cohort_tell_mu() -> None:
    found = [one_shot(under(TERMS, plain), TERMS, KEY + bytes([n])).measured for n in range(5)]
    assert np.mean(found) == pytest.approx(TERMS.mu, abs=0.1)


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(1)
    members, others = rng.integers(0, 9, 40).astype(float), rng.integers(0, 7, 30).astype(float)
    pairs = [0.5 * (one == other) + (one > other) for one in members for other in others]
    assert area_under_curve(members, others) == pytest.approx(np.mean(pairs))


def test_who_of_real_customers_was_in_a_cohort_is_told_no_better_than_mu_allows() -> None:
    users = audited_users(ONLINE_RETAIL, items=30)
    assert len(users) > 3_000
    right = membership(under(TERMS, plain), TERMS, KEY, users)
    assert right.passed, right
    assert right.measured > 0.5, "the guesser is worth something"
    wrong = membership(under(TERMS, BROKEN["no noise"]), TERMS, KEY, users)
    assert not wrong.passed, wrong
