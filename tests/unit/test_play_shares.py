"""The policies as the recommend job plays them: a user's arms, on what all users taught, with exact probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from bundles import toy_state
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.served_policies import RATES, regret
from schemas.records import Credit, Posterior
from udfs.bandit import credit_arm
from udfs.bandits.credit_sums import CreditSums
from udfs.bandits.policy import SERVED
from udfs.bandits.shared_posterior import SharedPosterior
from udfs.bandits.shares import draw
from udfs.bandits.thompson_linear import greatest_rows
from udfs.experiments.experiment import Experiment, Variant
from udfs.experiments.running import RunningExperiments
from udfs.ranking.play_shares import CELLS, N_ARMS, play_probabilities
from udfs.ranking.snapshot import Snapshot, StateColumns, decode_states
from udfs.user_state import SOURCES, UserState

FLOOR = 0.02
every_policy = pytest.mark.parametrize("policy", SERVED)
outcomes = st.lists(st.tuples(st.integers(0, N_ARMS - 1), st.floats(0, 1)), max_size=30)


def user(history: list[tuple[int, float]], n_events: int = 20, n_purchases: int = 1) -> UserState:
    alpha = beta = b""
    for arm, reward in history:
        alpha, beta = credit_arm(alpha, beta, arm, reward)
    state = toy_state([1])
    return state._replace(arm_alpha=alpha, arm_beta=beta, n_events=n_events, n_purchases=n_purchases)


def columns(*states: UserState) -> StateColumns:
    return decode_states([Snapshot("k", "t", "u", "v", 0, 1, state.encode()) for state in states])


def taught(best: str, credits: int = 400, version: int = 7) -> SharedPosterior:
    """One arm earns .5 of everybody's credits, the others .02."""
    made = [
        Credit("t", "u", "r", arm, 0.5 if arm == best else 0.02, 9, "c", (256, 97, 22))
        for arm in SOURCES
        for _ in range(credits)
    ]
    record = Posterior("t", version, len(made), 0, CreditSums().add(made).posterior(14.0))
    return SharedPosterior.of(record, SOURCES)


@every_policy
@settings(max_examples=40, deadline=None)
@given(histories=st.lists(outcomes, min_size=1, max_size=5), shared=st.booleans())
def test_a_users_probabilities_are_exact_and_do_not_depend_on_who_is_ranked_beside(policy, histories, shared):
    states = [user(history, n_events=7 * n, n_purchases=n) for n, history in enumerate(histories)]
    posteriors = [taught("repeat", 30) if shared and n % 2 else None for n in range(len(states))]
    together = play_probabilities(columns(*states), FLOOR, policy, posteriors)
    assert together.min() >= FLOOR
    for n, state in enumerate(states):
        p = together[n].tolist()
        assert sum(p) == sum(reversed(p)) == 1.0
        alone = play_probabilities(columns(state), FLOOR, policy, posteriors[n : n + 1])[0]
        assert alone.tolist() == p


@every_policy
def test_without_what_others_taught_the_ranker_has_most_slots_of_a_new_user(policy):
    p = play_probabilities(columns(user([])), FLOOR, policy)[0]
    assert SOURCES[int(p.argmax())] == "ranker" and p[0] > 0.5
    assert play_probabilities(columns(user([])), FLOOR, policy, [None])[0].tolist() == p.tolist()


@every_policy
def test_a_user_of_whom_little_is_known_gets_what_works_for_all_and_another_what_worked_for_them(policy):
    shared = [taught("popular")] * 2
    repeat = SOURCES.index("repeat")
    own = user([(repeat, 1.0), (0, 0.0), (4, 0.0), (1, 0.0), (2, 0.0)] * 150)
    p = play_probabilities(columns(user([]), own), FLOOR, policy, shared)
    assert SOURCES[int(p[0].argmax())] == "popular"
    assert SOURCES[int(p[1].argmax())] == "repeat"
    without = play_probabilities(columns(user([])), FLOOR, policy, shared[:1], 1e-9)[0]
    assert SOURCES[int(without.argmax())] == "ranker", "evidence that counts for nothing"


@every_policy
def test_it_learns_the_obvious_arm_and_a_replay_explores_the_same_way(policy):
    runs = []
    for _ in range(2):
        history, played = [], []
        for turn in range(250):
            p = play_probabilities(columns(user(history[-200:])), FLOOR, policy)[0]
            arm = draw(p, f"default/u1\0{turn}")
            history.append((arm, 0.9 if arm == 3 else 0.05))
            played.append(arm)
        runs.append(played)
    assert runs[0] == runs[1]
    assert runs[0][-80:].count(3) > 50


@every_policy
def test_regret_against_the_best_fixed_arm_is_less_with_what_all_users_taught(policy):
    alone, together = (
        np.mean([regret(policy, seed, shares) for seed in range(2)]) for shares in (False, True)
    )
    always_the_ranker = max(RATES) - RATES[0]
    assert together < 0.7 * alone
    assert together < 0.7 * always_the_ranker


def test_few_cells_are_enough_for_the_posteriors_that_are_served():
    rng = np.random.default_rng(0)
    mean, spread = rng.uniform(0, 0.3, (500, N_ARMS)), 0.12 / np.sqrt(rng.uniform(50, 800, (500, N_ARMS)))
    few, many = (greatest_rows(mean, spread, cells) for cells in (CELLS, 4_096))
    np.testing.assert_allclose(few / few.sum(1, keepdims=True), many / many.sum(1, keepdims=True), atol=1e-6)


def test_a_policy_that_is_none_is_refused():
    with pytest.raises(ValueError, match="exploration_policy"):
        play_probabilities(columns(user([])), FLOOR, "softmax")


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("exploration_policy", "ucb1", True),
        ("exploration_policy", "softmax", False),
        ("new_item_share", 0.05, True),
        ("new_item_share", 0.5, False),
        ("shared_credits", 0.0, True),
    ],
)
def test_a_variant_of_an_experiment_may_set_how_slots_are_drawn(name, value, fits):
    variants = (Variant("a", 1, {}), Variant("b", 1, {name: value}))
    running = RunningExperiments((Experiment("explore", "list", 0, 100, variants),))
    if fits:
        running.check()
        assert RunningExperiments.from_json(running.to_json()) == running
    else:
        with pytest.raises(ValueError, match=name):
            running.check()
