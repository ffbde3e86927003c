"""Laws of the join: order, repeats and timers change nothing, bytes are stable, state is bounded and forgotten."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from user_examples import DAY, HOUR, MINUTE, SECOND, T0, event

from schemas.records import Control, Credit, Event, EventItem, Example, ListShare, ServedItem, ServedList
from udfs.feedback.feedback_logic import FeedbackLogic
from udfs.feedback.feedback_state import (
    MAX_LISTS,
    MAX_OUTCOMES,
    MAX_SHOWINGS,
    MAX_STATE_BYTES,
    FeedbackState,
    FeedbackStateError,
)
from udfs.feedback.reference import join
from udfs.feedback.rules import FeedbackRules
from udfs.feedback.showing import items_of

RULES = FeedbackRules(superseded_ms=HOUR)  # the histories show older lists, too
LOGIC = FeedbackLogic(RULES)
ITEMS = tuple(f"item-{number}" for number in range(6))
LIST_POLICIES = {"r0": "plain", "r2": "b"}
END = T0 + 100 * DAY
thorough = settings(
    max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


class Arrival(NamedTuple):
    """A record, its time, and how long after it the record arrived."""

    record: ServedList | Event
    at_ms: int
    delay_ms: int


def served(rec_id: str, items: tuple[str, ...], at_ms: int, snapshot: bytes = b"state") -> ServedList:
    sources = ("ranker", "popular")
    slots = tuple(ServedItem(item, 1.0 - n, sources[n % 2], 0.9 - 0.1 * n) for n, item in enumerate(items))
    made = ServedList(rec_id, "default", "u1", "v1", at_ms, at_ms + 90, 3, "m", "exp=b", 17, slots, snapshot)
    if rec_id in LIST_POLICIES:  # of others it was not logged, or there was none
        made = made._replace(
            list_policy=LIST_POLICIES[rec_id], list_shares=(ListShare("plain", 0.75), ListShare("b", 0.25))
        )
    return made


@st.composite
def histories(draw: st.DrawFn) -> list[Arrival]:
    """Draw lists, impressions and outcomes of one user, all within the allowed lateness."""
    delays = st.integers(0, RULES.lateness_ms - 1)
    spans = st.sampled_from([0, 1, SECOND, MINUTE, 10 * MINUTE, 29 * MINUTE, 31 * MINUTE, 3 * HOUR, DAY])
    arrivals = []
    lists: dict[str, tuple[int, tuple[str, ...]]] = {}
    for number in range(draw(st.integers(1, 4))):
        at_ms = T0 + draw(st.integers(0, 30)) * MINUTE
        items = tuple(draw(st.lists(st.sampled_from(ITEMS), min_size=1, max_size=4, unique=True)))
        lists[f"r{number}"] = at_ms, items
        if draw(st.integers(0, 9)):  # else its record never comes
            arrivals.append(Arrival(served(f"r{number}", items, at_ms), at_ms, draw(delays)))
    names = st.sampled_from([*lists, "unheard of"])
    for number in range(draw(st.integers(0, 5))):
        rec_id = draw(names)
        start_ms, items = lists.get(rec_id, (T0, ITEMS))
        at_ms = start_ms + draw(spans) % (26 * MINUTE)
        chosen = draw(st.lists(st.sampled_from([*items, *ITEMS[:2]]), max_size=3, unique=True))
        shown = tuple(EventItem(item, draw(st.sampled_from([None, 0, 7]))) for item in chosen)
        record = event(f"i{number}", "impression", None, at_ms, items=shown, rec_id=rec_id)
        arrivals.append(Arrival(record, at_ms, draw(delays)))
    kinds = ["click", "view", "add_to_cart", "remove_from_cart", "purchase", "dwell", "search"]
    for number in range(draw(st.integers(0, 8))):
        kind = draw(st.sampled_from(kinds))
        at_ms = T0 + draw(st.integers(0, 40)) * MINUTE + draw(spans)
        items = tuple(EventItem(draw(st.sampled_from(ITEMS))) for _ in range(draw(st.integers(0, 2))))
        record = event(
            f"o{number}",
            kind,
            draw(st.sampled_from(ITEMS)),
            at_ms,
            items=items if kind == "purchase" else (),
            rec_id=draw(st.none() | names),
            value=draw(st.sampled_from([0.1, 12.5, 100.0])) if kind in ("purchase", "dwell") else None,
        )
        arrivals.append(Arrival(record, at_ms, draw(delays)))
    return arrivals


class Made(NamedTuple):
    """All outputs of a run, each once, and how many there were."""

    examples: frozenset[Example]
    credits: frozenset[Credit]
    count: int


def run(arrivals: list[tuple[Arrival, int]], wakes: str = "never", logic: FeedbackLogic = LOGIC) -> Made:
    """Apply records at the given clocks, through bytes, then let all time pass."""
    state, wake_at_ms, examples, credits = None, None, [], []

    def take(step):  # type: ignore[no-untyped-def]
        nonlocal wake_at_ms
        examples.extend(step.examples)
        credits.extend(step.credits)
        if step.wake_at_ms is not None:
            wake_at_ms = min(step.wake_at_ms, wake_at_ms or step.wake_at_ms)
        if step.state is None:
            return None
        assert wake_at_ms is not None and wake_at_ms <= step.state.due_ms, "a wake is never set too late"
        data = step.state.encode()
        assert len(data) <= MAX_STATE_BYTES
        assert FeedbackState.decode(data) == step.state
        return FeedbackState.decode(data)

    def wake(clock_ms: int) -> None:
        nonlocal state, wake_at_ms
        while state is not None and wake_at_ms is not None and wake_at_ms <= clock_ms:
            at_ms, wake_at_ms = wake_at_ms, None
            state = take(logic.on_wake(state, at_ms))

    for (record, at_ms, _), clock_ms in arrivals:
        if wakes == "on time":
            wake(clock_ms)
        elif wakes == "early":
            state = take(logic.on_wake(state, clock_ms - 7 * DAY))
        if isinstance(record, ServedList):
            state = take(logic.on_list(state, record, clock_ms))
        else:
            state = take(logic.on_event(state, record, at_ms, clock_ms))
    assert state is None or wake_at_ms is not None, "a stored user always has a wake"
    if wakes == "on time":
        wake(END)
    elif state is not None:
        state = take(logic.on_wake(state, END))
    assert state is None
    assert len(set(examples)) == len(examples) and len(set(credits)) == len(credits)
    return Made(frozenset(examples), frozenset(credits), len(examples) + len(credits))


def in_time(history: list[Arrival]) -> list[tuple[Arrival, int]]:
    """Each record at its arrival, the clock being the time of arrival."""
    return sorted(((one, one.at_ms + one.delay_ms) for one in history), key=lambda pair: pair[1])


@thorough
@given(history=histories(), data=st.data())
def test_order_repeats_and_timers_give_one_set_of_examples_and_credits(history, data):
    plain = run(in_time(history))
    examples, credits = join(
        [one.record for one in history if isinstance(one.record, ServedList)],
        [(one.record, one.at_ms) for one in history if isinstance(one.record, Event)],
        RULES,
    )
    assert plain.examples == examples, "the slow reference says the same"
    assert {(one.rec_id, one.arm, one.reward, one.event_time) for one in plain.credits} == credits
    assert run(in_time(history), "on time") == plain
    assert run(in_time(history), "early") == plain
    again = [one._replace(delay_ms=data.draw(st.integers(0, 30 * MINUTE))) for one in history]
    assert run(in_time(history + again)) == plain, "twice counts once, the second time late too"
    shuffled = data.draw(st.permutations(history + history))
    assert run([(one, 0) for one in shuffled]) == plain, "in any order, with a clock that stands"
    assert run([(one, 0) for one in shuffled], "on time") == plain


@thorough
@given(history=histories(), data=st.data())
def test_what_comes_too_late_gives_one_answer_whenever_timers_run(history, data):
    delays = st.sampled_from([0, MINUTE, 4 * MINUTE, 6 * MINUTE, 40 * MINUTE, 2 * HOUR, 25 * HOUR, 3 * DAY])
    late = [one._replace(delay_ms=data.draw(delays)) for one in history]
    plain = run(in_time(late))
    assert run(in_time(late), "on time") == run(in_time(late), "early") == plain


@thorough
@given(history=histories())
def test_a_step_leaves_its_input_as_it_was_and_is_a_function_of_it(history):
    state = None
    for one, clock_ms in in_time(history):
        before = None if state is None else state.encode()
        if isinstance(one.record, ServedList):
            step, again = (LOGIC.on_list(state, one.record, clock_ms) for _ in range(2))
        else:
            step, again = (LOGIC.on_event(state, one.record, one.at_ms, clock_ms) for _ in range(2))
        assert step == again
        assert (None if state is None else state.encode()) == before
        state = step.state


def test_no_flood_exceeds_the_bound_and_a_flood_loses_unseen_lists_first():
    logic = FeedbackLogic()
    state, counts, examples = None, [], []
    items = tuple("x" * 120 + str(number) for number in range(50))
    for number in range(150):
        at_ms = T0 + number
        kinds = [served(f"r{number}", items, at_ms, b"s" * 2_610)]
        shown = tuple(EventItem(item) for item in (*items, *ITEMS, "a", "b", *map(str, range(30))))
        kinds.append(event(f"i{number}", "impression", None, at_ms, items=shown, rec_id=f"r{number - 3}"))
        kinds.append(event(f"j{number}", "impression", None, at_ms, items=shown, rec_id=f"none {number}"))
        kinds += [event(f"o{number}-{part}", "click", items[number % 50], at_ms) for part in range(3)]
        for record in kinds:
            step = (
                logic.on_list(state, record, 0)
                if isinstance(record, ServedList)
                else logic.on_event(state, record, at_ms, 0)
            )
            state, counts, examples = step.state, counts + list(step.counts), examples + list(step.examples)
            assert len(state.encode()) <= MAX_STATE_BYTES
            assert len(state.lists) <= MAX_LISTS
            assert len(state.showings) <= MAX_SHOWINGS and len(state.outcomes) <= MAX_OUTCOMES
    assert {"list_settled_early", "impression_evicted", "outcome_evicted"} <= set(counts)
    assert len(examples) == counts.count("list_settled_early") > 0
    assert len({one.rec_id for one in examples}) == len(examples)


@pytest.mark.parametrize(
    "data", [b"", b"\x02", b"\x01\x01\x00\x00\x00\x00", FeedbackState().encode() + b"\0"]
)
def test_bytes_that_are_no_state_are_refused(data):
    with pytest.raises(FeedbackStateError, match="feedback state: "):
        FeedbackState.decode(data)


def test_an_erased_user_leaves_nothing_and_earns_nothing():
    step = LOGIC.on_list(None, served("r", ITEMS, T0), T0)
    shown = LOGIC.on_event(step.state, event("i", "impression", None, rec_id="r"), T0, T0)
    for order in (
        Control("c", "erase_user", "default", "u1", None, None, T0, ""),
        Control("c", "set_consent", "default", "u1", None, "essential", T0, ""),
    ):
        assert LOGIC.on_control(shown.state, order, T0 + 9 * DAY)[:3] == (None, (), ())
    plain = event("v", "view", consent="essential")
    assert LOGIC.on_event(shown.state, plain, T0, T0 + 9 * DAY)[:3] == (None, (), ())
    kept = Control("c", "set_consent", "default", "u1", None, "personalization", T0, "")
    assert len(LOGIC.on_control(shown.state, kept, T0 + 9 * DAY).examples) == 1


GOLDEN_V1 = bytes.fromhex(
    "010102010001000000000000000040bfc88c7aa03c0fa07de4cf8b0100000002006d0000001f4e961eb632c6e63f84d8441c0b5a57c301499aed04d8814872066f"
    "6c640e64656661756c74047531047631c0f6a3fef962f4f7a3fef96206026d0a6578703d6222040261000000000000f03f0c72616e6b6572cd"
    "ccccccccccec3f026200000000000000000e706f70756c61729a9999999999e93f000a737461746540bfc88c7aa03c0f8881e4cf8b01000002"
    "3f84d8441c0b5a578881e4cf8b01000001001f4e961eb632c6e68881e4cf8b0100000000b831e6ac8830b74de86be5cf8b010000023f84d844"
    "1c0b5a57e86be5cf8b01000000001bf8b9469a21408ce86be5cf8b01000001006052e6cf8b0100002b01ed725cb645f43f84d8441c0b5a5700"
    "000000000000000000000000000000000007000000000000000068e5cf8b010000"
)


def test_bytes_of_version_1_are_read_and_written_as_they_were():
    state = FeedbackState.decode(GOLDEN_V1)
    assert state.encode() == GOLDEN_V1
    assert [one.at_ms for one in state.lists] == [T0 - MINUTE]
    assert [(one.first_ms, len(items_of(one))) for one in state.showings] == [
        (T0 - MINUTE + SECOND, 2),
        (T0 + SECOND, 2),
    ]
    assert [(one.at_ms, one.kind) for one in state.outcomes] == [(T0 + MINUTE, 0)]
    assert [tuple(one) for one in state.settled] == [(7, T0)]
    assert len(LOGIC.on_wake(state, T0 + 2 * DAY).examples) == 1
