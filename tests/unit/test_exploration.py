"""Exploration: which arm fills a slot, and with what propensity."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from bundles import toy_state
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.bandit import PRIOR_ALPHA, PRIOR_BETA, arm_probabilities
from udfs.ranking.candidates import (
    CONTENT,
    EMBEDDING,
    N_RETRIEVERS,
    NEIGHBOURS,
    POPULAR,
    REPEAT,
    SESSIONS,
    TRENDING,
    Candidates,
    no_candidates,
)
from udfs.ranking.exploration import Lists, fill_slots, list_seed, uniform
from udfs.ranking.first_stage import Finalists
from udfs.ranking.play_shares import play_probabilities
from udfs.ranking.snapshot import Snapshot, decode_states
from udfs.user_state import SOURCES

K = 12
BY_TURNS = {"neighbours": [NEIGHBOURS, SESSIONS, CONTENT], "popular": [TRENDING, POPULAR]}
P = np.array([0.5, 0.2, 0.15, 0.1, 0.05])


def candidates_of(ranks: np.ndarray) -> tuple[Candidates, Finalists]:
    """One user whose finalists 0 to K - 1 have these ranks, int (K, 6) by retrieval source."""
    zeros = np.zeros((1, K), np.float32)
    rows = np.arange(K, dtype=np.int32)[None, :]
    count = np.array([K], np.int32)
    found = no_candidates(1, K, with_devices=False)._replace(
        counts=count, rows=rows, rank=ranks[None].astype(np.int16)
    )
    return found, Finalists(count, rows, rows, zeros)


def random_ranks(rng: np.random.Generator) -> np.ndarray:
    """Some finalists of each source, ranks from 1; one source may have none."""
    ranks = np.zeros((K, N_RETRIEVERS), np.int64)
    for source in range(N_RETRIEVERS):
        size = int(rng.integers(0, 6))
        ranks[rng.permutation(K)[:size], source] = np.arange(1, size + 1)
    return ranks


def fill(ranks: np.ndarray, scores: np.ndarray, seed: int, p: np.ndarray = P, size: int = 6) -> Lists:
    found, finalists = candidates_of(ranks)
    categories = np.arange(1, K + 1, dtype=np.uint32)
    return fill_slots(scores, categories, found, finalists, p[None], np.array([seed], np.uint64), 0.0, size)


def arm_order(arm: str, ranks: np.ndarray, scores: np.ndarray) -> list[int]:
    """The arm's items, best first, written down again from the docstring."""
    if arm == "ranker":
        return np.argsort(-scores, kind="stable").tolist()
    if arm in BY_TURNS:
        by_turns = [
            min(((rank, turn) for turn, rank in enumerate(of_item) if rank), default=None)
            for of_item in ranks[:, BY_TURNS[arm]].tolist()
        ]
        return sorted((k for k in range(K) if by_turns[k] is not None), key=lambda k: by_turns[k])
    column = {"embedding": EMBEDDING, "repeat": REPEAT}[arm]
    return sorted((k for k in range(K) if ranks[k, column]), key=lambda k: ranks[k, column])


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_propensity_is_the_sum_of_all_arms_that_would_have_placed_the_item(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ranks, scores = random_ranks(rng), rng.standard_normal(K).astype(np.float32)
    lists = fill(ranks, scores, seed)
    placed: list[int] = []
    for slot, chosen in enumerate(lists.places[0].tolist()):
        picks = {
            arm: next((k for k in arm_order(arm, ranks, scores) if k not in placed), None) for arm in SOURCES
        }
        picks = {arm: picks["ranker"] if pick is None else pick for arm, pick in picks.items()}
        exact = sum(p for p, arm in zip(P, SOURCES, strict=True) if picks[arm] == chosen)
        assert lists.propensity[0, slot] == pytest.approx(exact, abs=1e-12)
        assert picks[SOURCES[lists.arms[0, slot]]] == chosen
        placed.append(chosen)
    assert len(set(placed)) == len(placed)


def test_propensities_are_the_frequencies_of_many_lists() -> None:
    rng = np.random.default_rng(5)
    ranks, scores = random_ranks(rng), rng.standard_normal(K).astype(np.float32)
    lists = [fill(ranks, scores, seed) for seed in range(20_000)]
    first = Counter(int(one.places[0, 0]) for one in lists)
    for one in lists[:50]:
        item = int(one.places[0, 0])
        share = first[item] / len(lists)
        deviation = np.sqrt(share * (1 - share) / len(lists))
        assert abs(share - one.propensity[0, 0]) < 5 * deviation + 1e-12


def test_an_arm_with_nothing_left_gives_what_the_ranker_would() -> None:
    ranks = np.zeros((K, N_RETRIEVERS), np.int64)
    ranks[7, REPEAT] = 1
    scores = -np.arange(K, dtype=np.float32)
    only_repeat = np.array([0.0, 0, 0, 1.0, 0])
    lists = fill(ranks, scores, 3, only_repeat)
    assert lists.places[0].tolist() == [7, 0, 1, 2, 3, 4]
    assert [SOURCES[arm] for arm in lists.arms[0]] == ["repeat"] + ["ranker"] * 5
    assert lists.propensity[0].tolist() == [1.0] * 6


@pytest.mark.parametrize("arm", ["popular", "neighbours"])
def test_an_arm_of_two_sources_takes_their_items_by_turns(arm: str) -> None:
    first, second = BY_TURNS[arm][:2]
    ranks = np.zeros((K, N_RETRIEVERS), np.int64)
    ranks[[1, 2, 3], first] = [1, 2, 3]
    ranks[[8, 9, 2], second] = [1, 2, 3]
    lists = fill(ranks, np.zeros(K, np.float32), 3, np.array([float(name == arm) for name in SOURCES]), 5)
    assert lists.places[0].tolist() == [1, 8, 2, 9, 3]


def test_neighbours_take_what_content_brings_at_the_third_turn() -> None:
    ranks = np.zeros((K, N_RETRIEVERS), np.int64)
    ranks[[1, 2], NEIGHBOURS] = [1, 2]
    ranks[[8, 9], SESSIONS] = [1, 2]
    ranks[[5, 6, 7], CONTENT] = [1, 2, 3]
    lists = fill(ranks, np.zeros(K, np.float32), 3, np.array([0.0, 0, 1.0, 0, 0]), 7)
    assert lists.places[0].tolist() == [1, 8, 5, 2, 9, 6, 7]


def test_every_arm_is_drawn_as_often_as_it_should_be() -> None:
    draws = np.array(
        [
            [uniform(np.uint64(list_seed(f"default/u{n}", "0" * 32, 1)), slot) for slot in range(1, 11)]
            for n in range(2_000)
        ]
    )
    assert abs(draws.mean() - 0.5) < 0.01
    shares = np.histogram(draws, np.concatenate([[0.0], np.cumsum(P)]))[0] / draws.size
    np.testing.assert_allclose(shares, P, atol=0.01)
    assert abs(np.corrcoef(draws[:, :-1].ravel(), draws[:, 1:].ravel())[0, 1]) < 0.03


def test_random_numbers_are_those_of_splitmix64() -> None:
    # The generator's published first outputs for seed 1234567.
    for counter, wanted in enumerate((6457827717110365317, 3203168211198807973, 9817491932198370423), 1):
        assert uniform(np.uint64(1234567), counter) == (wanted >> 11) * 2.0**-53


def test_the_seed_depends_on_user_version_and_epoch() -> None:
    seeds = {
        list_seed(key, version, epoch)
        for key in ("default/u1", "default/u2", "other/u1")
        for version in ("0" * 32, "1" * 32)
        for epoch in (1, 2)
    }
    assert len(seeds) == 12


def test_a_user_with_own_arms_plays_them_and_another_the_prior() -> None:
    alpha, beta = np.array([10, 9, 1, 1, 1], "<f4"), np.array([90, 20, 49, 49, 49], "<f4")
    own = toy_state([1])._replace(arm_alpha=alpha.tobytes(), arm_beta=beta.tobytes())
    states = decode_states(
        [
            Snapshot("k", "t", "u", "v", 0, 1, state.encode())
            for state in (toy_state([1]), own, toy_state([1]))
        ]
    )
    p = play_probabilities(states, 0.01)
    prior = arm_probabilities(np.array(PRIOR_ALPHA), np.array(PRIOR_BETA), 0.01)
    np.testing.assert_allclose(p[0], prior, atol=1e-9)
    np.testing.assert_array_equal(p[0], p[2])
    np.testing.assert_allclose(
        p[1], arm_probabilities(alpha.astype(float), beta.astype(float), 0.01), atol=1e-9
    )
    assert p[1, 1] > p[0, 1]
    assert (p >= 0.01).all()
    assert p.sum(axis=1).tolist() == [1.0, 1.0, 1.0]
