"""The ranker that learns while it serves: features and gradients equal plain ones, steps small, the gate holds."""

from __future__ import annotations

import numpy as np
import pytest

from udfs.neighbours.scan_arrays import SOURCES
from udfs.neighbours.session_index import SessionIndex, as_queries
from udfs.online.candidate_features import FEATURES, N_FEATURES, write_candidate_features
from udfs.online.fast_logs import to_logs
from udfs.online.item_lift import ItemLift
from udfs.online.ranker_learning import (
    Gradient,
    LearningSettings,
    Lists,
    WeightLearner,
    click_probabilities,
    gradient,
    ranks_of,
)
from udfs.online.ranker_weights import RankerWeights, WeightsError
from udfs.online.reference import plain_features
from udfs.online.session_ranker import RANKER_FEATURES, SessionRanker, SessionRankerSettings
from udfs.online.still_ranker import StillRanker

NAMES = ("a", "b", "c")


def random_lists(seed: int, lists: int = 5, candidates: int = 4) -> Lists:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(lists, candidates, len(NAMES))).astype(np.float32)
    counts = rng.integers(1, candidates + 1, lists).astype(np.int32)
    places = np.array([int(rng.integers(-1, count)) for count in counts], np.int32)
    return Lists(features, counts, places)


def random_weights(seed: int, hidden: int = 3) -> RankerWeights:
    fresh = RankerWeights.fresh(NAMES, hidden, seed)
    values = np.random.default_rng(seed).normal(size=len(fresh.values)).astype(np.float32)
    return RankerWeights(0, values, fresh.features, hidden, fresh.fingerprint)


def loss(weights: RankerWeights, lists: Lists) -> float:
    """The clicks' cross entropy, list by list, in float64."""
    linear, inner, outer = (part.astype(np.float64) for part in weights.parts())
    total = 0.0
    for features, count, place in zip(*lists, strict=True):
        if place >= 0:
            rows = features[:count].astype(np.float64)
            scores = rows @ linear + np.maximum(rows @ inner, 0) @ outer
            total += float(np.log(np.exp(scores).sum()) - scores[place])
    return total


@pytest.mark.parametrize("seed", range(4))
def test_features_equal_the_plain_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    index = SessionIndex(items=4)
    for step in range(300):
        index.observe(step // 4 + int(rng.integers(0, 3)), int(rng.zipf(1.5)) % 30)
    sessions = [list(map(int, rng.integers(0, 30, size))) for size in (1, 2, 5, 12, 3)]
    sessions[1] = [4, 4]
    queries = as_queries(sessions)
    found = index.query(queries, limit=9)
    out = np.full((len(sessions), 9, N_FEATURES + 1), np.nan, np.float32)
    write_candidate_features(found, queries, out)
    for q, session in enumerate(sessions):
        n = found.counts[q]
        scores = [dict(zip(SOURCES, map(float, row), strict=True)) for row in found.scores[q, :n]]
        wanted = plain_features(session, found.rows[q, :n].tolist(), scores)
        for name, got, want in zip(FEATURES, out[q, :n].T, np.array(wanted).T, strict=False):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5, err_msg=name)
        assert np.isnan(out[q, n:]).all() and np.isnan(out[q, :, N_FEATURES]).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_is_that_of_the_cross_entropy(seed: int) -> None:
    lists, weights = random_lists(seed), random_weights(seed)
    found = gradient(weights, lists)
    for at in range(len(weights.values)):
        ends = []
        for side in (-1e-3, 1e-3):
            values = weights.values.copy()
            values[at] += side
            ends.append(loss(RankerWeights(0, values, len(NAMES), 3, weights.fingerprint), lists))
        assert found.values[at] == pytest.approx((ends[1] - ends[0]) / 2e-3, abs=5e-3)


