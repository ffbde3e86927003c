"""Popularity, trending and repeats at a cut."""

from __future__ import annotations

import numpy as np
import pytest
from learning_examples import DAY_MS, table

from model_export.popularity import fit_popularity, recent_popularity

CUT = 100 * DAY_MS


def test_popularity_sums_weights_and_trending_halves_them_each_week() -> None:
    data = table([(0, 0, CUT - 14 * DAY_MS), (1, 0, CUT - 7 * DAY_MS), (2, 1, CUT)], weights=[1.0, 3.0, 5.0])
    found = fit_popularity(data, CUT)
    np.testing.assert_allclose(found.popularity, [4.0, 5.0])
    np.testing.assert_allclose(found.trending, [0.25 + 1.5, 5.0], rtol=1e-6)


def test_rebuy_days_is_the_median_gap_of_at_least_three_repeats() -> None:
    rows = [(0, 0, 0), (0, 0, 10 * DAY_MS), (0, 0, 30 * DAY_MS), (0, 0, 60 * DAY_MS), (1, 1, 61 * DAY_MS)]
    found = fit_popularity(table(rows), CUT)
    assert found.rebuy_days[0] == pytest.approx(20.0)
    assert np.isnan(found.rebuy_days[1])
    assert np.isnan(fit_popularity(table(rows[:3]), CUT).rebuy_days[0])


def test_two_lines_of_one_basket_are_no_repeat() -> None:
    twice = fit_popularity(table([(0, 0, 0), (0, 0, 1), (1, 1, 2), (1, 1, DAY_MS)]), CUT)
    # buyers 1 and 1, repeaters 0 and 1, the shop's mean 1/2 weighs five buyers
    np.testing.assert_allclose(twice.repeat_rate, [2.5 / 6, 3.5 / 6], rtol=1e-6)


def test_views_are_no_repeat_purchases() -> None:
    rows = [(0, 0, k * DAY_MS) for k in range(6)]
    assert fit_popularity(table(rows, weights=[1.0] * 6), CUT).repeat_rate[0] == 0.0


def test_recent_popularity_counts_baskets_of_the_last_four_weeks_once() -> None:
    rows = [(0, 0, CUT - 60 * DAY_MS), (0, 1, CUT - DAY_MS), (0, 1, CUT - DAY_MS + 1), (1, 1, CUT - 5)]
    assert recent_popularity(table(rows), CUT).tolist() == [0.0, 2.0]
