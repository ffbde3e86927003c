"""rank_batch: the whole way from snapshots to lists."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from bundles import EPOCH, item_id, make_bundle, onnx_model, snapshot, toy_items, toy_state
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from schemas.ids import item_hash
from schemas.records import Item
from udfs.model.bundle import Bundle
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.explain import explain
from udfs.ranking.features import FEATURE_NAMES, N_FEATURES
from udfs.ranking.onnx_ranker import NotFiniteScoreError
from udfs.ranking.rank import Ranked, RankSettings, prepare, rank_batch
from udfs.ranking.rules import RuleBrokenError, check_lists
from udfs.ranking.snapshot import Snapshot
from udfs.user_state import SOURCES, StateError, UserState
from udfs.user_vector import refresh_embedding

SETTINGS = RankSettings(candidates=100)
NO_EXPLORATION = dataclasses.replace(SETTINGS, exploration_floor=0.0, diversity=0.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "7")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose ranker is a small network: its matrix products may depend on the number of rows."""
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((N_FEATURES, 33)) * 0.1, rng.standard_normal((33, 1))
    weights = tuple(
        numpy_helper.from_array(value.astype(np.float32), name)
        for name, value in (("w", first), ("v", second))
    )
    nodes = [
        helper.make_node("MatMul", ["features", "w"], ["h"]),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("MatMul", ["t", "v"], ["scores"]),
    ]
    rows = np.random.default_rng(1).uniform(-1, 3, (32, N_FEATURES)).astype(np.float32)
    wanted = (np.tanh(rows.astype(np.float64) @ first) @ second).astype(np.float32).ravel()
    path = tmp_path_factory.mktemp("dense") / "7"
    return make_bundle(path, ranker=onnx_model(nodes, "scores", weights), canary_scores=wanted)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()) and draw(st.booleans()):
        return snapshot(None, f"u{rng.integers(0, 10**6)}")
    viewed = rng.integers(0, 320, int(rng.integers(0, 51))).tolist()  # some are unknown
    bought = tuple(rng.permutation(320)[: int(rng.integers(0, 30))].tolist())
    state = toy_state(viewed, bought=bought, bought_age_s=int(rng.integers(0, 10**6)))
    if draw(st.booleans()):
        arms = (
            (rng.random(5) * 9 + 1).astype("<f4").tobytes(),
            (rng.random(5) * 90 + 1).astype("<f4").tobytes(),
        )
        state = state._replace(arm_alpha=arms[0], arm_beta=arms[1])
    return snapshot(state, f"u{rng.integers(0, 10**6)}", version=f"{rng.integers(0, 10**9):032x}")


def one(bundle: Bundle, state: UserState | None, how: RankSettings = SETTINGS, user_id: str = "u1") -> Ranked:
    return rank_batch(bundle, [snapshot(state, user_id)], CatalogueView(bundle), how)[0]


def numbers(ranked: Ranked) -> list[int]:
    return [int(item.item_id.removeprefix("item-")) for item in ranked.items]