def test_gradients_of_two_workers_add_up_to_that_of_all_lists() -> None:
    lists, weights = random_lists(7, lists=8), random_weights(7)
    halves = [Lists(*(array[part] for array in lists)) for part in (slice(0, 3), slice(3, 8))]
    whole, both = gradient(weights, lists), gradient(weights, halves[0]) + gradient(weights, halves[1])
    np.testing.assert_allclose(whole.values, both.values, rtol=1e-5, atol=1e-6)
    assert whole.lists == both.lists and whole.gain == pytest.approx(both.gain)


def test_a_list_whose_click_was_no_candidate_teaches_nothing() -> None:
    lists = random_lists(1)._replace(places=np.full(5, -1, np.int32))
    found = gradient(random_weights(1), lists)
    assert not found.values.any() and (found.lists, found.gain) == (0, 0.0)
    learner = WeightLearner(random_weights(1))
    assert learner.apply(found).version == 0


def test_ranks_count_better_candidates_and_earlier_equals() -> None:
    scores = np.array([[3, 1, 3, 9], [1, 1, 1, 0]], np.float32)
    assert ranks_of(scores, np.array([3, 4]), np.array([2, 0])).tolist() == [2, 1]


def test_probabilities_stay_inside_the_list() -> None:
    found = click_probabilities(np.zeros((2, 3), np.float32), np.array([2, 0], np.int32))
    np.testing.assert_allclose(found, [[0.5, 0.5, 0], [0, 0, 0]])


def test_the_learner_learns_what_is_clicked() -> None:
    learner = WeightLearner(RankerWeights.fresh(NAMES, 4))
    rng = np.random.default_rng(0)
    for _ in range(150):
        features = rng.normal(size=(16, 5, 3)).astype(np.float32)
        places = features[:, :, 1].argmax(axis=1).astype(np.int32)
        learner.apply(gradient(learner.weights, Lists(features, np.full(16, 5, np.int32), places)))
    features = rng.normal(size=(200, 5, 3)).astype(np.float32)
    best = learner.weights.scores(features).argmax(axis=1)
    assert (best == features[:, :, 1].argmax(axis=1)).mean() > 0.85


def test_a_gradient_that_is_not_finite_is_refused_and_a_huge_one_moves_little() -> None:
    learner = WeightLearner(random_weights(2))
    before = learner.weights.values.copy()
    size = len(before)
    learner.apply(Gradient(np.full(size, np.nan, np.float32), 1, 1.0, 1.0))
    assert learner.refused == 1 and (learner.weights.values == before).all()
    learner.apply(Gradient(np.full(size, 1e15, np.float32), 1, 1.0, 1.0))
    assert 0 < np.abs(learner.weights.values - before).max() <= 10 * learner.settings.learning_rate


def test_the_gate_takes_worse_weights_back_and_then_learns_on() -> None:
    learner = WeightLearner(random_weights(3), LearningSettings(gate_lists=10))
    push = np.ones_like(learner.weights.values)

    def window(gain: float) -> None:
        learner.apply(Gradient(push, 10, gain, 5.0))

    window(8.0)
    good = learner.weights.values.copy()
    window(7.5)  # a little worse is noise
    assert learner.fallbacks == 0
    good, version = learner.weights.values.copy(), learner.weights.version
    window(4.0)
    assert learner.fallbacks == 1
    np.testing.assert_array_equal(learner.weights.values, good)
    assert learner.weights.version > version + 1
    window(4.0)  # the good weights do no better now: it is the clicks that changed
    assert learner.fallbacks == 1 and (learner.weights.values != good).any()


def test_the_gate_does_not_mind_harder_sessions() -> None:
    learner = WeightLearner(random_weights(3), LearningSettings(gate_lists=10))
    push = np.ones_like(learner.weights.values)
    learner.apply(Gradient(push, 10, 8.0, 5.0))
    learner.apply(Gradient(push, 10, 1.6, 1.0))
    assert learner.fallbacks == 0


