"""What each kind of record does to one user."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from user_examples import (
    DAY,
    EPOCH,
    HOUR,
    ITEMS,
    MINUTE,
    SECOND,
    SETTINGS,
    T0,
    category_of,
    credit,
    event,
    impression,
    run,
    small_model,
    user_logic,
)

import udfs.interests
import udfs.recency_set
import udfs.sessions
from schemas.ids import category_hash, event_hash, item_hash
from schemas.records import Control, EventItem
from udfs.interests import Interests, add_interest, weights_at
from udfs.purchases import insert_bought
from udfs.recency_set import pack_u32
from udfs.user_logic import WAKE_MARGIN_MS, Position, Step, Urgency, UserLogic
from udfs.user_state import EMPTY, EVENT_TYPES, UserState

POSITION = Position(2, 77)
LOGIC = user_logic()


def items_of(state: UserState | None) -> list[str]:
    assert state is not None
    names = {item_hash(item): item for item in ITEMS}
    return [names[value] for value in np.frombuffer(state.item_hashes, "<u8").tolist()]


def hashes(column: bytes) -> list[int]:
    return np.frombuffer(column, "<u8").tolist()


def control(kind: str, consent: str | None = None) -> Control:
    return Control("k1", kind, "default", "u1", None, consent, T0, "")


def apply(state: UserState | None, record, at_ms: int | None = None) -> Step:
    return LOGIC.on_event(state, record, record.event_time if at_ms is None else at_ms, POSITION, EPOCH)


@pytest.mark.parametrize("module", [udfs.interests, udfs.recency_set, udfs.sessions])
def test_examples_run(module):
    assert doctest.testmod(module).failed == 0


def test_a_first_view_makes_a_state_a_session_and_a_wake():
    step = apply(None, event("e1", item="item-7"))
    state = step.state
    assert state is not None
    assert (state.n_events, state.n_views, state.n_sessions, state.session_events) == (1, 1, 1, 1)
    assert (state.first_ms, state.last_ms, state.session_start_ms, state.session_last_ms) == (T0,) * 4
    assert (state.newest_partition, state.newest_offset, state.shards) == (2, 77, 32)
    assert state.item_seconds == pack_u32(T0 // 1000)
    assert state.item_types == bytes((EVENT_TYPES.index("view"),))
    assert state.event_ids == event_hash("e1")
    assert items_of(state) == ["item-7"]
    assert step.rank is Urgency.SOON
    assert step.counts == ("accepted",)
    assert step.wake_at_ms == T0 + SETTINGS.forget_after_ms + WAKE_MARGIN_MS


def test_only_the_first_event_of_a_user_asks_for_a_wake():
    assert [step.wake_at_ms is None for step in run(LOGIC, [event("a"), event("b"), event("c")])] == [
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("kind", "rank"),
    [
        ("view", Urgency.SOON),
        ("click", Urgency.NOW),
        ("add_to_cart", Urgency.NOW),
        ("remove_from_cart", Urgency.NOW),
        ("purchase", Urgency.NOW),
        ("search", Urgency.NOW),
        ("impression", Urgency.NEVER),
        ("rating", Urgency.NEVER),
        ("dwell", Urgency.NEVER),
        ("unknown", Urgency.NEVER),
    ],
)
def test_each_kind_of_event_has_its_urgency(kind, rank):
    assert apply(None, event("e", kind)).rank is rank


def test_counters_and_spend_follow_the_kinds():
    kinds = ["view", "click", "add_to_cart", "purchase", "purchase", "remove_from_cart", "search", "rating"]
    records = [event(f"e{n}", kind, value=2.5) for n, kind in enumerate(kinds)]
    state = run(LOGIC, records)[-1].state
    assert (state.n_events, state.n_views, state.n_carts, state.n_purchases) == (8, 2, 1, 2)
    assert state.spend == 5.0
    assert [EVENT_TYPES[code] for code in state.item_types] == kinds[:6]


def test_an_absurd_value_does_not_break_the_state():
    state = run(LOGIC, [event(f"e{n}", "purchase", value=1e308) for n in range(3)])[-1].state
    assert UserState.decode(state.encode()) == state
    assert 2.9e38 < state.spend < 3.1e38


@pytest.mark.parametrize("kind", ["view", "impression", "search", "unknown"])
def test_a_duplicate_changes_nothing_and_is_counted(kind):
    state = run(LOGIC, [event("e1", kind), event("e2")])[-1].state
    step = apply(state, event("e1", kind, at_ms=T0 + HOUR))
    assert step == Step(state, (), Urgency.NEVER, None, ("duplicate",))


def test_the_last_32_ids_are_remembered_and_no_more():
    state = run(LOGIC, [event(f"e{n}") for n in range(33)])[-1].state
    assert apply(state, event("e1")).counts == ("duplicate",)
    assert apply(state, event("e0")).counts == ("accepted",)


@pytest.mark.parametrize(("consent", "count"), [("none", "no_consent"), ("essential", "essential_only")])
def test_without_consent_there_is_no_profile_and_an_existing_one_is_erased(consent, count):
    assert apply(None, event("e1", consent=consent)) == Step(None, (), Urgency.NEVER, None, (count,))
    state = run(LOGIC, [event("e1")])[-1].state
    for kind in ("view", "impression", "unknown"):
        assert apply(state, event("e2", kind, consent=consent)) == Step(
            None, (), Urgency.ERASE, None, (count,)
        )


def test_an_unknown_type_enters_only_the_ring_of_ids():
    state = run(LOGIC, [event("e1")])[-1].state
    step = apply(state, event("e2", "unknown", at_ms=T0 + DAY))
    assert step.counts == ("unknown_type",)
    assert step.state == state._replace(event_ids=state.event_ids + event_hash("e2"))
    assert apply(state, event("e3", "from the future")).counts == ("unknown_type",)
    alone = apply(None, event("e4", "unknown"))
    assert alone.state == EMPTY._replace(first_ms=T0, last_ms=T0, shards=32, event_ids=event_hash("e4"))
    assert alone.wake_at_ms is not None, "a user of one unknown event is forgotten too"


def test_a_pause_of_the_gap_starts_a_session():
    gap = SETTINGS.session_gap_ms
    times = [T0, T0 + gap - 1, T0 + 2 * gap - 2, T0 + 3 * gap - 2]
    steps = run(LOGIC, [event(f"e{n}", at_ms=at_ms) for n, at_ms in enumerate(times)])
    assert [step.state.n_sessions for step in steps] == [1, 1, 1, 2]
    assert [step.deltas[0].position for step in steps] == [0, 1, 2, 0]
    assert steps[-1].state.session_start_ms == times[-1]


def test_a_late_event_extends_the_session_it_lies_close_to():
    steps = run(LOGIC, [event("e1", at_ms=T0), event("e2", at_ms=T0 - 29 * MINUTE)])
    state = steps[-1].state
    assert (state.n_sessions, state.session_events) == (1, 2)
    assert (state.session_start_ms, state.session_last_ms) == (T0 - 29 * MINUTE, T0)
    assert (state.first_ms, state.last_ms) == (T0 - 29 * MINUTE, T0)
    assert steps[-1].deltas[0].session_start == T0 - 29 * MINUTE


def test_an_event_of_a_session_already_over_only_enters_the_interactions():
    before = run(LOGIC, [event("e1", item="item-1")])[-1].state
    step = apply(before, event("e2", item="item-2", at_ms=T0 - 30 * MINUTE))
    assert step.deltas == ()
    assert step.counts == ("accepted", "late")
    assert items_of(step.state) == ["item-2", "item-1"]
    assert step.state[8:12] == before[8:12], "the session stays"


def test_interactions_stand_in_time_order_and_equal_seconds_keep_arrival_order():
    offsets = [0, 10, 5, 5, 20, 10]
    records = [event(f"e{n}", item=ITEMS[n], at_ms=T0 + s * SECOND) for n, s in enumerate(offsets)]
    state = run(LOGIC, records)[-1].state
    assert items_of(state) == [ITEMS[n] for n in (0, 2, 3, 1, 5, 4)]
    assert np.all(np.diff(np.frombuffer(state.item_seconds, "<u4").astype(int)) >= 0)


def test_a_late_interaction_keeps_its_kind():
    records = [event("a", "purchase", "item-1", T0), event("b", "click", "item-2", T0 - MINUTE)]
    state = run(LOGIC, records)[-1].state
    assert [EVENT_TYPES[code] for code in state.item_types] == ["click", "purchase"]


def test_of_51_interactions_the_oldest_by_time_goes_even_if_it_came_last():
    records = [event(f"e{n}", item=ITEMS[n], at_ms=T0 + n * SECOND) for n in range(50)]
    state = run(LOGIC, records)[-1].state
    assert items_of(apply(state, event("new", item=ITEMS[60], at_ms=T0 + HOUR)).state) == [
        *ITEMS[1:50],
        ITEMS[60],
    ]
    assert items_of(apply(state, event("old", item=ITEMS[60], at_ms=T0 - HOUR)).state) == list(ITEMS[:50])


def test_a_delta_names_the_session_its_items_and_where_it_was_read():
    first = [event(f"a{n}", item=ITEMS[n], at_ms=T0 + n * SECOND) for n in range(3)]
    second = [event(f"b{n}", item=ITEMS[10 + n], at_ms=T0 + HOUR + n * SECOND) for n in range(12)]
    state = run(LOGIC, [*first, *second[:2]])[-1].state
    delta = LOGIC.on_event(state, second[2], second[2].event_time, Position(5, 99), EPOCH).deltas[0]
    assert delta[:5] == ("default", "u1", 2, T0 + HOUR, 2)
    assert (delta.item_id, delta.event_type, delta.event_time) == (ITEMS[12], "view", T0 + HOUR + 2 * SECOND)
    wanted = [item_hash(ITEMS[number]) for number in (10, 11)]
    assert hashes(delta.previous_items) == wanted, "the session before is not in it"
    assert (delta.partition, delta.offset, delta.n) == (5, 99, 0)
    last = run(LOGIC, [*first, *second])[-1].deltas[0]
    assert hashes(last.previous_items) == [item_hash(ITEMS[10 + number]) for number in range(1, 11)]


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_views_clicks_carts_and_purchases_make_deltas(kind):
    wanted = int(kind in {"view", "click", "add_to_cart", "purchase"})
    assert len(apply(None, event("e", kind)).deltas) == wanted


def test_each_line_of_an_order_is_bought_once():
    lines = tuple(EventItem(item) for item in ("item-2", "item-1", "item-3", "item-2"))
    step = apply(None, event("e", "purchase", "item-1", items=lines, value=10.0))
    assert items_of(step.state) == ["item-1", "item-2", "item-3"]
    assert hashes(step.state.bought_hashes) == hashes(step.state.item_hashes)
    assert [(delta.item_id, delta.n) for delta in step.deltas] == [
        ("item-1", 0),
        ("item-2", 1),
        ("item-3", 2),
    ]
    assert (step.state.n_purchases, step.state.spend) == (1, 10.0)


def test_an_item_bought_again_moves_to_the_end_and_a_late_purchase_does_not_move_it_back():
    def buy(pairs):
        bought = (b"", b"", b"")
        for item, second in pairs:
            bought = insert_bought(bought, item, second, 3)
        return bought[0], np.frombuffer(bought[1], "<u4").tolist()

    a, b, c = (bytes([letter]) * 8 for letter in b"abc")
    assert buy([(a, 10), (b, 20), (a, 30)]) == (b + a, [20, 30])
    assert buy([(a, 10), (b, 20), (a, 5)]) == (a + b, [10, 20])
    assert buy([(a, 10), (b, 20), (c, 15)]) == (a + c + b, [10, 15, 20])


def test_an_impression_marks_items_seen_and_its_list_unanswered_until_it_is_answered():
    state = apply(None, impression("i1", ["item-1", "item-2"], "rec-1")).state
    state = apply(state, impression("i2", ["item-3", "item-1"], "rec-2")).state
    assert hashes(state.seen_hashes) == [item_hash(f"item-{n}") for n in (2, 3, 1)]
    assert len(hashes(state.pending_hashes)) == len(state.pending_seconds) // 4 == 2
    assert (state.n_sessions, state.item_hashes, state.n_events) == (0, b"", 2)
    for kind, left in (("view", 2), ("click", 1), ("add_to_cart", 1), ("purchase", 1), ("search", 2)):
        after = apply(state, event("c", kind, rec_id="rec-1")).state
        assert len(hashes(after.pending_hashes)) == len(after.pending_seconds) // 4 == left, kind
    answered = apply(state, event("c", "click", rec_id="rec-1")).state
    assert answered.pending_hashes == state.pending_hashes[8:]


def test_a_list_shown_again_stays_unanswered_since_it_was_first_shown():
    state = apply(None, impression("i1", ["item-1"], "rec-1")).state
    state = apply(state, impression("i2", ["item-1"], "rec-1", T0 + HOUR)).state
    assert (len(state.pending_hashes), state.pending_seconds) == (8, pack_u32(T0 // 1000))


def test_a_late_impression_does_not_set_the_user_back():
    state = run(LOGIC, [event("e1"), impression("i1", ["item-1"], "rec-1", T0 - HOUR)])[-1].state
    assert (state.first_ms, state.last_ms) == (T0 - HOUR, T0)


def test_the_last_four_unanswered_lists_and_64_seen_items_are_kept():
    state = None
    for number in range(6):
        shown = [ITEMS[number * 15 + place] for place in range(15)]
        state = apply(state, impression(f"i{number}", shown, f"rec-{number}")).state
    assert len(hashes(state.pending_hashes)) == 4
    assert hashes(state.seen_hashes) == [item_hash(item) for item in ITEMS[90 - 64 : 90]]


def test_interests_weigh_kinds_and_halve_in_a_week():
    records = [
        event("a", "view", "item-1", T0),
        event("b", "purchase", "item-2", T0 + 7 * DAY),
        event("c", "add_to_cart", "item-1", T0 + 7 * DAY),
        event("d", "remove_from_cart", "item-3", T0 + 7 * DAY),
    ]
    state = run(LOGIC, records)[-1].state
    interests = Interests(state.interest_categories, state.interest_weights, state.interests_ms)
    found = weights_at(interests, T0 + 7 * DAY)
    assert found == {category_hash(category_of("item-1")): 3.5, category_hash(category_of("item-2")): 5.0}


@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from([1.0, 3.0, 5.0]), st.integers(0, 80)), max_size=30)
)
def test_interests_do_not_depend_on_the_order_of_arrival(entries):
    def total(order):
        interests = (b"", b"", 0)
        for category, weight, day in order:
            interests = add_interest(*interests, category, weight, day * DAY)
        return weights_at(Interests(*interests), 80 * DAY)

    one, other = total(entries), total(entries[::-1])
    for category in one.keys() | other.keys():
        assert one.get(category, 0.0) == pytest.approx(other.get(category, 0.0), rel=1e-5, abs=1e-8)


def test_years_of_interests_neither_overflow_nor_keep_what_vanished():
    interests = add_interest(b"", b"", 0, 5, 1.0, 0)
    for week in range(1_000):
        interests = add_interest(*interests, 9, 1.0, week * 7 * DAY)
    found = weights_at(Interests(*interests), 999 * 7 * DAY)
    assert found == {9: pytest.approx(2.0, rel=1e-6)}


def test_of_17_interests_the_least_goes_and_of_equal_ones_the_smaller_hash():
    interests = (b"", b"", 0)
    for category in (*range(30, 45), 7):
        interests = add_interest(*interests, category, 3.0, 0)
    assert 7 not in weights_at(Interests(*add_interest(*interests, 50, 5.0, 0)), 0)
    kept = weights_at(Interests(*add_interest(*interests, 50, 1.0, 0)), 0)
    assert 50 not in kept and len(kept) == 16


def test_an_item_the_model_does_not_know_is_counted_and_kept():
    step = apply(None, event("e", item="brand new"))
    assert step.counts == ("accepted", "unknown_item")
    assert len(step.state.item_hashes) == 8 and step.state.interest_categories == b""
    without_model = LOGIC.on_event(None, event("e", item="brand new"), T0, POSITION, 0)
    assert without_model.counts == ("accepted",)


def test_models_may_be_a_function():
    logic = UserLogic(SETTINGS, {EPOCH: small_model()}.get)
    assert run(logic, [event("e")]) == run(LOGIC, [event("e")])


def test_after_a_long_absence_a_user_starts_anew():
    state = run(LOGIC, [event("e1"), event("e2", "purchase")])[-1].state
    last = T0 + SETTINGS.forget_after_ms
    assert apply(state, event("e3", at_ms=last)).state.n_events == 3
    step = apply(state, event("e3", at_ms=last + 1))
    assert step.state == apply(None, event("e3", at_ms=last + 1)).state
    assert step.wake_at_ms is None, "the wake of the first visit still stands"


def test_a_wake_forgets_only_when_no_event_can_come_that_would_find_the_user():
    state = run(LOGIC, [event("e1")])[-1].state
    due = T0 + SETTINGS.forget_after_ms + WAKE_MARGIN_MS
    assert LOGIC.on_wake(state, due - 1) == Step(state, wake_at_ms=due)
    assert LOGIC.on_wake(state, due) == Step(None, counts=("forgotten",))
    assert LOGIC.on_wake(None, due) == Step(None)


def test_a_credit_moves_its_arm_once_and_makes_no_profile():
    assert LOGIC.on_credit(None, credit("c1"), POSITION) == Step(None, counts=("credit_without_user",))
    state = run(LOGIC, [event("e1")])[-1].state
    step = LOGIC.on_credit(state, credit("c1", "repeat", 1.0), POSITION)
    assert step.counts == ("credited",) and step.rank is Urgency.NEVER
    assert np.frombuffer(step.state.arm_alpha, "<f4").tolist() == [10, 1, 1, 2, 1]
    assert np.frombuffer(step.state.arm_beta, "<f4").tolist() == [90, 49, 49, 49, 49]
    assert LOGIC.on_credit(step.state, credit("c1", "repeat", 1.0), POSITION) == Step(
        step.state, counts=("duplicate",)
    )
    assert LOGIC.on_credit(state, credit("c1", "oracle"), POSITION) == Step(state, counts=("unknown_arm",))
    for arm, counted in (("new", "credited_new"), ("list:plain", "credited_list")):
        assert LOGIC.on_credit(state, credit("c1", arm), POSITION) == Step(state, counts=(counted,))


def test_erasure_and_withdrawn_consent_delete_state_and_lists():
    state = run(LOGIC, [event("e1")])[-1].state
    for known in (state, None):
        assert LOGIC.on_control(known, control("erase_user"), POSITION)[:3] == (None, (), Urgency.ERASE)
        for consent in ("none", "essential"):
            assert LOGIC.on_control(known, control("set_consent", consent), POSITION)[:3] == (
                None,
                (),
                Urgency.ERASE,
            )


def test_other_orders_leave_the_state_as_it_is():
    state = run(LOGIC, [event("e1")])[-1].state
    for known in (state, None):
        for order in (
            control("set_consent", "personalization"),
            control("activate_epoch"),
            control("preload_epoch"),
        ):
            assert LOGIC.on_control(known, order, POSITION)[:3] == (known, (), Urgency.NEVER)
        for order in (control("unknown"), control("set_consent")):
            assert LOGIC.on_control(known, order, POSITION) == Step(known, counts=("bad_control",))
    assert LOGIC.on_control(state, control("republish"), POSITION).rank is Urgency.NOW
    assert LOGIC.on_control(None, control("republish"), POSITION).rank is Urgency.NEVER
