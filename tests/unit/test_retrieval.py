"""Candidates: exact selection, six sources, rules, and the right answer on toy data."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from bundles import DAY_S, NOW_MS, item_id, sessions_of, snapshot, toy_items, toy_state
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.ids import item_hash
from udfs.model.manifest import ModelSettings
from udfs.ranking.candidates import (
    EMBEDDING,
    N_RETRIEVERS,
    NEIGHBOURS,
    POPULAR,
    REPEAT,
    RETRIEVERS,
    SESSIONS,
    TRENDING,
)
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.first_stage import pick_finalists
from udfs.ranking.history import NEIGHBOUR_DECAY
from udfs.ranking.inner_product import BLOCK, best_scores, score_all, score_one
from udfs.ranking.inverted_lists import build_ivf, measure_recall
from udfs.ranking.item_index import ItemIndex
from udfs.ranking.live_sessions import LiveSessions
from udfs.ranking.rank import Prepared, RankSettings, prepare
from udfs.ranking.top_k import order_key, row_of_key, score_of_key, sort_top
from udfs.user_state import UserState

SETTINGS = RankSettings(candidates=100, finalists=40)


@pytest.fixture(scope="module")
def index() -> ItemIndex:
    return ItemIndex.build(toy_items())


def found(
    index: ItemIndex,
    state: UserState | None,
    catalogue: CatalogueView | None = None,
    sessions: LiveSessions | None = None,
) -> Prepared:
    return prepare(index, [snapshot(state)], catalogue or CatalogueView(index), SETTINGS, 7, sessions)


def numbers(index: ItemIndex, prepared: Prepared, source: int | None = None) -> list[int]:
    """Toy numbers of the candidates of a source, best first; of all, in any order."""
    count = prepared.candidates.counts[0]
    rank = prepared.candidates.rank[0, :count]
    rows = prepared.candidates.rows[0, :count]
    if source is not None:
        order = np.argsort(rank[:, source], kind="stable")
        rows = rows[order[rank[order, source] > 0]]
    return [int(index.item_ids[row].removeprefix("item-")) for row in rows]


@given(st.lists(st.integers(0, 2**64 - 1), max_size=600), st.integers(0, 80))
@settings(max_examples=150, deadline=None)
def test_the_top_keys_come_first_and_in_order(values: list[int], k: int) -> None:
    keys = np.array(values, np.uint64)
    sort_top(keys, len(keys), k)
    assert keys[:k].tolist() == sorted(values, reverse=True)[:k]
    assert sorted(keys.tolist()) == sorted(values)


@pytest.mark.parametrize("shape", ["equal", "ascending", "descending", "organ pipe"])
def test_inputs_that_are_bad_for_quicksort_are_sorted_too(shape: str) -> None:
    up = np.arange(4_000, dtype=np.uint64)
    keys = {
        "equal": up * np.uint64(0),
        "ascending": up,
        "descending": up[::-1].copy(),
        "organ pipe": np.concatenate([up[::2], up[1::2][::-1]]),
    }[shape]
    wanted = np.sort(keys)[::-1][:80]
    sort_top(keys, len(keys), 80)
    assert keys[:80].tolist() == wanted.tolist()


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=50))
@settings(max_examples=100, deadline=None)
def test_keys_order_as_score_down_then_row_up(scores: list[float]) -> None:
    keys = [int(order_key(np.float32(score), row)) for row, score in enumerate(scores)]
    wanted = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
    assert [row_of_key(np.uint64(key)) for key in sorted(keys, reverse=True)] == wanted
    assert [score_of_key(np.uint64(key)) for key in keys] == [np.float32(score) for score in scores]


@given(st.integers(0, 2**32 - 1), st.integers(1, 1_500), st.integers(0, 200), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_best_scores_are_those_a_full_sort_finds(seed: int, n: int, k: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    scores = np.full(-(-n // BLOCK) * BLOCK, -np.inf, np.float32)
    scores[:n] = rng.integers(-3, 3, n) if ties else rng.standard_normal(n)
    scores[:n][rng.random(n) < 0.2] = -np.inf
    keys = np.zeros(len(scores) + 1, np.uint64)
    count = best_scores(scores, k, keys)
    wanted = [row for row in np.lexsort((np.arange(len(scores)), -scores)) if scores[row] > -np.inf][:k]
    assert [row_of_key(key) for key in keys[:count]] == wanted


@pytest.mark.parametrize("dimension", [1, 3, 16, 32, 61])
def test_scoring_all_items_equals_scoring_each_bit_for_bit(dimension: int) -> None:
    items = toy_items(700, 4)
    rng = np.random.default_rng(dimension)
    factors = rng.standard_normal((700, dimension)).astype(np.float32)
    columns = ItemIndex.build(dataclasses.replace(items, factors=factors)).columns
    vector = rng.standard_normal(64).astype(np.float32)
    scores = np.zeros(columns.transposed.shape[1], np.float32)
    score_all(vector, columns.transposed, np.zeros_like(scores), scores)
    each = np.array([score_one(vector, factors, row) for row in range(700)], np.float32)
    np.testing.assert_array_equal(scores[:700], each)
    np.testing.assert_allclose(each, factors.astype(np.float64) @ vector[:dimension], rtol=1e-4, atol=1e-5)


def test_even_users_are_given_even_items_by_embedding_and_neighbours(index: ItemIndex) -> None:
    prepared = found(index, toy_state([2, 4, 6, 8, 10, 12]))
    for source in (EMBEDDING, NEIGHBOURS):
        taken = numbers(index, prepared, source)
        assert len(taken) >= 20
        assert all(number % 2 == 0 for number in taken), RETRIEVERS[source]


def test_a_user_with_few_items_is_given_neighbours_of_the_last_one_first(index: ItemIndex) -> None:
    assert numbers(index, found(index, toy_state([101, 3])), NEIGHBOURS)[:3] == [5, 7, 9]


def test_sources_bring_no_more_than_their_shares_and_popular_fills_up(index: ItemIndex) -> None:
    prepared = found(index, toy_state([2, 4, 6, 8, 10, 12]), sessions=sessions_of(range(0, 80, 2)))
    sizes = [len(numbers(index, prepared, source)) for source in range(N_RETRIEVERS)]
    assert sizes[EMBEDDING] == 30
    assert sizes[NEIGHBOURS] == 20
    assert sizes[REPEAT] == 6
    assert sizes[SESSIONS] == 20
    assert sizes[TRENDING] == 10
    assert prepared.candidates.counts[0] == 100
    assert len(set(numbers(index, prepared))) == 100


def test_ranks_count_from_one_without_gaps(index: ItemIndex) -> None:
    prepared = found(
        index, toy_state([2, 4, 6, 8, 10, 12], bought=(40, 50)), sessions=sessions_of([2, 40, 50, 60, 70])
    )
    for source in range(N_RETRIEVERS):
        rank = prepared.candidates.rank[0, :, source]
        assert sorted(rank[rank > 0]) == list(range(1, int((rank > 0).sum()) + 1)), RETRIEVERS[source]


def test_every_candidate_has_the_scores_of_every_source(index: ItemIndex) -> None:
    viewed = [2, 4, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 4]
    prepared = found(index, toy_state(viewed))
    columns, candidates = index.columns, prepared.candidates
    wanted: dict[int, list[float]] = {}
    step = 1.0
    for number in list(dict.fromkeys(reversed(viewed)))[:10]:
        row = index.row(item_hash(item_id(number)))
        for at in range(columns.neighbour_offsets[row], columns.neighbour_offsets[row + 1]):
            wanted.setdefault(int(columns.neighbour_rows[at]), []).append(step * columns.neighbour_scores[at])
        step *= NEIGHBOUR_DECAY
    vector = prepared.states.embedding[0, : columns.factors.shape[1]]
    for slot in range(candidates.counts[0]):
        row = int(candidates.rows[0, slot])
        terms = wanted.get(row, [])
        assert candidates.neighbour_hits[0, slot] == len(terms)
        assert candidates.neighbour_score[0, slot] == pytest.approx(sum(terms), rel=1e-5)
        assert candidates.neighbour_max[0, slot] == pytest.approx(max(terms, default=0.0), rel=1e-5)
        assert candidates.embedding_score[0, slot] == pytest.approx(vector @ columns.factors[row], abs=1e-5)


def test_repeats_are_the_items_the_user_had_and_the_due_ones_score_higher(index: ItemIndex) -> None:
    columns = index.columns
    known = np.flatnonzero(columns.rebuy_days > 20)[:1]
    number = int(index.item_ids[known[0]].removeprefix("item-"))
    due_s = int(columns.rebuy_days[known[0]] * DAY_S)

    def score(age_s: int) -> float:
        prepared = found(index, toy_state([], bought=(number,), bought_age_s=age_s))
        assert numbers(index, prepared, REPEAT) == [number]
        slot = numbers(index, prepared).index(number)
        return float(prepared.candidates.repeat_score[0, slot])

    assert score(due_s) > score(2 * DAY_S)
    assert score(due_s) > score(4 * due_s)


@pytest.mark.parametrize("rule", ["stock", "block", "bought"])
def test_items_that_a_rule_forbids_are_no_candidates_of_any_source(index: ItemIndex, rule: str) -> None:
    viewed = [2, 4, 6, 8, 10, 12]
    sessions = sessions_of([2, 4, 20, 22, 24, 26])
    prepared = found(index, toy_state(viewed), sessions=sessions)
    before = list(dict.fromkeys(numbers(index, prepared, SESSIONS) + numbers(index, prepared)))
    assert len(before) == 100
    catalogue = CatalogueView(index)
    forbidden = before[:64:2]
    state = toy_state(viewed)
    for number in forbidden:
        row = index.row(item_hash(item_id(number)))
        catalogue.in_stock[row] = rule != "stock"
        catalogue.blocked[row] = rule == "block"
        catalogue.allowed[row] = rule == "bought"
    if rule == "bought":
        state = toy_state(viewed, bought=tuple(forbidden), bought_age_s=DAY_S - 1)
    after = numbers(index, found(index, state, catalogue, sessions))
    assert not set(forbidden) & set(after)
    assert len(after) == 100


def test_an_item_bought_exactly_the_interval_ago_may_be_shown_again(index: ItemIndex) -> None:
    assert 40 in numbers(index, found(index, toy_state([], bought=(40,), bought_age_s=DAY_S)))
    assert 40 not in numbers(index, found(index, toy_state([], bought=(40,), bought_age_s=DAY_S - 1)))


@pytest.mark.parametrize("state", [None, toy_state([]), toy_state([900, 901], bought=(902,), seen=(903,))])
def test_a_user_of_whom_nothing_is_known_gets_trending_and_popular_items(
    index: ItemIndex, state: UserState | None
) -> None:
    prepared = found(index, state)
    ids = np.array(index.item_ids)
    popular = [int(name.removeprefix("item-")) for name in ids[index.columns.popular_order[:50]]]
    assert prepared.candidates.counts[0] == 100
    assert numbers(index, prepared, POPULAR)[:50] == popular
    assert len(numbers(index, prepared, TRENDING)) == 10
    assert not numbers(index, prepared, EMBEDDING) + numbers(index, prepared, NEIGHBOURS)


def test_a_catalogue_smaller_than_the_candidates_is_used_up() -> None:
    small = ItemIndex.build(toy_items(12))
    assert sorted(numbers(small, found(small, toy_state([2, 4])))) == list(range(12))


def test_one_user_leaves_nothing_behind_for_the_next(index: ItemIndex) -> None:
    some = [
        snapshot(toy_state([2, 4, 6, 8, 10], bought=(20, 22), bought_age_s=60)),
        snapshot(None),
        snapshot(toy_state([3, 5, 7])),
        snapshot(toy_state([20, 22, 2, 4, 6])),
    ]
    catalogue = CatalogueView(index)
    together = prepare(index, some, catalogue, SETTINGS, 7)
    for place, one in enumerate(some):
        alone = prepare(index, [one], catalogue, SETTINGS, 7)
        for name, got, wanted in zip(
            together.candidates._fields, together.candidates, alone.candidates, strict=True
        ):
            np.testing.assert_array_equal(got[place], wanted[0], err_msg=name)


def test_the_first_stage_keeps_the_best_of_the_blend_and_some_of_every_source(index: ItemIndex) -> None:
    # A user of two tastes: sources disagree, and the blend alone would drop one of them.
    prepared = found(index, toy_state([2, 4, 6, 8, 10, 12, 99], bought=(33, 35, 37, 39)))
    candidates, finalists = prepared.candidates, prepared.finalists
    kept = set(finalists.slots[0].tolist())
    assert len(kept) == 40
    assert (np.diff(finalists.score[0]) <= 0).all()
    for source in range(5):
        rank = candidates.rank[0, :, source]
        assert {int(slot) for slot in np.flatnonzero((rank > 0) & (rank <= 4))} <= kept, RETRIEVERS[source]
    everything = pick_finalists(index, candidates, 100)
    assert everything.counts[0] == 100
    best = everything.slots[0, :20].tolist()
    assert set(best) <= kept


@pytest.mark.parametrize("places", [0, 5, 25, 40])
def test_places_are_kept_for_what_the_user_has_not_had(places: int) -> None:
    items = toy_items()
    had = toy_state(list(range(0, 60, 2)), bought=tuple(range(1, 80, 2)))
    plain = ModelSettings(share_repeat=0.3, share_embedding=0.1, weight_repeat=4.0)
    before = found(ItemIndex.build(items, plain), had)
    after = found(ItemIndex.build(items, dataclasses.replace(plain, reserve_new=places)), had)
    candidates = after.candidates
    for one, other in zip(before.candidates, candidates, strict=True):
        np.testing.assert_array_equal(one, other)  # only who is a finalist changes
    count = int(candidates.counts[0])
    is_new = candidates.repeat_score[0, :count] == 0.0
    kept = before.finalists.slots[0].tolist()
    assert 5 < is_new[kept].sum() < 25
    # Slowly: the last that the user had give way to the best that the user has not had.
    score = dict(zip(before.finalists.slots[0].tolist(), before.finalists.score[0].tolist(), strict=True))
    everything = pick_finalists(ItemIndex.build(items, plain), candidates, count)
    score |= dict(zip(everything.slots[0].tolist(), everything.score[0].tolist(), strict=True))
    reserved = (candidates.rank[0, :count] > 0) & (candidates.rank[0, :count] <= 4)
    order = sorted(kept, key=lambda slot: (not reserved[slot].any(), -score[slot], slot))
    waiting = sorted(
        (slot for slot in range(count) if slot not in kept and is_new[slot]),
        key=lambda slot: (-score[slot], slot),
    )
    for slot in reversed(order):
        if is_new[order].sum() < places and waiting and not is_new[slot]:
            order[order.index(slot)] = waiting.pop(0)
    assert set(after.finalists.slots[0].tolist()) == set(order)
    assert is_new[after.finalists.slots[0]].sum() == max(places, is_new[kept].sum())
    assert (np.diff(after.finalists.score[0]) <= 0).all()


def test_the_blend_follows_the_weights_of_the_manifest() -> None:
    alone = {f"weight_{name}": 0.0 for name in RETRIEVERS}
    for name, column in (
        ("embedding", "embedding_score"),
        ("neighbours", "neighbour_score"),
        ("repeat", "repeat_score"),
    ):
        index = ItemIndex.build(toy_items(), ModelSettings(**alone | {f"weight_{name}": 1.0}))
        prepared = found(index, toy_state([2, 4, 6, 8, 10, 12, 99]))
        scores = getattr(prepared.candidates, column)[0]
        assert prepared.finalists.slots[0, 0] == np.argmax(scores), name


def test_inverted_lists_find_most_of_what_scoring_all_items_finds(tmp_path: Path) -> None:
    items = toy_items(3_000, 16)
    lists, recall = build_ivf(items.factors, nlist=40, nprobe=20)
    assert 0.8 < recall <= 1.0
    exact = found(ItemIndex.build(items), toy_state([2, 4, 6, 8, 10, 12]))
    index = ItemIndex.build(items, ModelSettings(nprobe=20), ivf=lists)
    assert index.columns.transposed.shape[1] == 0
    near = found(index, toy_state([2, 4, 6, 8, 10, 12]))
    both = set(numbers(index, exact, EMBEDDING)) & set(numbers(index, near, EMBEDDING))
    assert len(both) >= 24
    scores = dict(zip(exact.candidates.rows[0], exact.candidates.embedding_score[0], strict=True))
    for row, score in zip(near.candidates.rows[0], near.candidates.embedding_score[0], strict=True):
        assert scores.get(row, score) == score, "the same kernel scores both, bit for bit"


def test_searching_every_list_finds_what_scoring_all_items_finds() -> None:
    items = toy_items(700)
    lists, recall = build_ivf(items.factors, nlist=30, nprobe=30)
    assert recall == 1.0
    index = ItemIndex.build(items, ModelSettings(nprobe=30), ivf=lists)
    catalogue, exact = CatalogueView(index), ItemIndex.build(items)
    viewed = [2, 4, 6, 8, 10, 12]
    best = numbers(exact, found(exact, toy_state(viewed)), EMBEDDING)
    state = toy_state(viewed, bought=tuple(best[:10]), bought_age_s=60)
    catalogue.allowed[::3] = False
    other = CatalogueView(exact)
    other.allowed[::3] = False
    near, whole = found(index, state, catalogue), found(exact, state, other)
    for name, one, two in zip(near.candidates._fields, near.candidates, whole.candidates, strict=True):
        np.testing.assert_array_equal(one, two, err_msg=name)


def test_more_lists_searched_never_find_less_and_the_lists_hold_every_item_once() -> None:
    factors = np.random.default_rng(0).standard_normal((2_000, 16)).astype(np.float32)
    lists, measured = build_ivf(factors, nlist=50, nprobe=5)
    recalls = [measure_recall(factors, lists, nprobe, 0) for nprobe in (1, 5, 20, 50)]
    assert recalls == sorted(recalls)
    assert recalls[1] == measured
    assert recalls[0] < 0.5 < 1.0 == recalls[-1]
    assert sorted(lists.rows.tolist()) == list(range(2_000))


def test_an_index_of_another_catalogue_is_refused() -> None:
    lists, _ = build_ivf(toy_items(400).factors, nlist=4)
    with pytest.raises(ValueError, match="wanted 300 items"):
        ItemIndex.build(toy_items(300), ivf=lists)


def test_items_out_of_order_are_refused() -> None:
    items = toy_items(20)
    with pytest.raises(ValueError, match="in_hash_order"):
        ItemIndex.build(dataclasses.replace(items, item_ids=list(items.item_ids)[::-1]))


def test_a_row_is_found_by_its_hash_and_no_other_is(index: ItemIndex) -> None:
    for row, name in enumerate(index.item_ids):
        assert index.row(item_hash(name)) == row
    assert index.row(1) == -1
    assert index.row(2**64 - 1) == -1
    assert ItemIndex.build(toy_items(2)).row(item_hash("item-0")) in (0, 1)


def test_times_ahead_of_the_snapshot_count_as_now(index: ItemIndex) -> None:
    prepared = found(index, toy_state([2, 4], bought=(6,), age_s=-3_600, bought_age_s=-3_600))
    assert np.isfinite(prepared.candidates.repeat_score).all()
    assert 6 not in numbers(index, prepared)
    assert prepared.states.at_ms[0] == NOW_MS