def test_weights_come_back_from_their_bytes() -> None:
    weights = random_weights(4)
    back = RankerWeights.decode(weights.encode(), NAMES)
    np.testing.assert_array_equal(back.values, weights.values)
    assert (back.version, back.hidden, back.fingerprint) == (0, 3, weights.fingerprint)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: data[:10], "at least"),
        (lambda data: b"XXXX" + data[4:], "TRWT"),
        (lambda data: data[:-4], "bytes of values"),
        (lambda data: data[:-4] + b"\x00\x00\xc0\x7f", "not finite"),
    ],
)
def test_bytes_that_are_no_weights_are_refused(spoil: object, says: str) -> None:
    data = spoil(random_weights(4).encode())  # type: ignore[operator]
    with pytest.raises(WeightsError, match=says):
        RankerWeights.decode(data, NAMES)


def test_weights_of_another_feature_list_are_refused() -> None:
    with pytest.raises(WeightsError, match="another list"):
        RankerWeights.decode(random_weights(4).encode(), ("b", "a", "c"))


def test_lift_compares_clicks_with_what_was_expected() -> None:
    lift = ItemLift(3, prior=1.0, half_life=1e9)
    rows, counts = np.array([[0, 1]], np.int32), np.array([2], np.int32)
    for _ in range(3):
        lift.learn(rows, counts, np.array([[0.75, 0.25]], np.float32), np.array([1], np.int32))
    lift.learn(rows, counts, np.array([[0.75, 0.25]], np.float32), np.array([-1], np.int32))
    out = np.zeros((1, 2, 2), np.float32)
    lift.features(rows, counts, out)
    np.testing.assert_allclose(out[0, :, 0], np.log([1 / 3.25, 4 / 1.75]), rtol=1e-5)
    np.testing.assert_allclose(out[0, :, 1], np.log1p([2.25, 0.75]) / 4, rtol=1e-5)


def test_old_clicks_count_half_after_the_half_life() -> None:
    lift = ItemLift(1, prior=1.0, half_life=4.0)
    rows, counts, certain = np.zeros((1, 1), np.int32), np.ones(1, np.int32), np.ones((1, 1), np.float32)
    lift.learn(rows, counts, 0 * certain, np.zeros(1, np.int32))
    for _ in range(400):  # far enough that the growing unit is taken back on the way
        lift.learn(rows, counts, certain, np.full(1, -1, np.int32))
    out = np.zeros((1, 1, 2), np.float32)
    lift.features(rows, counts, out)
    assert out[0, 0, 0] == pytest.approx(0.0, abs=1e-6)
    lift.learn(rows, counts, 0 * certain, np.zeros(1, np.int32))
    for _ in range(4):
        lift.learn(rows, counts, certain, np.full(1, -1, np.int32))
    lift.features(rows, counts, out)
    assert out[0, 0, 0] == pytest.approx(np.log(1.5), rel=1e-5)


def shop(seed: int, sessions: int) -> tuple[list[list[int]], list[int]]:
    """Sessions in which 2i is followed by 2i+1; popular item 99 stands in most, never last."""
    rng = np.random.default_rng(seed)
    so_far, clicked = [], []
    for _ in range(sessions):
        item = 2 * int(rng.integers(0, 20))
        so_far += [[], [99], [99, item]]
        clicked += [99, item, item + 1]
    return so_far, clicked


