"""What every policy promises: probabilities with a floor, states that are values, replays that explore the same."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import udfs.bandits
from udfs.bandits.epsilon_greedy import EpsilonGreedy
from udfs.bandits.linucb import LinUcb
from udfs.bandits.policy import SERVED
from udfs.bandits.shares import draw, mix_with_floor
from udfs.bandits.thompson_beta import ThompsonBeta
from udfs.bandits.thompson_linear import ThompsonLinear
from udfs.bandits.ucb1 import Ucb1
from udfs.ranking.served_rules import RuleWidths, served_rule

ARMS, DIM, FLOOR = 4, 3, 0.02
POLICIES: dict[str, Any] = {
    "epsilon_greedy": EpsilonGreedy(ARMS, FLOOR),
    "ucb1": Ucb1(ARMS, FLOOR, width=0.3),
    "linucb": LinUcb(ARMS, DIM, FLOOR),
    "thompson_beta": ThompsonBeta(ARMS, FLOOR),
    "thompson_linear": ThompsonLinear(ARMS, DIM, FLOOR),
}
every_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
contexts = st.tuples(st.just(1.0), st.floats(-1, 1), st.floats(-1, 1)).map(np.array)
plays = st.lists(st.tuples(st.integers(0, ARMS - 1), st.floats(0, 1), contexts), max_size=40)
ONE = np.array([1.0, 0.5, -0.5])


def learnt(policy: Any, history: list[tuple[int, float, Any]]) -> Any:
    state = policy.start()
    for arm, reward, context in history:
        state = policy.update(state, arm, reward, context)
    return state


@every_policy
@settings(max_examples=60, deadline=None)
@given(history=plays, context=contexts)
def test_probabilities_sum_to_exactly_one_in_any_order_and_keep_the_floor(policy, history, context):
    p = policy.probabilities(learnt(policy, history), context)
    assert p.shape == (ARMS,) and p.dtype == np.float64
    assert p.min() >= FLOOR
    assert sum(p.tolist()) == sum(reversed(p.tolist())) == 1.0


@every_policy
@settings(max_examples=40, deadline=None)
@given(history=plays)
def test_a_state_is_its_bytes_and_an_update_leaves_its_input_as_it_was(policy, history):
    state = learnt(policy, history)
    data = state.encode()
    again = type(state).decode(data)
    assert again.encode() == data
    assert policy.probabilities(again, ONE).tolist() == policy.probabilities(state, ONE).tolist()
    after = policy.update(again, 2, 0.7, ONE)
    assert again.encode() == data != after.encode()
    assert policy.update(state, 2, 0.7, ONE).encode() == after.encode()


def test_every_policy_of_the_package_is_in_this_suite_and_every_rule_that_serves_is_one():
    found = set()
    for module in pkgutil.iter_modules(udfs.bandits.__path__):
        for thing in vars(importlib.import_module(f"udfs.bandits.{module.name}")).values():
            made = isinstance(thing, type) and all(
                hasattr(thing, name) for name in ("start", "probabilities", "update")
            )
            if made and not getattr(thing, "_is_protocol", False):
                found.add(thing)
    assert found == {type(policy) for policy in POLICIES.values()}
    served = [type(served_rule(rule, 3, 0.01, RuleWidths(0.5, 0.5, 0.3, 128))) for rule in SERVED]
    assert set(served) == found and len(served) == len(found)


@every_policy
def test_a_state_does_not_grow_with_what_it_has_seen(policy):
    state = policy.update(policy.start(), 0, 1.0, ONE)
    size = len(state.encode())
    for turn in range(600):
        state = policy.update(state, turn % ARMS, turn % 7 / 6, ONE * (1 + turn % 3))
    assert len(state.encode()) == size <= 5 + 8 * ARMS * (DIM * (DIM + 1) // 2 + DIM)


@every_policy
def test_arms_are_drawn_as_often_as_is_logged(policy):
    state = learnt(policy, [(0, 0.2, ONE), (2, 0.9, ONE), (1, 0.1, ONE), (3, 0.3, ONE)] * 5)
    p = policy.probabilities(state, ONE)
    counts = np.bincount([draw(p, "default/u1", n) for n in range(4_000)], minlength=ARMS)
    assert np.abs(counts / 4_000 - p).max() < 0.03


@every_policy
def test_a_policy_that_knows_nothing_treats_all_arms_alike(policy):
    assert policy.probabilities(policy.start(), ONE) == pytest.approx([1 / ARMS] * ARMS)


@every_policy
def test_it_learns_the_obvious_arm_and_a_replay_explores_the_same_way(policy):
    runs = []
    for _ in range(2):
        state, played = policy.start(), []
        for turn in range(400):
            arm = draw(policy.probabilities(state, ONE), f"default/u1\0{turn}")
            state = policy.update(state, arm, 0.9 if arm == 2 else 0.1, ONE)
            played.append(arm)
        runs.append((played, state.encode()))
    assert runs[0] == runs[1]
    assert runs[0][0][-100:].count(2) > 75
    assert len(set(runs[0][0])) == ARMS
    assert policy.probabilities(state, ONE)[2] > 0.7


@every_policy
@pytest.mark.parametrize(
    ("reward", "as_if"), [(1.5, 1.0), (-0.5, 0.0), (float("nan"), 0.0), (float("inf"), 1.0)]
)
def test_a_reward_outside_its_range_counts_as_its_nearest_end(policy, reward, as_if):
    state = learnt(policy, [(1, 0.5, ONE)])
    assert policy.update(state, 1, reward, ONE).encode() == policy.update(state, 1, as_if, ONE).encode()


@every_policy
@pytest.mark.parametrize(
    "change", [lambda data: b"", lambda data: b"\x02" + data[1:], lambda data: data + b"\0"]
)
def test_bytes_that_are_no_state_are_refused(policy, change):
    state = policy.start()
    with pytest.raises(ValueError, match="wanted"):
        type(state).decode(change(state.encode()))


@every_policy
def test_a_floor_that_cannot_be_kept_is_refused(policy):
    with pytest.raises(ValueError, match=r"floor: wanted 0 to 0\.225 for 4 arms"):
        type(policy)(**{**policy.__dict__, "floor": 0.3})


@every_policy
@settings(max_examples=40, deadline=None)
@given(history=plays, order=st.randoms())
def test_the_order_of_updates_changes_sums_by_rounding_alone(policy, history, order):
    shuffled = list(history)
    order.shuffle(shuffled)
    if isinstance(policy, ThompsonBeta):
        policy = ThompsonBeta(ARMS, FLOOR, most_evidence=4_000)
    for one, other in zip(learnt(policy, history), learnt(policy, shuffled), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


@pytest.mark.parametrize(
    "policy", [POLICIES["linucb"], POLICIES["thompson_linear"]], ids=["linucb", "linear"]
)
def test_a_linear_policy_learns_which_arm_is_best_where(policy):
    rng, state = np.random.default_rng(0), policy.start()
    for turn in range(600):
        context = np.array([1.0, rng.uniform(-1, 1), 0.0])
        arm = draw(policy.probabilities(state, context), str(turn))
        truth = 0.5 + 0.4 * context[1] * {0: 1, 1: -1}.get(arm, 0) - 0.2 * (arm > 1)
        state = policy.update(state, arm, truth, context)
    assert policy.probabilities(state, np.array([1.0, 0.8, 0.0]))[0] > 0.6
    assert policy.probabilities(state, np.array([1.0, -0.8, 0.0]))[1] > 0.6


@pytest.mark.parametrize(
    "policy", [POLICIES["linucb"], POLICIES["thompson_linear"]], ids=["linucb", "linear"]
)
@pytest.mark.parametrize("context", [np.ones(2), np.array([1.0, np.nan, 0.0])])
def test_a_context_that_does_not_fit_never_enters_the_state(policy, context):
    with pytest.raises(ValueError, match="context: wanted 3 finite numbers"):
        policy.update(policy.start(), 0, 1.0, context)
    with pytest.raises(ValueError, match="context: wanted 3 finite numbers"):
        policy.probabilities(policy.start(), context)


def test_bytes_of_version_1_are_those_of_the_first_release():
    counts = learnt(POLICIES["ucb1"], [(1, 0.25, ONE)])
    golden = "010400" + "0" * 16 + "000000000000d03f" + "0" * 48 + "000000000000e83f" + "0" * 32
    assert counts.encode().hex() == golden
    sums = learnt(LinUcb(2, 2), [(1, 0.25, np.array([1.0, 0.5]))])
    golden = "0102000200" + "0" * 48 + "000000000000f03f000000000000e03f000000000000d03f"
    assert sums.encode().hex() == golden + "0" * 32 + "000000000000d03f000000000000c03f"


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=6))
def test_draws_come_as_often_as_the_shares_say(weights):
    shares = mix_with_floor(np.array(weights), 0.01)
    counts = np.bincount([draw(shares, "seed", n) for n in range(2_000)], minlength=len(shares))
    assert np.abs(counts / 2_000 - shares).max() < 0.06
