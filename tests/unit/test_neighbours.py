"""Co-occurrence: the kernel equals every pair counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from learning_examples import DAY_MS, random_table, table

from model_export.neighbours import NeighbourSettings, fit_neighbours, reference_neighbours


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "settings",
    [
        NeighbourSettings(per_item=5),
        NeighbourSettings(window=3, across=0.5, half_life_days=2.0),
        NeighbourSettings(max_events=7, shrink=0.0),
    ],
)
def test_the_kernel_equals_counting_every_pair(seed: int, settings: NeighbourSettings) -> None:
    data = random_table(seed)
    found = fit_neighbours(data, settings)
    for row, wanted in enumerate(reference_neighbours(data, settings)):
        got = found.of(row)
        np.testing.assert_allclose([score for _, score in got], [score for _, score in wanted], rtol=1e-5)
        exact = dict(wanted)
        last = wanted[-1][1] if wanted else 0.0
        for item, score in got:  # equal scores at the end of a list may be cut differently after rounding
            assert exact.get(item, last) == pytest.approx(score, rel=1e-5)


def test_items_of_one_basket_are_neighbours_and_strangers_are_not() -> None:
    found = fit_neighbours(table([(0, 0, 0), (0, 1, 1), (1, 2, 2), (1, 3, 3)]))
    assert [item for item, _ in found.of(0)] == [1]
    assert [item for item, _ in found.of(3)] == [2]


def test_a_basket_binds_more_than_a_later_one_and_a_near_one_more_than_a_far_one() -> None:
    rows = [(0, 0, 0), (0, 1, 1), (0, 2, 5 * DAY_MS), (0, 3, 90 * DAY_MS)]
    assert [item for item, _ in fit_neighbours(table(rows)).of(0)] == [1, 2, 3]


def test_a_heavy_users_old_events_do_not_count() -> None:
    rows = [(0, 0, 0), (0, 1, 1), *((0, 2 + k % 2, 10 * DAY_MS + k) for k in range(20))]
    capped = fit_neighbours(table(rows), NeighbourSettings(max_events=20))
    assert capped.of(0) == []
    assert {item for item, _ in fit_neighbours(table(rows)).of(0)} >= {1}


def test_gaps_beyond_any_half_life_add_nothing_and_break_nothing() -> None:
    rows = [(0, k % 4, k * 40_000 * DAY_MS) for k in range(12)]
    found = fit_neighbours(table(rows), NeighbourSettings(half_life_days=1.0))
    assert len(found.rows) == 0


def test_lists_are_cut_descend_and_never_hold_the_item_itself() -> None:
    found = fit_neighbours(random_table(9), NeighbourSettings(per_item=4))
    assert np.diff(found.offsets).max() == 4
    for row in range(len(found.offsets) - 1):
        scores = [score for _, score in found.of(row)]
        assert scores == sorted(scores, reverse=True)
        assert row not in [item for item, _ in found.of(row)]
