"""Features: the kernel equals the readable reference, the list is closed, known users give known values."""

from __future__ import annotations

import dataclasses
from math import log1p

import numpy as np
import pytest
from bundles import DAY_S, NOW_MS, item_id, sessions_of, snapshot, toy_items, toy_state
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.ids import category_hash, item_hash
from udfs.ranking import feature_kernel
from udfs.ranking.candidates import CONTENT, EMBEDDING, NEIGHBOURS, REPEAT, RULES, SEQUENCE, SESSIONS
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.feature_reference import SourceScores, reference_features
from udfs.ranking.features import FEATURE_LIST_HASH, FEATURE_NAMES, FEATURES, Feature, feature_list_hash
from udfs.ranking.item_index import ItemIndex
from udfs.ranking.rank import Prepared, RankSettings, prepare
from udfs.user_state import EMPTY, EVENT_TYPES, UserState
from udfs.user_vector import refresh_embedding

ITEMS = 60
SETTINGS = RankSettings(candidates=50, finalists=30)


def build_index() -> ItemIndex:
    items = toy_items(ITEMS)
    categories = items.categories.copy()
    categories[::7] = 0  # some items have none
    factors = items.factors.copy()
    factors[::11] = 0  # nobody touched them
    return ItemIndex.build(dataclasses.replace(items, categories=categories, factors=factors))


INDEX = build_index()
CATALOGUE = CatalogueView(INDEX)
SESSIONS_SEEN = sessions_of(range(0, ITEMS, 3), range(ITEMS), [1, 5, 9])


