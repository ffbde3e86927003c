"""What is said of items as a source, and items that the epoch does not know: from words to lists."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from bundles import NOW_MS, Trees, assert_part_is_needed, item_id, make_bundle, snapshot, toy_items, toy_state

from flink_jobs.list_columns import BundleTexts
from model_export.content import ContentSettings, fit_content
from schemas.ids import category_hash, item_hash
from schemas.records import Item
from udfs.model.bundle import Bundle, BundleRefused
from udfs.model.items import ItemArrays
from udfs.model.manifest import CONTENT_FILES, CONTENT_SETTINGS, MANIFEST, ModelSettings
from udfs.ranking.arrivals import place_arrivals, with_arrivals
from udfs.ranking.candidates import CONTENT, RETRIEVERS
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.content_source import find_by_content
from udfs.ranking.content_table import LEAST_ALIKE, ContentTable, ItemContent
from udfs.ranking.content_vocabulary import MAX_WORDS, words_of
from udfs.ranking.explain import explain
from udfs.ranking.features import FEATURE_NAMES, N_FEATURES
from udfs.ranking.history import NEIGHBOUR_DECAY, empty_history
from udfs.ranking.rank import RankSettings, prepare, rank_batch

N = 300
SETTINGS = ModelSettings(weight_content=0.3, share_content=0.1, share_embedding=0.2)
HOW = RankSettings(candidates=100, exploration_floor=0.0)
KINDS = ("mug", "plate", "lamp", "clock", "basket", "candle")
COLOURS = ("red", "blue", "green", "white", "black")


def record(name: str, title: str, **fields: object) -> Item:
    return Item(name, "default", title, "", None, 5.0, True, False, {}, NOW_MS)._replace(**fields)  # type: ignore[arg-type]


def titled(number: int) -> Item:
    """Item k of the toy shop: its kind and colour, and a word that three items share."""
    title = f"{COLOURS[number % 5]} {KINDS[number % 6]} series{number // 3}"
    return record(item_id(number), title, category=f"category-{number % 8}")


CATALOGUE = [titled(number) for number in range(N)]


def toy_content(items: ItemArrays) -> ItemContent:
    content = fit_content(
        items, CATALOGUE, ContentSettings(dimension=16, linked_weight=20.0), np.random.default_rng(0)
    )
    assert content is not None
    return content


def toy_bundle(path: Path, trees: Trees | None = None) -> Bundle:
    items = toy_items(N)
    return make_bundle(path, items, settings=SETTINGS, content=toy_content(items), trees=trees)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return toy_bundle(tmp_path_factory.mktemp("content") / "7")


NEW = record("new-1", "Red MUGS", category="category-0")


def test_words_are_bounded_whatever_a_record_says() -> None:
    said = record("x", "Word " * 1_000, brand="B" * 500, attributes={f"a{k}": "v" * 200 for k in range(99)})
    words = words_of(said)
    assert len(words) <= 2 * MAX_WORDS
    assert max(map(len, words)) <= 64


def test_like_items_lie_near_each_other_and_popular_ones_come_first(bundle: Bundle) -> None:
    content = bundle.items.content
    assert content is not None
    table, ids = content.table, bundle.items.item_ids
    number = {item_hash(item_id(k)): k for k in range(N)}
    same, other = [], []
    for row in range(N):
        own = number[item_hash(ids[row])]
        for at in range(table.offsets[row], table.offsets[row + 1]):
            linked = number[item_hash(ids[table.rows[at]])]
            (same if linked % 6 == own % 6 or linked % 5 == own % 5 else other).append(table.scores[at])
            if at > table.offsets[row] and table.scores[at] == table.scores[at - 1]:
                popularity = bundle.items.columns.popularity
                assert popularity[table.rows[at]] <= popularity[table.rows[at - 1]]
    assert len(same) > 10 * len(other)
    assert min(same) >= LEAST_ALIKE


def test_training_links_only_to_what_nobody_knows(bundle: Bundle) -> None:
    items = toy_items(N)
    untouched = items.popularity.copy()
    untouched[:4] = 0.0
    few = dataclasses.replace(items, popularity=untouched)
    content = fit_content(few, CATALOGUE, ContentSettings(dimension=16), np.random.default_rng(0))
    assert content is not None
    assert set(content.table.rows.tolist()) == {0, 1, 2, 3}
    none = fit_content(items, CATALOGUE, ContentSettings(dimension=16), np.random.default_rng(0))
    assert none is not None
    assert not len(none.table.rows)


def reference(
    table: ContentTable, recent: list[int], allowed: np.ndarray, limit: int
) -> list[tuple[int, float]]:
    """What `find_by_content` gives for one user, slowly."""
    known = len(table.offsets) - 1
    sums: dict[int, float] = {}
    for back, row in enumerate(recent):
        links = []
        if row < known:
            of = slice(table.offsets[row], table.offsets[row + 1])
            links += zip(table.rows[of].tolist(), table.scores[of].tolist(), strict=True)
        if len(table.late_rows):
            of = slice(table.late_offsets[row], table.late_offsets[row + 1])
            links += zip(table.late_rows[of].tolist(), table.late_scores[of].tolist(), strict=True)
        for other, score in links:
            sums[other] = sums.get(other, 0.0) + NEIGHBOUR_DECAY**back * score
    best = sorted(((row, s) for row, s in sums.items() if allowed[row]), key=lambda pair: (-pair[1], pair[0]))
    old, new = [pair for pair in best if pair[0] < known], [pair for pair in best if pair[0] >= known]
    turns = []
    while old or new:
        turns += [side.pop(0) for side in (new, old) if side]
    return turns[:limit]


def some_arrivals(count: int) -> list[Item]:
    rng = np.random.default_rng(8)
    return [
        record(f"new-{k}", f"{rng.choice(COLOURS)} {rng.choice(KINDS)} series{rng.integers(90)}")
        for k in range(count)
    ]


@pytest.mark.parametrize("arrived", [0, 30])
def test_the_compiled_source_gives_what_the_readable_one_gives(bundle: Bundle, arrived: int) -> None:
    index = with_arrivals(bundle.items, place_arrivals(bundle.items, some_arrivals(arrived)))
    assert index.content is not None
    rng, users = np.random.default_rng(5), 60
    history = empty_history(users)
    for user in range(users):
        count = int(rng.integers(0, 11))
        history.recent_rows[user, :count] = rng.choice(len(index), count, replace=False)
        history.n_recent[user] = count
    allowed = rng.random(len(index)) < 0.8
    found = find_by_content(index.content.table, history, allowed, 15)
    assert found.counts.max() == 15
    for user in range(users):
        recent = history.recent_rows[user, : history.n_recent[user]].tolist()
        wanted = reference(index.content.table, recent, allowed, 15)
        count = found.counts[user]
        assert count == len(wanted)
        np.testing.assert_allclose(found.score[user, :count], [score for _, score in wanted], rtol=1e-5)
        if len({round(score, 5) for _, score in wanted}) == count:  # else ties may fall either way
            assert found.rows[user, :count].tolist() == [row for row, _ in wanted]


def test_an_arrival_stands_among_the_items_as_if_it_had_been_placed_by_hand(bundle: Bundle) -> None:
    (placed,) = place_arrivals(bundle.items, [NEW])
    number = {item_hash(item_id(k)): k for k in range(N)}
    near = [number[item_hash(bundle.items.item_ids[row])] for row in placed.near_rows[:10].tolist()]
    assert all(k % 6 == 0 or k % 5 == 0 for k in near)
    weights = placed.near_scores[:10].astype(np.float64)
    factors = bundle.items.columns.factors[placed.near_rows[:10]].astype(np.float64)
    np.testing.assert_allclose(placed.factors, weights @ factors / weights.sum(), rtol=1e-5)
    index = with_arrivals(bundle.items, [placed])
    row = index.row(item_hash("new-1"))
    assert (row, len(index), len(bundle.items)) == (N, N + 1, N)
    assert all(index.row(item_hash(item_id(k))) == bundle.items.row(item_hash(item_id(k))) for k in range(N))
    assert index.row(item_hash("nobody's")) == -1
    assert index.columns.category[row] == category_hash("category-0")
    known = bundle.items.columns.category.tolist().index(category_hash("category-0"))
    assert index.columns.category_price[row] == bundle.items.columns.category_price[known]
    np.testing.assert_array_equal(index.columns.transposed[:, row], placed.factors)
    for got, was in zip(index.columns, bundle.items.columns, strict=True):
        if isinstance(got, np.ndarray) and got.ndim and got.shape != was.shape and got.ndim == 1:
            assert got.shape == (was.shape[0] + 1,)


def test_many_arrivals_keep_the_order_of_hashes_and_their_own_links(bundle: Bundle) -> None:
    items = some_arrivals(200)
    index = with_arrivals(bundle.items, place_arrivals(bundle.items, items))
    rows = [index.row(item_hash(item.item_id)) for item in items]
    assert sorted(rows) == list(range(N, N + 200))
    assert index.content is not None
    table = index.content.table
    assert np.diff(table.late_offsets).max() <= 50
    owners = np.repeat(np.arange(N + 200), np.diff(table.late_offsets))
    assert ((owners < N) != (table.late_rows < N)).all()


def test_a_new_item_is_brought_and_explained_at_once(bundle: Bundle) -> None:
    view = CatalogueView(bundle, 10)
    shot = snapshot(toy_state([0, 30, 60]))  # red mugs
    before = explain(bundle, shot, "new-1", view, HOW)
    assert (before.known, before.sources) == (False, {})
    assert view.apply(NEW)
    told = explain(bundle, shot, "new-1", view, HOW)
    assert told.known
    assert told.sources["content"] == 1
    assert told.features["content_score"] > 0.5
    assert (told.features["popularity"], told.features["rebuy_days"], told.features["neighbour_score"]) == (
        0,
        -1,
        0,
    )
    assert told.features["popularity_rank"] == pytest.approx(np.log2(2 + N))
    assert RETRIEVERS[CONTENT] == "content"


def by_content() -> Trees:
    """Trees that know one feature: whether the content source put the item first."""
    rank = FEATURE_NAMES.index("content_rank")
    assert rank < N_FEATURES
    return Trees(np.full((1, 1), rank), np.full((1, 1), 0.9, np.float32), np.array([[0.0, 1.0]], np.float32))


def test_a_new_item_is_listed_and_keeps_the_rules(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path / "7", by_content())
    view = CatalogueView(bundle, 10)
    shot = snapshot(toy_state([0, 30, 60]))

    def listed() -> list[str]:
        (ranked,) = rank_batch(bundle, [shot], view, HOW)
        return [item.item_id for item in ranked.items]

    assert "new-1" not in listed()
    view.apply(NEW)
    assert listed()[0] == "new-1"
    view.apply(NEW._replace(in_stock=False))
    assert "new-1" not in listed()
    view.apply(NEW._replace(price=7.0))
    assert listed()[0] == "new-1"
    assert view.price[view.index.row(item_hash("new-1"))] == 7.0
    texts = BundleTexts.of(view.grown(bundle))
    assert texts.item_ids.offsets[-1] > BundleTexts.of(bundle).item_ids.offsets[-1]
    view.apply(NEW._replace(blocked=True))
    assert "new-1" not in listed()


def test_a_new_item_that_the_ranker_does_not_want_is_tried_by_the_neighbours_arm(tmp_path: Path) -> None:
    rank = FEATURE_NAMES.index("content_rank")
    against = Trees(
        np.full((1, 1), rank), np.full((1, 1), 0.9, np.float32), np.array([[0.0, -1.0]], np.float32)
    )
    bundle = toy_bundle(tmp_path / "7", against)
    view = CatalogueView(bundle, 10)
    view.apply(NEW)
    how = dataclasses.replace(HOW, exploration_floor=0.18)
    shots = [snapshot(toy_state([0, 30, 60]), f"u{k}") for k in range(400)]
    lists = rank_batch(bundle, shots, view, how)
    slots = [item for one in lists for item in one.items if item.item_id == "new-1"]
    assert len(slots) > 40
    assert {item.source for item in slots} == {"neighbours"}
    # It is at the head of no other arm, so its propensity is that of the arm, as every list logs it.
    assert {item.propensity for item in slots} == {round(lists[0].source_probabilities[2], 9)}


def test_a_bought_arrival_is_kept_out_and_its_history_counts(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path / "7", by_content())
    view = CatalogueView(bundle, 10)
    view.apply(NEW)
    state = toy_state([0, 30, 60])
    now_s = np.array([NOW_MS // 1000 - 60], "<u4").tobytes()
    new = np.array([item_hash("new-1")], "<u8").tobytes()
    had = state._replace(bought_hashes=new, bought_seconds=now_s, bought_counts=np.ones(1, "<f4").tobytes())
    (ranked,) = rank_batch(bundle, [snapshot(had)], view, HOW)
    assert "new-1" not in {item.item_id for item in ranked.items}
    viewed = state._replace(
        item_hashes=state.item_hashes + new,
        item_seconds=state.item_seconds + now_s,
        item_types=state.item_types + b"\1",
    )
    found = prepare(view.index, [snapshot(viewed)], view, HOW, 7)
    row = view.index.row(item_hash("new-1"))
    place = found.finalists.rows[0].tolist().index(row)
    assert found.features[place, FEATURE_NAMES.index("item_count")] == 1


def test_the_newest_arrivals_stay_and_nothing_else_changes_what_they_are(bundle: Bundle) -> None:
    view = CatalogueView(bundle, 20)
    items = some_arrivals(50)
    for item in items:
        view.apply(item)
    view.apply(items[31]._replace(price=9.0))  # now the newest
    more = [item._replace(item_id=f"more-{item.item_id}") for item in items[:6]]
    for item in more:
        view.apply(item)
    view.settle()
    kept = set(view.index.item_ids[N:])
    assert kept == {item.item_id for item in (items[31], *items[37:], *more)}
    assert view.unknown == 36
    other = CatalogueView(bundle, 20)
    for item in (*items[37:], items[31]._replace(price=9.0), *more):
        other.apply(item)
    other.settle()
    assert list(other.index.item_ids) == list(view.index.item_ids)
    np.testing.assert_array_equal(other.index.columns.factors, view.index.columns.factors)
    np.testing.assert_array_equal(other.price, view.price)
    assert sorted(view.index.columns.hashes[N:].tolist()) == view.index.columns.hashes[N:].tolist()


def test_a_change_of_words_places_an_arrival_anew(bundle: Bundle) -> None:
    view = CatalogueView(bundle, 5)
    view.apply(NEW)
    view.settle()
    before = view.index.columns.factors[N].copy()
    view.apply(NEW._replace(title="black lamp"))
    view.settle()
    assert not np.array_equal(view.index.columns.factors[N], before)


def test_an_item_of_unknown_words_is_like_nothing_and_breaks_nothing(bundle: Bundle) -> None:
    view = CatalogueView(bundle, 5)
    assert view.apply(record("strange", "", category="nowhere"))
    view.settle()
    assert not view.index.columns.factors[N].any()
    assert np.isnan(view.index.columns.category_price[N])
    (ranked,) = rank_batch(bundle, [snapshot(toy_state([0, 30]))], view, HOW)
    assert len(ranked.items) == 10


def test_without_arrivals_lists_are_those_of_the_bundle_to_the_bit(bundle: Bundle) -> None:
    shots = [snapshot(toy_state([k, k + 30]), f"u{k}") for k in range(20)]
    view = CatalogueView(bundle, 10)
    assert view.grown(bundle) is bundle
    assert rank_batch(bundle, shots, view, HOW) == rank_batch(bundle, shots, CatalogueView(bundle), HOW)


def test_a_bundle_without_a_vocabulary_lets_new_items_wait(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "7")
    text = json.loads((tmp_path / "7" / MANIFEST).read_text())
    assert not set(CONTENT_SETTINGS) & set(text["settings"])
    assert not {name for name in text["files"] if name.startswith("content")}
    view = CatalogueView(bundle, 10)
    assert not view.apply(NEW)
    assert view.unknown == 1
    found = prepare(bundle.items, [snapshot(toy_state([2]))], view, HOW, 7)
    assert not found.candidates.rank[:, :, CONTENT].any()
    assert not found.candidates.content_score.any()


@pytest.mark.parametrize("name", sorted(CONTENT_FILES))
def test_a_vocabulary_that_is_not_all_there_or_was_changed_is_refused(tmp_path: Path, name: str) -> None:
    assert_part_is_needed(toy_bundle(tmp_path / "7").path, name)


def test_a_vocabulary_with_wrong_content_is_refused(tmp_path: Path) -> None:
    items = toy_items(N)
    good = toy_content(items)
    words = good.vocabulary
    for bad, reason in (
        (good._replace(vectors=good.vectors[:, :-1].copy()), "shape"),
        (good._replace(vectors=good.vectors[:-1]), "shape"),
        (good._replace(table=good.table._replace(scores=-good.table.scores)), "order"),
        (good._replace(vocabulary=words.of(["red"], words.idf, words.components)), "shape"),
        (good._replace(vectors=good.vectors * np.float32(np.nan)), "not_finite"),
    ):
        with pytest.raises(BundleRefused) as refused:
            make_bundle(tmp_path / "7", items, settings=SETTINGS, content=bad)
        assert refused.value.reason == reason


def test_equal_catalogues_give_equal_vocabularies_and_a_small_one_none() -> None:
    items = toy_items(N)
    one, other = toy_content(items), toy_content(items)
    np.testing.assert_array_equal(one.vectors, other.vectors)
    np.testing.assert_array_equal(one.vocabulary.components, other.vocabulary.components)
    small = fit_content(items, CATALOGUE[:20], ContentSettings(), np.random.default_rng(0))
    assert small is None
    assert fit_content(items, CATALOGUE, ContentSettings(dimension=0), np.random.default_rng(0)) is None


def test_a_vector_of_a_known_item_is_the_same_from_its_record(bundle: Bundle) -> None:
    content = bundle.items.content
    assert content is not None
    for item in CATALOGUE[:20]:
        row = bundle.items.row(item_hash(item.item_id))
        np.testing.assert_allclose(content.vocabulary.vector(item), content.vectors[row], atol=1e-5)
