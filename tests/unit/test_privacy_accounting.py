"""Gaussian accounting: closed forms against numbers from the literature, and against plain integration."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.privacy.gaussian import compose, delta_of, epsilon_of, mu_of, noise_multiplier_of
from udfs.privacy.terms import Mode, Terms

# Noise in clips at delta 1e-5 for one release, from federated learning's usual tables.
EXACT = {0.1: 30.75, 0.5: 7.03, 1: 3.73, 2: 1.99, 4: 1.08, 8: 0.600, 10: 0.500}


def delta_by_integration(epsilon: float, mu: float) -> float:
    """The definition itself: the integral of p - e^eps q where it is above 0; p and q normal, mu apart."""
    x = np.linspace(-12.0, 12.0 + mu, 400_001)
    p = np.exp(-0.5 * (x - mu) ** 2) / math.sqrt(2.0 * math.pi)
    q = np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    return float(np.trapezoid(np.maximum(p - math.exp(epsilon) * q, 0.0), x))


@pytest.mark.parametrize(("epsilon", "wanted"), EXACT.items())
def test_the_noise_for_one_release_is_that_of_the_table(epsilon, wanted):
    assert noise_multiplier_of(epsilon, 1e-5) == pytest.approx(wanted, rel=2e-3)


@pytest.mark.parametrize(
    ("releases", "epsilon", "wanted"),
    [(10, 1, 11.8), (10, 4, 3.42), (10, 10, 1.58), (100, 1, 37.3), (100, 4, 10.8), (100, 10, 5.0)],
)
def test_the_noise_for_many_releases_is_that_of_the_table(releases, epsilon, wanted):
    assert noise_multiplier_of(epsilon, 1e-5, releases=releases) == pytest.approx(wanted, rel=4e-3)


@pytest.mark.parametrize(
    ("z", "epsilon", "wanted"), [(4, 4, 13), (4, 10, 64), (8, 1, 4), (8, 4, 54), (8, 10, 256)]
)
def test_a_budget_holds_as_many_contributions_as_the_table_says(z, epsilon, wanted):
    assert math.floor(mu_of(epsilon, 1e-5) ** 2 * z * z) == wanted


@pytest.mark.parametrize("mu", [0.05, 0.27, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0, 4.0, 10.0])
def test_delta_is_the_integral_that_defines_it(epsilon, mu):
    assert delta_of(epsilon, mu) == pytest.approx(delta_by_integration(epsilon, mu), rel=1e-5, abs=1e-11)


@given(st.floats(0.01, 20.0), st.sampled_from([1e-4, 1e-5, 1e-6, 1e-8]))
@settings(max_examples=60, deadline=None)
def test_epsilon_and_mu_are_inverse_and_err_on_the_safe_side(mu, delta):
    epsilon = epsilon_of(mu, delta)
    assert delta_of(epsilon, mu) <= delta
    if epsilon > 0.0:
        assert delta_of(epsilon * (1 - 1e-9), mu) > delta
        back = mu_of(epsilon, delta)
        assert back == pytest.approx(mu, rel=1e-6)
        assert delta_of(epsilon, back) <= delta


def test_composition_is_by_squares_in_any_order():
    mus = [0.3, 0.1, 0.7, 0.2] * 50
    assert compose(mus) == compose(mus[::-1])
    assert compose([0.25] * 16) == 1.0


def test_huge_and_absent_noise_are_told():
    assert epsilon_of(math.inf, 1e-5) == math.inf
    assert delta_of(3.0, math.inf) == 1.0
    assert delta_of(0.0, 0.0) == 0.0
    assert math.isfinite(epsilon_of(200.0, 1e-5))


@pytest.mark.parametrize("delta", [0.0, 1e-13, 1.0])
def test_a_delta_that_means_nothing_is_refused(delta):
    with pytest.raises(ValueError, match="delta: wanted"):
        epsilon_of(1.0, delta)


def test_a_local_contribution_counts_as_replaced_and_a_central_one_as_taken_out():
    local, central = (Terms(mode, 1.0, 4.0, 1e-5, 10) for mode in (Mode.LOCAL, Mode.CENTRAL))
    assert local.mu == 2 * central.mu
    assert local.epsilon > 2 * central.epsilon
    assert (local.device_sigma, local.release_sigma) == (4.0, 0.0)
    assert (central.device_sigma, central.release_sigma) == (0.0, 4.0)


def test_shares_of_the_fewest_devices_make_the_whole_noise():
    shared = Terms(Mode.DISTRIBUTED, 0.5, 4.0, 1e-5, 25)
    assert math.sqrt(25) * shared.device_sigma == pytest.approx(4.0 * 0.5)


@pytest.mark.parametrize("mode", Mode)
def test_no_epsilon_is_told_without_its_mode_delta_and_adjacency(mode):
    text = Terms(mode, 1.0, 4.0, 1e-5, 10).claim(3)
    for word in (
        f"{mode} mode",
        "delta 1e-05",
        "per user",
        mode.adjacency,
        "3 contributions",
        "noise 4 clips",
    ):
        assert word in text


def test_terms_without_noise_claim_nothing():
    assert Terms(Mode.CENTRAL, 1.0, 0.0, 1e-5, 10).epsilon == math.inf