@st.composite
def user_states(draw: st.DrawFn) -> UserState:
    """A state that user logic could have made: known and unknown items, times before and after now."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_items, n_bought, n_seen, n_interests = (draw(st.integers(0, limit)) for limit in (50, 64, 64, 16))
    hashes = np.append(INDEX.columns.hashes, rng.integers(1, 2**63, 8).astype(np.uint64))
    now_s = NOW_MS // 1000
    seconds = np.sort(now_s + 5 - rng.exponential(20_000, n_items).astype(np.int64))
    bought = rng.permutation(hashes)[:n_bought]
    in_session = draw(st.integers(0, 1))
    categories = np.unique(INDEX.columns.category)
    state = EMPTY._replace(
        first_ms=NOW_MS - draw(st.integers(-5_000, 10**10)),
        last_ms=NOW_MS - draw(st.integers(-5_000, 10**7)),
        n_events=draw(st.integers(0, 10**6)),
        n_sessions=in_session * draw(st.integers(1, 500)),
        session_events=draw(st.integers(0, 99)),
        session_start_ms=NOW_MS - draw(st.integers(0, 10**7)),
        interests_ms=NOW_MS - draw(st.integers(-(10**9), 10**9)),
        n_views=draw(st.integers(0, 999)),
        n_carts=draw(st.integers(0, 99)),
        n_purchases=draw(st.integers(0, 99)),
        spend=draw(st.floats(-10, 10_000, width=32)),
        item_hashes=rng.choice(hashes, n_items).tobytes(),
        item_seconds=seconds.astype("<u4").tobytes(),
        item_types=rng.integers(1, len(EVENT_TYPES), n_items).astype(np.uint8).tobytes(),
        bought_hashes=bought.tobytes(),
        bought_seconds=np.sort(now_s + 5 - rng.exponential(3_000_000, len(bought))).astype("<u4").tobytes(),
        bought_counts=(1.0 + rng.exponential(3, len(bought))).astype("<f4").tobytes(),
        seen_hashes=rng.permutation(hashes)[:n_seen].tobytes(),
        interest_categories=rng.permutation(categories)[:n_interests].astype("<u4").tobytes(),
        interest_weights=rng.exponential(3, min(n_interests, len(categories))).astype("<f4").tobytes(),
    )
    return refresh_embedding(state, INDEX.factors, epoch=7)


def values_of(prepared: Prepared, user: int = 0) -> dict[str, dict[str, float]]:
    """Item id to feature to value, of the finalists of one user."""
    kept = prepared.finalists.slots.shape[1]
    rows = prepared.finalists.rows[user, : prepared.finalists.counts[user]]
    return {
        INDEX.item_ids[row]: dict(
            zip(FEATURE_NAMES, prepared.features[user * kept + k].tolist(), strict=True)
        )
        for k, row in enumerate(rows)
    }


def of_item(state: UserState | None, number: int) -> dict[str, float]:
    """Features of one toy item, with all items finalists."""
    everything = RankSettings(candidates=ITEMS, finalists=ITEMS, rebuy_after_ms=0)
    return values_of(prepare(INDEX, [snapshot(state)], CATALOGUE, everything, 7))[item_id(number)]


@settings(max_examples=40, deadline=None)
@given(st.lists(user_states(), min_size=1, max_size=3))
def test_the_kernel_equals_the_reference_for_any_user(some: list[UserState]) -> None:
    prepared = prepare(INDEX, [snapshot(state) for state in some], CATALOGUE, SETTINGS, 7, SESSIONS_SEEN)
    for user, state in enumerate(some):
        for k in range(prepared.finalists.counts[user]):
            slot, row = int(prepared.finalists.slots[user, k]), int(prepared.finalists.rows[user, k])
            candidates = prepared.candidates
            rank = candidates.rank[user, slot]
            scores = SourceScores(
                embedding_score=candidates.embedding_score[user, slot],
                embedding_rank=rank[EMBEDDING],
                neighbour_score=candidates.neighbour_score[user, slot],
                neighbour_max=candidates.neighbour_max[user, slot],
                neighbour_hits=candidates.neighbour_hits[user, slot],
                neighbour_rank=rank[NEIGHBOURS],
                repeat_score=candidates.repeat_score[user, slot],
                repeat_rank=rank[REPEAT],
                session_score=candidates.session_score[user, slot],
                session_rank=rank[SESSIONS],
                content_score=candidates.content_score[user, slot],
                content_rank=rank[CONTENT],
                sequence_score=candidates.sequence_score[user, slot],
                sequence_rank=rank[SEQUENCE],
                rule_score=candidates.rule_score[user, slot],
                rule_rank=rank[RULES],
                first_stage_score=prepared.finalists.score[user, k],
            )
            wanted = reference_features(state, NOW_MS, row, scores, CATALOGUE)
            got = prepared.features[user * SETTINGS.finalists + k]
            np.testing.assert_allclose(got, np.array(list(wanted.values())), rtol=2e-6, atol=2e-6)


@settings(max_examples=40, deadline=None)
@given(user_states())
def test_no_feature_is_ever_nan_or_infinite(state: UserState) -> None:
    assert np.isfinite(prepare(INDEX, [snapshot(state)], CATALOGUE, SETTINGS, 7).features).all()


def test_the_kernel_s_columns_are_the_list_in_its_order() -> None:
    for at, name in enumerate(FEATURE_NAMES):
        assert getattr(feature_kernel, name.upper()) == at


def test_there_are_at_least_thirty_features_each_named_once_and_described() -> None:
    assert len(FEATURES) >= 30
    assert len(set(FEATURE_NAMES)) == len(FEATURES)
    assert all(feature.doc and feature.unit for feature in FEATURES)


def test_the_hash_of_the_list_changes_with_name_unit_order_missing_value_and_meaning_but_not_prose() -> None:
    first, *rest = FEATURES
    for changed in (
        (first._replace(name="other"), *rest),
        (first._replace(unit="other"), *rest),
        (first._replace(missing=-9.0), *rest),
        (rest[0], first, *rest[1:]),
        (*FEATURES, Feature("more", "unit", None, "doc")),
    ):
        assert feature_list_hash(changed) != FEATURE_LIST_HASH
    assert feature_list_hash(meaning=99) != FEATURE_LIST_HASH
    assert feature_list_hash((first._replace(doc="other words"), *rest)) == FEATURE_LIST_HASH


@pytest.mark.parametrize(
    "feature", [one for one in FEATURES if one.missing is not None], ids=lambda one: one.name
)
def test_a_feature_that_is_not_known_has_its_declared_value(feature: Feature) -> None:
    number = next(
        int(name.removeprefix("item-"))
        for row, name in enumerate(INDEX.item_ids)
        if np.isnan(INDEX.prices[row]) and np.isnan(INDEX.columns.rebuy_days[row])
    )
    assert of_item(None, number)[feature.name] == feature.missing


def test_what_a_user_did_with_an_item_is_counted() -> None:
    kinds = ("view", "add_to_cart", "view", "purchase", "view", "add_to_cart")
    state = toy_state([2, 2, 4, 6, 2, 2], kinds=kinds, age_s=90)
    values = of_item(state, 2)
    assert values["item_count"] == 4
    assert values["item_weight"] == 1 + 3 + 1 + 3
    assert values["in_cart"] == 1
    assert values["in_session"] == 1
    assert values["item_age"] == pytest.approx(log1p(90), rel=1e-6)
    assert of_item(state, 6)["item_purchases"] == 1
    assert of_item(state, 6)["in_cart"] == 0
    assert of_item(state, 8)["item_count"] == 0
    assert of_item(state, 8)["item_age"] == -1


def test_interactions_before_this_session_are_not_in_it() -> None:
    state = toy_state([2, 4, 6])._replace(session_start_ms=NOW_MS - 90_000)
    assert [of_item(state, number)["in_session"] for number in (2, 4, 6)] == [0, 1, 1]
    assert of_item(state._replace(n_sessions=0), 6)["in_session"] == 0


def test_a_repeat_is_due_when_the_usual_time_has_passed() -> None:
    row = int(np.flatnonzero(INDEX.columns.rebuy_days > 10)[0])
    number = int(INDEX.item_ids[row].removeprefix("item-"))
    days = float(INDEX.columns.rebuy_days[row])
    values = of_item(toy_state([], bought=(number,), bought_age_s=int(days * DAY_S)), number)
    assert values["rebuy_due"] == pytest.approx(1.0, abs=1e-4)
    assert values["bought_age"] == pytest.approx(log1p(days), abs=1e-4)
    long_ago = of_item(toy_state([], bought=(number,), bought_age_s=int(9 * days * DAY_S)), number)
    assert long_ago["rebuy_due"] == 4.0


def test_the_place_among_impressed_items_counts_from_the_newest() -> None:
    state = toy_state([], seen=(4, 6, 8))
    assert [of_item(state, number)["seen_recency"] for number in (8, 6, 4, 2)] == pytest.approx(
        [1, 1 / 2, 1 / 3, 0]
    )


def test_interest_in_a_category_halves_in_a_week() -> None:
    category = category_hash("category-2")
    number = next(
        int(name.removeprefix("item-"))
        for row, name in enumerate(INDEX.item_ids)
        if INDEX.columns.category[row] == category
    )
    state = toy_state([])._replace(
        interests_ms=NOW_MS - 7 * 1000 * DAY_S,
        interest_categories=np.array([category, 5], "<u4").tobytes(),
        interest_weights=np.array([6.0, 2.0], "<f4").tobytes(),
    )
    values = of_item(state, number)
    assert values["category_interest"] == pytest.approx(log1p(3.0), rel=1e-6)
    assert values["category_share"] == pytest.approx(0.75)


def test_today_s_price_is_that_of_the_catalogue_not_of_the_bundle() -> None:
    catalogue = CatalogueView(INDEX)
    row = INDEX.row(item_hash(item_id(2)))
    catalogue.price_log[row] = log1p(7.0)
    prepared = prepare(INDEX, [snapshot(toy_state([2]))], catalogue, SETTINGS, 7)
    assert values_of(prepared)[item_id(2)]["price"] == pytest.approx(log1p(7.0))


@pytest.mark.parametrize(
    ("at_ms", "hour", "weekday"), [(0, 0, 3), (86_399_999, 23, 3), (4 * 86_400_000, 0, 0)]
)
def test_hour_and_weekday_are_those_of_utc(at_ms: int, hour: int, weekday: int) -> None:
    prepared = prepare(INDEX, [snapshot(None)._replace(at_ms=at_ms)], CATALOGUE, SETTINGS, 7)
    values = next(iter(values_of(prepared).values()))
    assert (values["hour"], values["weekday"]) == (hour, weekday)


def test_rows_behind_a_user_s_finalists_are_zero() -> None:
    few = RankSettings(candidates=90, finalists=80, list_size=5)
    prepared = prepare(INDEX, [snapshot(toy_state([2]))], CATALOGUE, few, 7)
    assert prepared.finalists.counts[0] == ITEMS
    assert not prepared.features[ITEMS:].any()
