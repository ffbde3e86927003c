"""The session index: kernels equal the plain reference, memory is bounded, sessions are forgotten oldest first."""

from __future__ import annotations

import numpy as np
import pytest

from udfs.neighbours.index_arrays import HORIZONS_CLICKS, SESSION_CAP, IndexLimits, size_bytes
from udfs.neighbours.reference import ReferenceIndex
from udfs.neighbours.scan_arrays import N_SUMS, ScanSettings
from udfs.neighbours.selection import select_top
from udfs.neighbours.session_index import SessionIndex, as_queries

SMALL = IndexLimits(sessions=16, sessions_per_item=8, pool=1 << 12)


def pair(limits: IndexLimits, settings: ScanSettings) -> tuple[SessionIndex, ReferenceIndex]:
    return SessionIndex(limits, settings, items=4), ReferenceIndex(limits, settings, HORIZONS_CLICKS[1])


def assert_equal_answers(
    index: SessionIndex, reference: ReferenceIndex, sessions: list[list[int]], keys: list[int]
) -> None:
    found = index.query(as_queries(sessions, keys), limit=12)
    for q, (session, key) in enumerate(zip(sessions, keys, strict=True)):
        wanted = reference.query(session, key, limit=12)
        assert found.counts[q] == len(wanted)
        got = {int(row): scores for row, scores in zip(found.rows[q], found.scores[q], strict=True)}
        for place, (row, scores) in enumerate(wanted):
            # Rounding to float32 may swap neighbours of all but equal score.
            assert found.scores[q, place, 0] == pytest.approx(scores[0], rel=1e-5)
            if row in got:
                np.testing.assert_allclose(got[row][:N_SUMS], scores, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("limits", "settings"),
    [
        (IndexLimits(sessions=256, sessions_per_item=64, pool=1 << 12), ScanSettings()),
        (SMALL, ScanSettings(neighbours=3, hop_items=2, hop_sessions=2)),
        (SMALL, ScanSettings(hop_items=0, query_items=2, length_power=0.0, half_age_clicks=50.0)),
    ],
)
def test_kernels_equal_the_reference_on_random_clicks(
    seed: int, limits: IndexLimits, settings: ScanSettings
) -> None:
    rng = np.random.default_rng(seed)
    index, reference = pair(limits, settings)
    history: dict[int, list[int]] = {}
    for step in range(400):
        key, item = int(rng.integers(step // 8, step // 8 + 12)), int(rng.zipf(1.6)) % 40
        index.observe(key, item)
        reference.observe(key, item)
        history.setdefault(key, []).append(item)
        if step % 40 == 39:
            keys = [int(name) for name in rng.choice(list(history), 4)]
            assert_equal_answers(index, reference, [history[name] for name in keys], keys)


def test_kernels_equal_the_reference_when_sessions_are_longer_than_what_is_kept() -> None:
    index, reference = pair(SMALL, ScanSettings())
    for step in range(3 * SESSION_CAP):
        for key in (1, 2):
            index.observe(key, (step * key) % 45)
            reference.observe(key, (step * key) % 45)
    assert_equal_answers(index, reference, [[3, 4, 44], [44]], [9, 2])


def test_kernels_equal_the_reference_on_one_item_clicked_again_and_again() -> None:
    index, reference = pair(SMALL, ScanSettings())
    for key in range(40):
        for item in (5, 5, 6, 5, key % 3, 5):
            index.observe(key, item)
            reference.observe(key, item)
    assert_equal_answers(index, reference, [[5], [5, 6, 5], [0, 1, 2]], [39, 77, 78])


def test_a_batch_learns_what_clicks_one_by_one_teach() -> None:
    one, batch = SessionIndex(SMALL), SessionIndex(SMALL)
    rng = np.random.default_rng(3)
    keys, items = rng.integers(0, 30, 300).astype(np.uint64), rng.integers(0, 20, 300).astype(np.int32)
    for key, item in zip(keys.tolist(), items.tolist(), strict=True):
        one.observe(key, item)
    batch.observe_all(keys, items)
    for left, right in zip(one.arrays, batch.arrays, strict=True):
        np.testing.assert_array_equal(left, right)


def test_query_and_observe_answers_each_query_before_its_click_is_learnt() -> None:
    together, apart = SessionIndex(SMALL), SessionIndex(SMALL)
    rng = np.random.default_rng(4)
    sessions, keys = [rng.integers(0, 9, 3).tolist() for _ in range(50)], rng.integers(0, 12, 50).tolist()
    items = rng.integers(0, 9, 50).astype(np.int32)
    found = together.query_and_observe(as_queries(sessions, keys), items, limit=5)
    for q in range(50):
        alone = apart.query(as_queries([sessions[q]], [keys[q]]), limit=5)
        apart.observe(keys[q], int(items[q]))
        np.testing.assert_array_equal(found.rows[q], alone.rows[0])
        np.testing.assert_array_equal(found.scores[q], alone.scores[0])


@pytest.mark.parametrize("count", [0, 1, 2, 9, 300])
def test_the_best_few_in_no_order_are_those_of_a_sort(count: int) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        keys = rng.permutation(np.arange(1_000, dtype=np.uint64))[:count]
        if seed % 3 == 0:
            keys.sort()
        for k in (0, 1, count // 2, count, count + 5):
            found = keys.copy()
            select_top(found, count, k)
            np.testing.assert_array_equal(np.sort(found[:k])[::-1], np.sort(keys)[::-1][:k])
            np.testing.assert_array_equal(np.sort(found), np.sort(keys))


def test_a_recycled_session_is_nobodys_neighbour_and_can_begin_again() -> None:
    index = SessionIndex(IndexLimits(sessions=4, sessions_per_item=8, pool=256))
    index.observe(1, 7)
    index.observe(1, 8)
    for key in range(2, 6):
        index.observe(key, 3)
    assert index.query([[7]]).rows[0, 0] == 7  # itself, as a repeat; nothing else is known
    assert index.query([[7]]).counts[0] == 1
    index.observe(1, 7)
    index.observe(1, 9)
    assert 9 in index.query([[7]]).rows[0].tolist()
    assert index.sessions == 6


def test_a_used_up_pool_makes_rings_forget_earlier_and_nothing_else() -> None:
    index = SessionIndex(IndexLimits(sessions=64, sessions_per_item=32, pool=8))
    for key in range(40):
        index.observe(key, 0)
        index.observe(key, 1)
        index.observe(key, 2)  # no ring left for it
    found = index.query([[0]])
    assert {1, 2} <= set(found.rows[0].tolist())
    assert index.arrays.ring_room.tolist()[:3] == [4, 4, 0]


def test_a_session_is_no_neighbour_of_itself() -> None:
    index = SessionIndex(SMALL)
    for item in (1, 2, 3):
        index.observe(5, item)
    assert index.query(as_queries([[1]], [5])).counts[0] == 1
    assert index.query(as_queries([[1]], [6])).counts[0] == 3


def test_items_that_are_not_allowed_connect_sessions_but_are_no_candidates() -> None:
    index = SessionIndex(SMALL)
    for key in (1, 2):
        for item in (4, 5, 6):
            index.observe(key, item)
    allowed = np.ones(1024, bool)
    allowed[5] = False
    assert set(index.query([[5]], allowed=allowed).rows[0].tolist()) - {-1} == {4, 6}


def test_memory_is_what_is_stated() -> None:
    index = SessionIndex(SMALL, items=100)
    assert sum(array.nbytes for array in index.arrays) <= size_bytes(SMALL, 100) + 200
    assert index.size_bytes() == size_bytes(SMALL, 100)


def test_limits_that_are_no_powers_of_two_are_refused() -> None:
    with pytest.raises(ValueError, match="power of two, got 100"):
        SessionIndex(IndexLimits(sessions=100))
