"""Metrics and baselines, computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from learning_examples import DAY_MS, table

from model_export.baselines import Baselines
from model_export.list_metrics import ListMetrics, list_metrics, top_rows

CUT = 100 * DAY_MS


def test_metrics_of_one_list_are_those_by_hand() -> None:
    precision, recall, hit, ndcg = list_metrics([7, 1, 2, 9], {1, 9, 5})
    assert (precision, recall, hit) == (0.2, 2 / 3, 1.0)
    best = 1 + 1 / math.log2(3) + 1 / 2
    assert ndcg == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / best)


def test_only_the_first_ten_count_and_a_perfect_list_scores_one() -> None:
    assert list_metrics(list(range(20)), {15}) == (0.0, 0.0, 0.0, 0.0)
    assert list_metrics(list(range(10)), set(range(40))) == (1.0, 0.25, 1.0, pytest.approx(1.0))


def test_means_leave_out_lists_that_want_nothing_and_carry_their_errors() -> None:
    found = ListMetrics.of([([1], {1}), ([1], {2}), ([1], set())]).to_dict()
    assert (found["lists"], found["hit_rate"], found["hit_rate_error"]) == (2, 0.5, 0.5)
    assert ListMetrics.of([]).to_dict()["ndcg"] is None


def test_equal_scores_are_listed_by_row() -> None:
    assert top_rows(np.array([1.0, 3.0, 1.0, 3.0]), 3) == [1, 3, 0]


def test_the_personal_baseline_prefers_what_is_frequent_and_recent_then_what_is_popular() -> None:
    rows = [
        (0, 0, CUT - 90 * DAY_MS),  # two half-lives: .25
        (0, 1, CUT - 45 * DAY_MS),  # .5
        (0, 0, CUT - 45 * DAY_MS + 1),  # .75 in all
        (1, 2, CUT - 2 * DAY_MS),
        (2, 2, CUT - DAY_MS),
        (2, 3, CUT - DAY_MS + 1),
    ]
    baselines = Baselines.fit(table(rows, n_items=5), CUT)
    assert baselines.popular.tolist() == [0.0, 0.0, 1.0, 0.5, 0.0]
    popular, personal = baselines.lists(0)
    assert popular == [2, 3, 0, 1, 4]
    assert personal == [0, 1, 2, 3, 4]
    assert baselines.personal(0)[:2] == pytest.approx([0.75, 0.5])
    assert baselines.own(0) == {0, 1}
    assert baselines.own(9) == set()
    assert baselines.lists(9)[1] == popular