@pytest.mark.parametrize("kind", ["bundle", "dense"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some=st.lists(snapshots(), min_size=1, max_size=12), data=st.data())
def test_lists_do_not_depend_on_how_users_are_grouped(
    request: pytest.FixtureRequest, kind: str, some: list[Snapshot], data: st.DataObject
) -> None:
    bundle: Bundle = request.getfixturevalue(kind)
    catalogue = CatalogueView(bundle)
    together = rank_batch(bundle, some, catalogue, SETTINGS)
    assert [rank_batch(bundle, [each], catalogue, SETTINGS)[0] for each in some] == together
    order = data.draw(st.permutations(range(len(some))))
    cut = data.draw(st.integers(0, len(some)))
    parts = [
        rank_batch(bundle, [some[at] for at in part], catalogue, SETTINGS)
        for part in (order[:cut], order[cut:])
    ]
    assert [*parts[0], *parts[1]] == [together[at] for at in order]


def test_even_users_like_even_items_and_odd_users_odd_ones(bundle: Bundle) -> None:
    for parity in (0, 1):
        ranked = one(bundle, toy_state([parity + 2 * k for k in range(8)]), NO_EXPLORATION)
        from_ranker = [
            n for n, item in zip(numbers(ranked), ranked.items, strict=True) if item.source == "ranker"
        ]
        assert len(from_ranker) >= 5
        assert all(number % 2 == parity for number in from_ranker)


def test_lists_are_sorted_by_score_without_diversity_and_exploration(bundle: Bundle) -> None:
    sure = np.array([1e6, 1, 1, 1, 1], "<f4").tobytes(), np.array([1, 1e6, 1e6, 1e6, 1e6], "<f4").tobytes()
    state = toy_state([2, 4, 6, 8, 10])._replace(arm_alpha=sure[0], arm_beta=sure[1])
    scores = [item.score for item in one(bundle, state, NO_EXPLORATION).items]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("state", [None, toy_state([]), toy_state([999], bought=(998,))])
def test_a_user_unknown_to_the_model_gets_a_full_list_of_popular_items(
    bundle: Bundle, state: UserState | None
) -> None:
    ranked = one(bundle, state)
    assert len(ranked.items) == 10
    assert len(set(numbers(ranked))) == 10


def test_the_list_names_what_it_was_made_from(bundle: Bundle) -> None:
    catalogue = CatalogueView(bundle)
    catalogue.mark = 17
    asked = snapshot(toy_state([2, 4]), "u9", version="a" * 32)
    ranked = rank_batch(bundle, [asked], catalogue, SETTINGS)[0]
    assert (ranked.tenant, ranked.user_id, ranked.version, ranked.at_ms) == (
        "default",
        "u9",
        "a" * 32,
        asked.at_ms,
    )
    assert (ranked.epoch, ranked.model_version, ranked.index_mark) == (EPOCH, "toy-7", 17)
    assert all(item.source in SOURCES and 0 < item.propensity <= 1 for item in ranked.items)
    assert all(type(item.score) is float and type(item.propensity) is float for item in ranked.items)


def test_ranking_again_gives_the_same_rec_id_and_any_other_input_another_one(bundle: Bundle) -> None:
    catalogue = CatalogueView(bundle)
    first = snapshot(toy_state([2, 4, 6]))
    rec_id = rank_batch(bundle, [first], catalogue, SETTINGS)[0].rec_id
    assert len(rec_id) == 32
    assert int(rec_id, 16) >= 0
    assert rank_batch(bundle, [first], catalogue, SETTINGS)[0].rec_id == rec_id
    others = [
        first._replace(version="1" * 32),
        snapshot(toy_state([2, 4, 6]), "u2"),
        snapshot(toy_state([3, 5, 7])),
    ]
    ids = [ranked.rec_id for ranked in rank_batch(bundle, others, catalogue, SETTINGS)]
    catalogue.mark = 5
    ids.append(rank_batch(bundle, [first], catalogue, SETTINGS)[0].rec_id)
    assert len({rec_id, *ids}) == 5


def test_the_catalogue_s_rules_hold_at_once(bundle: Bundle) -> None:
    catalogue = CatalogueView(bundle)
    state = toy_state([2, 4, 6, 8])
    before = rank_batch(bundle, [snapshot(state)], catalogue, SETTINGS)[0]
    gone, blocked = before.items[0].item_id, before.items[1].item_id
    catalogue.apply(Item(gone, "default", "", "", None, None, False, False, {}, 1))
    catalogue.apply(Item(blocked, "default", "", "", None, None, True, True, {}, 1))
    after = {item.item_id for item in rank_batch(bundle, [snapshot(state)], catalogue, SETTINGS)[0].items}
    assert not {gone, blocked} & after
    assert len(after) == 10


def test_an_item_bought_a_moment_ago_is_not_shown(bundle: Bundle) -> None:
    state = toy_state([2, 4, 6, 8])
    first = numbers(one(bundle, state))
    bought = state._replace(
        bought_hashes=np.array([item_hash(item_id(n)) for n in first[:5]], "<u8").tobytes(),
        bought_seconds=state.item_seconds[-4:] * 5,
        bought_counts=np.ones(5, "<f4").tobytes(),
    )
    assert not set(first[:5]) & set(numbers(one(bundle, bought)))


def test_a_shop_that_has_sold_nearly_all_serves_what_is_left(bundle: Bundle) -> None:
    catalogue = CatalogueView(bundle)
    catalogue.in_stock[3:] = catalogue.allowed[3:] = False
    ranked = rank_batch(
        bundle, [snapshot(toy_state([2, 4, 6, 8, 10, 12])), snapshot(None)], catalogue, SETTINGS
    )
    assert [len(one.items) for one in ranked] == [3, 3]
    catalogue.in_stock[:] = catalogue.allowed[:] = False
    assert rank_batch(bundle, [snapshot(None)], catalogue, SETTINGS)[0].items == []


def test_a_vector_of_another_epoch_is_folded_in_again_as_the_user_logic_would(bundle: Bundle) -> None:
    state = toy_state([2, 4, 6, 8, 10, 12])
    fresh = refresh_embedding(state, bundle.items.factors, EPOCH)
    strange = fresh._replace(embedding=np.ones(16, "<f2").tobytes(), embedding_epoch=EPOCH - 1)
    narrow = fresh._replace(embedding=np.ones(9, "<f2").tobytes())
    lists = [one(bundle, each) for each in (fresh, state, strange, narrow)]
    assert lists[1:] == [lists[0]] * 3
    kept = fresh._replace(embedding=np.flip(np.frombuffer(fresh.embedding, "<f2")).tobytes())
    assert one(bundle, kept).items != lists[0].items, "a vector of this epoch is taken as it is"


def test_a_vector_is_not_kept_where_nothing_is_known_under_this_epoch(bundle: Bundle) -> None:
    foreign = toy_state([999])._replace(embedding=np.ones(16, "<f2").tobytes(), embedding_epoch=3)
    prepared = prepare(bundle.items, [snapshot(foreign)], CatalogueView(bundle), SETTINGS, EPOCH)
    assert prepared.states.dim[0] == 0
    assert not prepared.candidates.embedding_score.any()


def test_a_snapshot_that_names_an_epoch_that_went_bad_is_ranked_by_the_one_at_hand(bundle: Bundle) -> None:
    ranked = rank_batch(
        bundle, [snapshot(toy_state([2]))._replace(epoch=99)], CatalogueView(bundle), SETTINGS
    )[0]
    assert ranked.epoch == EPOCH


def test_no_users_give_no_lists(bundle: Bundle) -> None:
    assert rank_batch(bundle, [], CatalogueView(bundle), SETTINGS) == []


def test_a_catalogue_of_another_bundle_is_refused(bundle: Bundle, dense: Bundle) -> None:
    with pytest.raises(ValueError, match="another bundle"):
        rank_batch(bundle, [snapshot(None)], CatalogueView(dense), SETTINGS)


def test_an_unreadable_state_names_its_user(bundle: Bundle) -> None:
    with pytest.raises(StateError, match="default/u7"):
        rank_batch(bundle, [snapshot(None, "u7")._replace(state=b"\1abc")], CatalogueView(bundle), SETTINGS)


def test_a_ranker_that_answers_nan_is_an_error_not_a_list(tmp_path: Path) -> None:
    # The square root of the hour less 12: defined on the canary rows, not in the morning.
    pick = np.zeros((N_FEATURES, 1), np.float32)
    pick[FEATURE_NAMES.index("hour")] = 1.0
    weights = (numpy_helper.from_array(pick, "w"), numpy_helper.from_array(np.float32([12.0]), "twelve"))
    nodes = [
        helper.make_node("MatMul", ["features", "w"], ["hour"]),
        helper.make_node("Sub", ["hour", "twelve"], ["after"]),
        helper.make_node("Sqrt", ["after"], ["scores"]),
    ]
    from udfs.model.bundle_writer import write_bundle

    rows = np.full((8, N_FEATURES), 13.0, np.float32)
    write_bundle(
        tmp_path / "7", toy_items(), onnx_model(nodes, "scores", weights), rows, np.ones(8, np.float32),
        epoch=7, model_version="m", created_ms=0,
    )  # fmt: skip
    bundle = Bundle.open(tmp_path / "7")
    morning = snapshot(toy_state([2]))._replace(at_ms=3_600_000)
    with pytest.raises(NotFiniteScoreError, match="row 0"):
        rank_batch(bundle, [morning], CatalogueView(bundle), SETTINGS)


@pytest.mark.parametrize(
    ("rows", "wanted"), [([0, 1, 0], "twice"), ([0, 2, 1], "out of stock"), ([3, 0, 1], "rebuy")]
)
def test_a_finished_list_that_breaks_a_rule_fails_the_batch(rows: list[int], wanted: str) -> None:
    allowed = np.array([True, True, False, True])
    lists = np.array([[0, 1, 3], rows], np.int32)
    bought = np.array([[-1, -1], [-1, 3]], np.int32)
    seconds = np.array([[0, 0], [0, 100]], np.uint32)
    with pytest.raises(RuleBrokenError, match=f"user 1 .*{wanted}"):
        check_lists(
            lists, np.array([3, 3], np.int32), allowed, bought, seconds, np.array([0, 150_000]), 60_000
        )
    check_lists(lists[:1], np.array([3], np.int32), allowed, bought, seconds, np.array([0]), 60_000)


@pytest.mark.parametrize(
    "wrong", [{"list_size": 41}, {"finalists": 201}, {"list_size": 0}, {"diversity": 1.1}]
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        RankSettings(**wrong)


def test_an_explanation_repeats_the_list_and_says_why(bundle: Bundle) -> None:
    asked = snapshot(toy_state([2, 4, 6, 8, 10, 12]))
    catalogue = CatalogueView(bundle)
    ranked = rank_batch(bundle, [asked], catalogue, SETTINGS)[0]
    for slot, item in enumerate(ranked.items, 1):
        why = explain(bundle, asked, item.item_id, catalogue, SETTINGS)
        assert (why.slot, why.slot_source, why.score, why.propensity) == (
            slot,
            item.source,
            item.score,
            item.propensity,
        )
        assert why.sources
        assert set(why.contributions) == set(FEATURE_NAMES) == set(why.features)
        assert why.model_version == "toy-7"
        assert sum(why.arm_probabilities.values()) == pytest.approx(1.0)
    best = max(why.contributions, key=lambda name: abs(why.contributions[name]))
    assert best in ("embedding_score", "neighbour_score")


def test_an_explanation_says_why_an_item_is_not_in_the_list(bundle: Bundle) -> None:
    catalogue = CatalogueView(bundle)
    catalogue.apply(Item(item_id(2), "default", "", "", None, None, False, True, {}, 1))
    state = toy_state([4, 6, 8], bought=(8,), bought_age_s=60)
    asked = snapshot(state)
    assert explain(bundle, asked, item_id(2), catalogue, SETTINGS).rules_hit == ("out of stock", "blocked")
    assert explain(bundle, asked, item_id(8), catalogue, SETTINGS).rules_hit == (
        "bought within the rebuy interval",
    )
    unknown = explain(bundle, asked, "no such item", catalogue, SETTINGS)
    assert (unknown.known, unknown.slot, unknown.score, unknown.sources) == (False, None, None, {})
