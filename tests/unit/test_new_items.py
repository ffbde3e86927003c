"""The share of slots for new items: who gets one, which, and with what probability."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from test_exploration import K, P, candidates_of, random_ranks

from udfs.ranking.exploration import NEW_ITEM, Lists, fill_slots
from udfs.ranking.new_items import NO_ROW, NewItems, draw_new_item

N, SIZE, SHARE = 40, 6, 0.1
NEW_ROWS = np.array([2, 5, 20, 21, 22, 23, 30, 39], np.int32)
"""Finalists are rows 0 to 11: two of the new ones are among them."""
BOUGHT = (21, 20, 3)
ELIGIBLE = {22, 23, 30, 39}


def new_items(share: float = SHARE, bought: tuple[int, ...] = BOUGHT) -> NewItems:
    place = np.full(N, NO_ROW, np.int32)
    place[NEW_ROWS] = np.arange(len(NEW_ROWS))
    rows = np.full((1, 64), -1, np.int32)
    rows[0, : len(bought)] = bought
    seconds = np.full((1, 64), 1_000, np.uint32)
    return NewItems(share, NEW_ROWS, place, rows, seconds, np.array([1_060_000], np.int64), 86_400_000)


def fill(seed: int, new: NewItems | None) -> Lists:
    rng = np.random.default_rng(5)
    found, finalists = candidates_of(random_ranks(rng))
    scores = rng.standard_normal(K).astype(np.float32)
    categories = np.arange(1, N + 1, dtype=np.uint32)
    seeds = np.array([seed], np.uint64)
    return fill_slots(scores, categories, found, finalists, P[None], seeds, 0.0, SIZE, new)


def test_without_a_share_lists_are_what_they_were() -> None:
    for seed in range(50):
        for one, other in zip(fill(seed, None), fill(seed, new_items(0.0)), strict=True):
            np.testing.assert_array_equal(one, other)


def test_at_most_one_new_item_a_list_none_that_was_bought_and_each_as_often_as_any_other() -> None:
    lists = [fill(seed, new_items()) for seed in range(6_000)]
    rows = [int(one.new_rows[0]) for one in lists]
    found = Counter(row for row in rows if row != NO_ROW)
    assert set(found) == ELIGIBLE
    placed = sum(found.values()) / len(lists)
    assert placed == pytest.approx(1.0 - (1.0 - SHARE) ** SIZE, abs=0.02)
    assert all(found[row] == pytest.approx(sum(found.values()) / 4, rel=0.12) for row in ELIGIBLE)
    assert all(
        (one.arms[0] == NEW_ITEM).sum() == (row != NO_ROW) for one, row in zip(lists, rows, strict=True)
    )


def test_the_propensity_is_the_frequency_of_the_item_in_its_slot_given_the_slots_before() -> None:
    first: Counter[int] = Counter()
    said: dict[int, float] = {}
    lists = 20_000
    for seed in range(lists):
        one = fill(seed, new_items())
        item = int(one.new_rows[0]) if one.places[0, 0] < 0 else int(one.places[0, 0])
        first[item] += 1
        assert said.setdefault(item, float(one.propensity[0, 0])) == one.propensity[0, 0]
    assert sum(said.values()) == pytest.approx(1.0), "all that may stand there"
    assert said[22] == SHARE / len(ELIGIBLE)
    for item, p in said.items():
        assert abs(first[item] / lists - p) < 5 * np.sqrt(p * (1 - p) / lists)


def test_once_a_list_has_its_new_item_the_arms_have_all_of_the_slots() -> None:
    one = next(one for one in (fill(seed, new_items()) for seed in range(99)) if one.arms[0, 0] == NEW_ITEM)
    rest = fill(0, None)
    assert one.propensity[0, 1] in {fill(seed, None).propensity[0, 0] for seed in range(200)}
    assert one.propensity[0, 1] > 0 and rest.new_rows[0] == NO_ROW


def test_a_new_item_stands_in_the_list_with_its_row_and_the_least_score() -> None:
    _, finalists = candidates_of(random_ranks(np.random.default_rng(5)))
    scores = np.arange(K, 0, -1).astype(np.float32)[None]
    one = next(one for one in (fill(seed, new_items()) for seed in range(99)) if one.new_rows[0] >= 0)
    slot = int(np.flatnonzero(one.places[0] < 0)[0])
    rows, found = one.rows(finalists), one.scores(scores)
    assert rows[0, slot] == one.new_rows[0] and len(set(rows[0].tolist())) == SIZE
    assert found[0, slot] == np.delete(found[0], slot).min()


@pytest.mark.parametrize("left_out", [(), (0,), (3,), (0, 1), (6, 7), (0, 2, 4, 6), tuple(range(8))])
def test_the_draw_goes_evenly_through_what_is_left(left_out: tuple[int, ...]) -> None:
    new = new_items(bought=tuple(int(NEW_ROWS[place]) for place in left_out))
    wanted = [int(NEW_ROWS[place]) for place in range(8) if place not in left_out]
    scratch = np.zeros(80, np.int32)
    none = np.zeros(0, np.int32)
    for k in range(24):
        row, eligible = draw_new_item(new, 0, none, 0, (k + 0.5) / 24, scratch)
        assert eligible == len(wanted)
        assert row == (wanted[int((k + 0.5) / 24 * len(wanted))] if wanted else NO_ROW)
