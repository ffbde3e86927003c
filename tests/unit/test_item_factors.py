"""Item lookups, and the user vector that answers the last items."""

import doctest
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from user_examples import EPOCH, ITEMS, MINUTE, T0, category_of, event, run, small_model, user_logic

import udfs.item_factors
from schemas.ids import category_hash, item_hash
from udfs.item_factors import FOLD_IN_FROM, ItemFactors, fold_in_rows, fold_in_user
from udfs.user_state import FOLDED_IN
from udfs.user_vector import refresh_embeddings


def random_items(n: int, dim: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    factors = np.random.default_rng(seed).normal(0, 0.3, (n, dim)).astype(np.float32)
    return factors, factors.T @ factors


def test_examples_run():
    assert doctest.testmod(udfs.item_factors).failed == 0


@pytest.mark.parametrize("dim", [1, 3, 8, 33, 64])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 40.0])
def test_the_kernel_agrees_with_the_reference(dim, alpha):
    factors, gram = random_items(300, dim)
    rng = np.random.default_rng(2)
    lengths = [0, 1, 2, 3, 4, 5, 17, 50]
    offsets = np.cumsum([0, *lengths])
    rows = rng.integers(-1, 300, offsets[-1])
    rows[-25:] = rows[-50:-25]  # items that come twice
    weights = rng.choice([0, 1, 3, 5], offsets[-1]).astype(np.float32)
    found = fold_in_rows(factors, gram, rows, weights, offsets, alpha, 0.01)
    for user, (start, stop) in enumerate(pairwise(offsets)):
        wanted = fold_in_user(factors, gram, rows[start:stop], weights[start:stop], alpha, 0.01)
        np.testing.assert_allclose(found[user], wanted, rtol=1e-5, atol=1e-5)


def test_a_user_is_solved_alike_alone_and_in_any_batch():
    factors, gram = random_items(300, 32)
    rng = np.random.default_rng(3)
    users = [rng.integers(0, 300, size) for size in (50, 1, 7, 50, 20)]
    alone = [
        fold_in_rows(
            factors, gram, rows, np.ones(len(rows), np.float32), np.array([0, len(rows)]), 1.0, 0.01
        )[0]
        for rows in users
    ]
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1]):
        rows = np.concatenate([users[user] for user in order])
        offsets = np.cumsum([0, *(len(users[user]) for user in order)])
        together = fold_in_rows(factors, gram, rows, np.ones(len(rows), np.float32), offsets, 1.0, 0.01)
        for place, user in enumerate(order):
            assert np.array_equal(together[place], alone[user])


def test_the_solution_is_where_the_loss_has_no_slope():
    factors, gram = random_items(40, 4)
    rows, weights = np.array([3, 9, 9, 30]), np.array([1, 1, 3, 5], np.float32)
    x = fold_in_user(factors, gram, rows, weights, 2.0, 0.1).astype(np.float64)
    confidence, liked = np.ones(40), np.zeros(40)
    for row, weight in zip(rows, weights, strict=True):
        confidence[row] += 2.0 * weight
        liked[row] = 1.0
    slope = factors.T.astype(np.float64) @ (confidence * (factors @ x - liked)) + 0.1 * x
    assert np.abs(slope).max() < 1e-5


def test_even_items_lead_to_even_items():
    factors = np.array([[1, 0], [0, 1]] * 20, np.float32) + 0.01
    vector = fold_in_user(factors, factors.T @ factors, [0, 2, 4], [1, 1, 1], 10.0, 0.01)
    scores = factors @ vector
    assert scores[0::2].min() > scores[1::2].max()


@given(st.sets(st.integers(0, 2**64 - 1), max_size=80), st.integers(0, 2**64 - 1))
def test_an_item_is_found_by_its_hash_and_no_other(known, other):
    hashes = np.array(sorted(known), np.uint64)
    n = len(hashes)
    model = ItemFactors(
        hashes, np.zeros((n, 2), np.float32), np.eye(2, dtype=np.float32), np.arange(n, dtype=np.uint32)
    )
    for row, value in enumerate(sorted(known)):
        assert model.row_of(value) == row
        assert model.category_of(value) == row
    assert model.row_of(other) == (sorted(known).index(other) if other in known else -1)
    asked = np.array([*sorted(known), other], np.uint64)
    assert model.rows_of(asked).tolist() == [model.row_of(int(value)) for value in asked]


