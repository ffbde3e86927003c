"""Maximal marginal relevance by category."""

from __future__ import annotations

import numpy as np
import pytest

from udfs.ranking.candidates import no_candidates
from udfs.ranking.diversity import best_marginal, scale_scores
from udfs.ranking.exploration import fill_slots
from udfs.ranking.first_stage import Finalists

ONLY_RANKER = np.array([[1.0, 0, 0, 0, 0]])


def ranked(scores: list[float], categories: list[int], weight: float, size: int) -> list[int]:
    """Places of the list of one user whose every slot is the ranker's."""
    n = len(scores)
    zeros = np.zeros((1, n), np.float32)
    rows = np.arange(n, dtype=np.int32)[None, :]
    count = np.array([n], np.int32)
    lists = fill_slots(
        np.array(scores, np.float32),
        np.array(categories, np.uint32),
        no_candidates(1, n, with_devices=False)._replace(counts=count, rows=rows),
        Finalists(count, rows, rows, zeros),
        ONLY_RANKER,
        np.array([1], np.uint64),
        weight,
        size,
    )
    return lists.places[0, : lists.counts[0]].tolist()


def repetitions(places: list[int], categories: list[int]) -> int:
    return len(places) - len({categories[place] for place in places})


def test_without_weight_the_order_is_that_of_the_scores() -> None:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal(40).tolist()
    assert ranked(scores, [1] * 40, 0.0, 10) == np.argsort(-np.array(scores))[:10].tolist()


def test_a_close_item_of_another_category_overtakes_a_repetition() -> None:
    scores, categories = [1.0, 0.95, 0.9, 0.0], [1, 1, 2, 3]
    assert ranked(scores, categories, 0.0, 3) == [0, 1, 2]
    assert ranked(scores, categories, 0.2, 3) == [0, 2, 1]


def test_more_weight_never_repeats_categories_more_often() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        scores, categories = rng.standard_normal(40).tolist(), rng.integers(1, 6, 40).tolist()
        counts = [
            repetitions(ranked(scores, categories, weight, 5), categories) for weight in (0.0, 0.5, 1.0)
        ]
        assert counts[0] >= counts[2]
        assert counts[2] <= 5 - min(5, len(set(categories)))


def test_items_without_a_category_repeat_nothing() -> None:
    scores = [1.0, 0.9, 0.8, 0.0]
    assert ranked(scores, [0, 0, 0, 7], 0.5, 3) == [0, 1, 2]
    assert ranked(scores, [9, 9, 9, 7], 0.9, 2) == [0, 3]


def test_the_second_repetition_costs_more_than_the_first() -> None:
    relevance = np.array([1.0, 0.9, 0.9])
    taken = np.zeros(3, np.bool_)
    assert best_marginal(relevance, np.array([2, 1, 0]), taken, 3, 4, 0.3) == 2
    assert best_marginal(relevance, np.array([2, 1, 3]), taken, 3, 4, 0.3) == 1


def test_a_taken_item_is_never_taken_again_and_an_empty_rest_says_so() -> None:
    relevance, repeated = np.array([1.0, 0.5]), np.zeros(2, np.int64)
    assert best_marginal(relevance, repeated, np.array([True, False]), 2, 1, 0.1) == 1
    assert best_marginal(relevance, repeated, np.array([True, True]), 2, 2, 0.1) == -1


def test_of_equal_values_the_first_finalist_is_taken() -> None:
    assert ranked([0.5, 0.5, 0.5], [1, 2, 3], 0.15, 3) == [0, 1, 2]


@pytest.mark.parametrize(("scores", "wanted"), [([-2.0, 0.0, 2.0], [0, 0.5, 1]), ([3.0, 3.0], [1, 1])])
def test_scores_are_scaled_to_one(scores: list[float], wanted: list[float]) -> None:
    relevance = np.zeros(len(scores))
    scale_scores(np.array(scores, np.float32), len(scores), relevance)
    assert relevance.tolist() == wanted


def test_a_list_is_as_long_as_there_are_finalists() -> None:
    assert ranked([0.1, 0.2], [1, 1], 0.5, 10) == [1, 0]
