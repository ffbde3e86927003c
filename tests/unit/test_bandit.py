"""Which arm to play: explicit probabilities, learnt from credits."""

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import udfs.bandit
from udfs.bandit import (
    KEEP,
    MAX_EVIDENCE,
    PRIOR_ALPHA,
    PRIOR_BETA,
    arm_probabilities,
    arm_probabilities_batch,
    credit_arm,
    posteriors,
)
from udfs.user_state import SOURCES

FLOOR = 0.01
ALPHAS = st.lists(st.floats(1, 400), min_size=5, max_size=5)
BETAS = st.lists(st.floats(1, 490), min_size=5, max_size=5)


def test_examples_run():
    assert doctest.testmod(udfs.bandit).failed == 0


def test_of_whom_nothing_was_learnt_the_ranker_gets_nine_slots_in_ten():
    p = arm_probabilities(*posteriors(b"", b""), floor=FLOOR)
    assert SOURCES[int(np.argmax(p))] == "ranker"
    assert 0.88 < p[0] < 0.92


@given(ALPHAS, BETAS, st.floats(0, 0.18))
def test_probabilities_sum_to_exactly_one_in_any_order_and_keep_the_floor(alpha, beta, floor):
    p = arm_probabilities(np.array(alpha), np.array(beta), floor)
    assert p.min() >= floor
    assert sum(p.tolist()) == sum(reversed(p.tolist())) == float(p.sum()) == 1.0


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.tuples(ALPHAS, BETAS), min_size=1, max_size=6))
def test_the_kernel_agrees_with_the_reference_and_does_not_depend_on_the_batch(users):
    alpha, beta = (np.array(side) for side in zip(*users, strict=True))
    batch = arm_probabilities_batch(alpha, beta, FLOOR)
    for row in range(len(users)):
        np.testing.assert_allclose(batch[row], arm_probabilities(alpha[row], beta[row], FLOOR), atol=1e-11)
        assert np.array_equal(
            batch[row], arm_probabilities_batch(alpha[row : row + 1], beta[row : row + 1], FLOOR)[0]
        )
        assert batch[row].min() >= FLOOR and batch[row].sum() == 1.0


@pytest.mark.parametrize(
    ("alpha", "beta"),
    [
        (PRIOR_ALPHA, PRIOR_BETA),
        ((1, 1, 1, 1, 1), (1, 1, 1, 1, 1)),
        ((200, 190, 30, 2, 1), (210, 220, 40, 3, 1)),
        ((400, 380, 1, 1, 1), (90, 100, 49, 49, 49)),
    ],
)
def test_it_agrees_with_monte_carlo(alpha, beta):
    draws = np.random.default_rng(11).beta(alpha, beta, size=(400_000, 5))
    frequency = np.bincount(draws.argmax(axis=1), minlength=5) / len(draws)
    p = arm_probabilities(np.array(alpha, float), np.array(beta, float), floor=0.0)
    np.testing.assert_allclose(p, frequency, atol=0.004)


def test_it_learns_the_obvious_arm():
    rng = np.random.default_rng(3)
    rates = (0.05, 0.05, 0.6, 0.05, 0.05)
    alpha, beta, last = b"", b"", []
    for _ in range(400):
        p = arm_probabilities(*posteriors(alpha, beta), floor=FLOOR)
        arm = int(rng.choice(5, p=p))
        alpha, beta = credit_arm(alpha, beta, arm, float(rng.random() < rates[arm]))
        last.append(arm)
    assert last[-100:].count(2) > 85
    assert arm_probabilities(*posteriors(alpha, beta), floor=FLOOR)[2] > 0.9


def test_it_forgets_an_arm_that_stopped_to_earn():
    alpha, beta = b"", b""
    for _ in range(300):
        alpha, beta = credit_arm(alpha, beta, 1, 1.0)
    for _ in range(900):
        alpha, beta = credit_arm(alpha, beta, 1, 0.0)
    a, b = posteriors(alpha, beta)
    assert a[1] - PRIOR_ALPHA[1] < 300 * KEEP**890
    assert a[1] / (a[1] + b[1]) < 0.03


def test_evidence_has_a_cap_and_never_falls_below_the_prior():
    alpha, beta = b"", b""
    for number in range(3_000):
        alpha, beta = credit_arm(alpha, beta, 4, 1.5 if number % 2 else -0.5)
    a, b = posteriors(alpha, beta)
    evidence = a + b - np.array(PRIOR_ALPHA) - np.array(PRIOR_BETA)
    assert 0 < evidence[4] <= min(MAX_EVIDENCE, 1 / (1 - KEEP)) * 1.0001
    assert np.all(a >= PRIOR_ALPHA) and np.all(b >= PRIOR_BETA)
    assert evidence[:4].tolist() == [0, 0, 0, 0], "other arms keep the prior"


@pytest.mark.parametrize(
    ("reward", "counts_as"), [(1.5, 1.0), (-0.5, 0.0), (float("inf"), 1.0), (float("nan"), 0.0)]
)
def test_a_reward_outside_its_range_counts_as_its_nearest_end(reward, counts_as):
    assert credit_arm(b"", b"", 4, reward) == credit_arm(b"", b"", 4, counts_as)


def test_a_floor_that_cannot_be_kept_is_refused():
    with pytest.raises(ValueError, match=r"wanted 0 to 0\.180 for 5 arms, got 0\.2"):
        arm_probabilities(*posteriors(b"", b""), floor=0.2)
    with pytest.raises(ValueError, match="floor"):
        arm_probabilities_batch(np.ones((1, 5)), np.ones((1, 5)), floor=-0.1)