def test_shapes_and_order_that_do_not_fit_are_refused():
    factors, gram = random_items(3, 2)
    category = np.zeros(3, np.uint32)
    with pytest.raises(ValueError, match="ascend"):
        ItemFactors(np.array([3, 2, 9], np.uint64), factors, gram, category)
    with pytest.raises(ValueError, match="ascend"):
        ItemFactors(np.array([2, 2, 9], np.uint64), factors, gram, category)
    with pytest.raises(ValueError, match=r"got \(2,\)"):
        ItemFactors(np.array([2, 3], np.uint64), factors, gram, category)
    wide, wide_gram = random_items(3, 65)
    with pytest.raises(ValueError, match="d <= 64"):
        ItemFactors(np.array([1, 2, 3], np.uint64), wide, wide_gram, category)


def test_the_category_is_that_of_the_item():
    model = small_model()
    for item in ITEMS[:30]:
        assert model.category_of(item_hash(item)) == category_hash(category_of(item))
    assert model.category_of(item_hash("never heard of")) is None


def views(count: int, known: bool = True) -> list:
    return [
        event(f"v{n}", "view", ITEMS[n] if known else f"other-{n}", T0 + n * MINUTE) for n in range(count)
    ]


@pytest.mark.parametrize("count", [1, FOLD_IN_FROM - 1])
def test_few_known_items_give_their_mean(count):
    logic, model = user_logic(), small_model()
    state = run(logic, [*views(count), event("x", "view", "unheard of", T0 + 50 * MINUTE)])[-1].state
    refreshed = logic.refresh_embedding(state, EPOCH)
    mean = np.mean([model.factors[model.row_of(item_hash(item))] for item in ITEMS[:count]], axis=0)
    np.testing.assert_array_equal(np.frombuffer(refreshed.embedding, "<f2"), mean.astype("<f2"))
    assert refreshed.embedding_epoch == EPOCH
    assert not refreshed.flags & FOLDED_IN


def test_from_five_known_items_on_the_vector_is_their_fold_in():
    logic, model = user_logic(), small_model()
    state = run(logic, [*views(FOLD_IN_FROM), event("p", "purchase", ITEMS[2], T0 + 50 * MINUTE)])[-1].state
    refreshed = logic.refresh_embedding(state, EPOCH)
    rows = [model.row_of(item_hash(item)) for item in ITEMS[:5]]
    wanted = fold_in_user(model.factors, model.gram, rows, [1, 1, 6, 1, 1], model.alpha, model.regularization)
    np.testing.assert_array_equal(np.frombuffer(refreshed.embedding, "<f2"), wanted.astype("<f2"))
    assert refreshed.flags & FOLDED_IN


def test_exactly_five_known_items_are_folded_in():
    logic = user_logic()
    four, five = (run(logic, views(count))[-1].state for count in (FOLD_IN_FROM - 1, FOLD_IN_FROM))
    assert not logic.refresh_embedding(four, EPOCH).flags & FOLDED_IN
    assert logic.refresh_embedding(five, EPOCH).flags & FOLDED_IN


def test_no_known_item_gives_no_vector_and_a_missing_model_changes_nothing():
    logic = user_logic()
    state = run(logic, views(6))[-1].state
    refreshed = logic.refresh_embedding(state, EPOCH)
    assert logic.refresh_embedding(refreshed, EPOCH + 1) is refreshed
    unknown = refreshed._replace(item_hashes=b"\1" * len(refreshed.item_hashes))
    empty = logic.refresh_embedding(unknown, EPOCH)
    assert empty.embedding == b"" and not empty.flags & FOLDED_IN


def test_users_refreshed_together_get_the_bits_that_each_gets_alone():
    logic, model = user_logic(), small_model()
    states = [run(logic, views(count))[-1].state for count in (1, 2, FOLD_IN_FROM - 1, FOLD_IN_FROM, 7)]
    states.append(run(logic, views(6, known=False))[-1].state)
    together = refresh_embeddings(states, model, EPOCH)
    assert together == [refresh_embeddings([state], model, EPOCH)[0] for state in states]
    assert refresh_embeddings([], model, EPOCH) == []
