"""How good the numbers are: probabilities against finer sums and Monte Carlo, regret against the best fixed arm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_bandits_contract import ARMS, DIM, FLOOR, POLICIES

from udfs.bandit import arm_probabilities_batch
from udfs.bandits.epsilon_greedy import EpsilonGreedy
from udfs.bandits.evidence import Evidence
from udfs.bandits.linear_arms import LinearArms
from udfs.bandits.linucb import LinUcb
from udfs.bandits.shares import draw
from udfs.bandits.thompson_linear import CELLS, ThompsonLinear, greatest, greatest_slowly
from udfs.bandits.ucb1 import Ucb1

NO_CONTEXT = np.array([1.0, 0.0, 0.0])


def finely(alpha: NDArray[np.float64], beta: NDArray[np.float64], cells: int) -> NDArray[np.float64]:
    """The integral of `udfs.bandit` on a grid of any width."""
    theta = (np.arange(cells) + 0.5) * (np.pi / 2 / cells)
    log = (alpha[:, None] - 0.5) * 2 * np.log(np.sin(theta)) + (beta[:, None] - 0.5) * 2 * np.log(
        np.cos(theta)
    )
    mass = np.exp(log - log.max(axis=1, keepdims=True))
    mass /= mass.sum(axis=1, keepdims=True)
    below = np.cumsum(mass, axis=1) - mass / 2
    best = np.array([(mass[k] * np.delete(below, k, 0).prod(axis=0)).sum() for k in range(len(alpha))])
    return best / best.sum()


@pytest.mark.parametrize(("most", "bound"), [(400, 0.002), (4_000, 0.01)])
def test_beta_posteriors_are_integrated_within_the_stated_error(most, bound):
    rng = np.random.default_rng(1)
    for number in range(300):
        arms = int(rng.integers(2, 9))
        plays = most * rng.random(arms) ** 2
        rates = rng.random() * rng.uniform(0.8, 1, arms) if number % 2 else rng.random(arms)
        alpha, beta = 1 + plays * rates, 1 + plays * (1 - rates)
        found = arm_probabilities_batch(alpha[None], beta[None], 0.0)[0]
        assert np.abs(found - finely(alpha, beta, 16 * 192)).max() < bound


def test_normal_posteriors_are_integrated_within_the_stated_error():
    rng = np.random.default_rng(1)
    for _ in range(150):
        arms = int(rng.integers(2, 9))
        mean, spread = rng.normal(0, 0.3, arms), 0.3 * 10 ** rng.uniform(-4, 0, arms)
        assert np.abs(greatest(mean, spread, CELLS) - greatest(mean, spread, 32 * CELLS)).max() < 0.0026


def test_the_kernel_agrees_with_the_formula():
    rng = np.random.default_rng(2)
    for arms in (1, 2, 5):
        mean, spread = rng.normal(0, 0.3, arms), rng.uniform(0.01, 0.4, arms)
        np.testing.assert_allclose(
            greatest(mean, spread, 256), greatest_slowly(mean, spread, 256), atol=1e-12
        )


def test_linear_thompson_agrees_with_monte_carlo():
    rng, state = np.random.default_rng(3), LinearArms.none(ARMS, DIM)
    for _ in range(40):
        state = state.after(int(rng.integers(ARMS)), rng.random(), np.array([1.0, *rng.normal(size=2)]))
    context = np.array([1.0, 0.3, -0.7])
    policy = ThompsonLinear(ARMS, DIM, floor=0.0, width=0.4)
    draws = np.empty((200_000, ARMS))
    for arm in range(ARMS):
        covariance = np.linalg.inv(state.squares[arm] + np.eye(DIM))
        weights = rng.multivariate_normal(covariance @ state.rewards[arm], 0.4**2 * covariance, len(draws))
        draws[:, arm] = weights @ context
    frequency = np.bincount(draws.argmax(axis=1), minlength=ARMS) / len(draws)
    np.testing.assert_allclose(policy.probabilities(state, context), frequency, atol=0.005)


RATES = np.array([0.10, 0.14, 0.30, 0.12])
ROUNDS = 3_000


def regret(policy: Any, seed: int) -> tuple[float, float]:
    """Regret against the best fixed arm, in expectation of what was played: of all rounds, and of the last third."""
    rng, state, lost = np.random.default_rng(seed), policy.start(), np.zeros(ROUNDS)
    luck = rng.random(ROUNDS)
    for turn in range(ROUNDS):
        arm = draw(policy.probabilities(state, NO_CONTEXT), f"{seed}\0{turn}")
        state = policy.update(state, arm, float(luck[turn] < RATES[arm]), NO_CONTEXT)
        lost[turn] = RATES.max() - RATES[arm]
    return float(lost.sum()), float(lost[-ROUNDS // 3 :].mean())


@pytest.mark.parametrize("name", POLICIES)
def test_regret_against_the_best_fixed_arm_is_small_and_shrinks(name):
    found = [regret(POLICIES[name], seed) for seed in range(2)]
    even = float((RATES.max() - RATES).mean())
    least = float(FLOOR * (RATES.max() - RATES).sum())  # what the floor alone costs a round
    total, late = np.mean(found, axis=0)
    assert total < 0.35 * even * ROUNDS
    assert least * 0.5 < late < least + 0.12 * even


def test_ucb1_prefers_what_could_be_better_over_what_seems_best():
    # Bounds .6 + sqrt(2 ln 110 / 100) = .91 and .5 + sqrt(2 ln 110 / 10) = 1.47; a tenth as wide .63 and .60.
    state = Evidence(np.array([60.0, 5.0]), np.array([40.0, 5.0]))
    assert Ucb1(2, floor=0.0).probabilities(state, NO_CONTEXT).tolist() == [0.0, 1.0]
    assert Ucb1(2, floor=0.0, width=0.1).probabilities(state, NO_CONTEXT).tolist() == [1.0, 0.0]


def test_linucb_prefers_what_could_be_better_over_what_seems_best():
    # Sums 1 + n: means 60 / 101 and 5 / 11, spreads .0995 and .3015; the bounds with width 1 are .69 and .76.
    state = LinearArms(np.array([[[100.0]], [[10.0]]]), np.array([[60.0], [5.0]]))
    one = np.ones(1)
    assert state.scores(one, 1.0)[1] == pytest.approx([101**-0.5, 11**-0.5])
    assert LinUcb(2, 1, floor=0.0, width=1.0).probabilities(state, one).tolist() == [0.0, 1.0]
    assert LinUcb(2, 1, floor=0.0, width=0.1).probabilities(state, one).tolist() == [1.0, 0.0]


def test_epsilon_falls_with_what_was_played():
    state = Evidence(np.array([60.0, 5.0]), np.array([40.0, 95.0]))
    policy = EpsilonGreedy(2, floor=0.0, epsilon=0.5, half_after=200.0)
    assert policy.probabilities(state, NO_CONTEXT).tolist() == [0.875, 0.125]
