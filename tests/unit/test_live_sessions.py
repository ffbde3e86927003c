"""The session source: by hash over epochs, a user's own session left out, learning and asking in order."""

from __future__ import annotations

import numpy as np
from bundles import item_id, sessions_of, snapshot, toy_items, toy_state
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.ids import item_hash
from udfs.neighbours.item_table import ItemTable
from udfs.neighbours.session_index import SessionIndex, as_queries
from udfs.ranking.candidates import SESSIONS
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.click_records import session_key
from udfs.ranking.found_items import FoundItems
from udfs.ranking.item_index import ItemIndex
from udfs.ranking.live_sessions import LIMITS, SCAN, LiveSessions
from udfs.ranking.rank import RankSettings, prepare
from udfs.ranking.snapshot import Snapshot, decode_states
from udfs.user_state import UserState

INDEX = ItemIndex.build(toy_items(60))
EVERYTHING = np.ones(60, np.bool_)
SEEN = ([1, 2, 3], [1, 2, 5], [7, 2, 9], [2, 3, 900])


def ask(live: LiveSessions, *states: UserState, index: ItemIndex = INDEX, limit: int = 20) -> FoundItems:
    some = [snapshot(state) for state in states]
    return live.find(index, some, decode_states(some), np.ones(len(index), np.bool_), limit)


def names(found: FoundItems, index: ItemIndex = INDEX, user: int = 0) -> list[str]:
    return [index.item_ids[row] for row in found.rows[user, : found.counts[user]]]


def in_session(items: list[int], ordinal: int = 1) -> UserState:
    """A user whose last session holds these items."""
    return toy_state(items)._replace(n_sessions=ordinal, session_start_ms=0)


@given(st.lists(st.lists(st.integers(0, 40), max_size=30), max_size=20))
@settings(deadline=None)
def test_the_table_numbers_items_in_the_order_in_which_they_come(calls: list[list[int]]) -> None:
    table, wanted = ItemTable(), dict[int, int]()
    for call in calls:
        rows = [wanted.setdefault(k << 58 | k, len(wanted)) for k in call]  # hashes that share their low bits
        assert table.add(np.array([k << 58 | k for k in call], np.uint64)).tolist() == rows
    assert len(table) == len(wanted)
    assert table.hashes.tolist() == list(wanted)


def test_the_table_grows_and_stops_at_its_limit() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**63, 5_000).astype(np.uint64)
    table = ItemTable(most=4_000)
    assert table.add(hashes).tolist() == [*range(4_000), *[-1] * 1_000]
    assert table.add(hashes[:3]).tolist() == [0, 1, 2]
    live = LiveSessions(most_items=2)
    live.observe(np.array([1, 1, 1], np.uint64), hashes[:3])
    assert live.clicks == 2


def test_it_answers_what_the_index_answers_for_the_same_items() -> None:
    plain = SessionIndex(LIMITS, SCAN)
    numbers = {k: row for row, k in enumerate(dict.fromkeys(k for session in SEEN for k in session))}
    for session, items in enumerate(SEEN):
        for k in items:
            plain.observe(session, numbers[k])
    known = np.array([k < 60 for k in numbers])
    wanted = plain.query(as_queries([[numbers[k] for k in (1, 2)]]), 20, known)
    found = ask(sessions_of(*SEEN), in_session([1, 2]))
    by_row = {row: item_id(k) for k, row in numbers.items()}
    assert names(found) == [by_row[row] for row in wanted.rows[0, : wanted.counts[0]].tolist()]
    np.testing.assert_array_equal(found.score[0, : found.counts[0]], wanted.scores[0, : wanted.counts[0], 0])


def test_a_session_before_the_last_one_says_nothing() -> None:
    live = sessions_of([50, 51], *SEEN)
    state = toy_state([50, 1])
    newest_s = int(np.frombuffer(state.item_seconds, "<u4")[-1])
    last = state._replace(n_sessions=2, session_start_ms=1000 * newest_s)
    assert "item-51" in names(ask(live, in_session([50, 1])))
    assert "item-51" not in names(ask(live, last))


def test_a_users_own_session_is_no_neighbour_of_itself() -> None:
    key = snapshot(None).key
    live = sessions_of([1, 2])
    own = np.array([session_key(key, 3)] * 2, np.uint64)
    live.observe(own, np.array([item_hash("item-1"), item_hash("item-40")], np.uint64))
    assert "item-40" not in names(ask(live, in_session([1], ordinal=3)))
    assert "item-40" in names(ask(live, in_session([1], ordinal=2)))


def test_each_epoch_gets_its_own_rows_and_new_items_reach_both() -> None:
    live, other = sessions_of(*SEEN), ItemIndex.build(toy_items(30))
    for _ in range(2):
        assert sorted(names(ask(live, in_session([2])))) == sorted(
            names(ask(live, in_session([2]), index=other), other)
        )
    live.observe(np.array([77, 77], np.uint64), np.array([item_hash(item_id(k)) for k in (2, 28)], np.uint64))
    for index in (INDEX, other):
        assert "item-28" in names(ask(live, in_session([2]), index=index), index)


def test_learning_and_asking_by_turns_is_doing_one_after_the_other() -> None:
    clicks = [(session, k) for session, items in enumerate(SEEN) for k in items if k < 60]
    keys = np.array([session for session, _ in clicks], np.uint64)
    hashes = np.array([item_hash(item_id(k)) for _, k in clicks], np.uint64)
    before = np.array([0, 2, 2, 5, len(clicks)])
    states = [in_session([1, 2]), in_session([1]), in_session([2]), in_session([1, 2, 3]), in_session([7])]
    some: list[Snapshot] = [snapshot(state) for state in states]
    together = LiveSessions().find_between(
        INDEX, some, decode_states(some), EVERYTHING, 20, keys, hashes, before
    )
    for user, (state, done) in enumerate(zip(states, before.tolist(), strict=True)):
        live = LiveSessions()
        live.observe(keys[:done], hashes[:done])
        alone = ask(live, state)
        assert names(together, user=user) == names(alone)
        count = alone.counts[0]
        np.testing.assert_array_equal(together.score[user, :count], alone.score[0, :count])


def test_its_candidates_carry_rank_and_score_and_the_rules_hold() -> None:
    view = CatalogueView(INDEX)
    how = RankSettings(candidates=40, finalists=20)
    shot = [snapshot(in_session([1, 2]))]
    found = prepare(INDEX, shot, view, how, 7, sessions_of(*SEEN)).candidates
    row = INDEX.row(item_hash("item-5"))
    place = found.rows[0].tolist().index(row)
    assert found.rank[0, place, SESSIONS] > 0 and found.session_score[0, place] > 0
    view.allowed[row] = False
    assert row not in prepare(INDEX, shot, view, how, 7, sessions_of(*SEEN)).candidates.rows[0].tolist()
    nothing = prepare(INDEX, shot, view, how, 7).candidates
    assert not nothing.rank[:, :, SESSIONS].any() and not nothing.session_score.any()