def test_it_learns_what_comes_next_and_predicting_alone_learns_nothing() -> None:
    ranker = SessionRanker(100, SessionRankerSettings(candidates=30), seed=1)
    so_far, clicked = shop(0, 600)
    keys = [number // 3 for number in range(len(clicked))]
    ranker.learn(as_queries(so_far, keys), np.array(clicked, np.int32))
    asked = as_queries([[99, item] for item in range(0, 40, 2)])
    before = ranker.learner.weights.encode(), ranker.embeddings.vectors.tobytes(), ranker.index.clicks
    found = ranker.predict(asked, limit=3)
    after = ranker.learner.weights.encode(), ranker.embeddings.vectors.tobytes(), ranker.index.clicks
    assert before == after
    assert (found[:, 0] == np.arange(1, 41, 2)).mean() > 0.9


def test_work_space_that_is_used_again_leaves_nothing_of_earlier_lists() -> None:
    so_far, clicked = shop(0, 100)
    ranker = SessionRanker(100, SessionRankerSettings(candidates=30), seed=1)
    ranker.learn(as_queries(so_far, [at // 3 for at in range(len(clicked))]), np.array(clicked, np.int32))
    few = np.zeros(100, bool)
    few[[1, 99]] = True
    long, short = as_queries([[99, item] for item in range(0, 40, 2)]), as_queries([[99, 0], [2]])
    alone = ranker.rank(short, ranker.learner.weights, few)
    alone = alone.found, *(array.copy() for array in (*alone.candidates, alone.features, alone.scores))
    ranker.rank(long, ranker.learner.weights)
    after = ranker.rank(short, ranker.learner.weights, few)
    for left, right in zip(
        alone, (after.found, *after.candidates, after.features, after.scores), strict=True
    ):
        np.testing.assert_array_equal(left, right)
    assert (after.candidates.rows[:, 2:] == -1).all() and not after.features[:, 2:].any()


def test_logarithms_equal_the_librarys() -> None:
    values = np.exp(np.random.default_rng(0).uniform(-20, 22, 5_001)).astype(np.float32)
    values[:3] = 1.0, 0.5, np.nextafter(np.float32(1.0), np.float32(0.0))
    found, wanted = values.copy(), np.log(values.astype(np.float64))
    to_logs(found)
    assert found[0] == 0.0
    np.testing.assert_allclose(found, wanted, rtol=2e-7, atol=1e-7)


def test_equal_clicks_give_equal_lists() -> None:
    so_far, clicked = shop(3, 120)
    found = [
        SessionRanker(8, seed=5).predict_and_learn(as_queries(so_far), np.array(clicked, np.int32))
        for _ in range(2)
    ]
    np.testing.assert_array_equal(found[0], found[1])


def test_only_allowed_items_are_named() -> None:
    so_far, clicked = shop(4, 60)
    allowed = np.arange(100) % 2 == 0
    found = SessionRanker(100).predict_and_learn(as_queries(so_far), np.array(clicked, np.int32), allowed)
    assert len(found[found >= 0]) and (found[found >= 0] % 2 == 0).all()


def test_features_have_names_and_no_two_are_equal() -> None:
    assert len(set(RANKER_FEATURES)) == len(RANKER_FEATURES) == 44


def test_what_noted_lists_teach_waits_until_it_is_published() -> None:
    ranker = SessionRanker(100, SessionRankerSettings(candidates=30), seed=1)
    so_far, clicked = shop(0, 300)
    ranker.learn(as_queries(so_far, [at // 3 for at in range(len(clicked))]), np.array(clicked, np.int32))
    wanted = [[99, item] for item in range(0, 40, 2)]
    asked, answers = as_queries(wanted * 40), np.array([pair[1] - 2 for pair in wanted] * 40, np.int32)
    known = ranker.learner.weights.encode(), ranker.index.clicks, ranker.embeddings.vectors.tobytes()
    still = StillRanker(ranker)
    first = still.predict_and_note(asked, answers, limit=3)
    np.testing.assert_array_equal(first, ranker.predict(asked, limit=3))
    np.testing.assert_array_equal(still.predict_and_note(asked, answers, limit=3), first)
    still.publish()
    later = still.predict_and_note(asked, answers, limit=3)
    assert (later != first).any()
    assert known == (
        ranker.learner.weights.encode(), ranker.index.clicks, ranker.embeddings.vectors.tobytes()
    )  # fmt: skip
