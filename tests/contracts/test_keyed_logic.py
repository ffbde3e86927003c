"""Laws of every keyed logic: frozen input, stable bytes, bounded state, no effect of timers and repeats."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from user_examples import DAY, EPOCH, ITEMS, MINUTE, SETTINGS, T0, credit, event, user_logic

from schemas.records import Control, Credit, Event, EventItem
from udfs.user_logic import Position, Step, Urgency, UserLogic
from udfs.user_state import EVENT_TYPES, MAX_STATE_BYTES, VERSION, UserState

FIXTURES = Path(__file__).parents[1] / "fixtures" / "state"


class KeyedLogic(NamedTuple):
    """One logic under the laws.

    `fixtures` has a folder a released version, `bound` is the most bytes of a state.
    """

    logic: UserLogic
    state: type[UserState]
    fixtures: Path
    version: int
    bound: int


LOGICS = {"user": KeyedLogic(user_logic(), UserState, FIXTURES, VERSION, MAX_STATE_BYTES)}
every_logic = pytest.mark.parametrize("keyed", LOGICS.values(), ids=LOGICS)
thorough = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Arrival(NamedTuple):
    """A record, its effective time, and when it arrived."""

    record: Event | Credit
    at_ms: int
    arrival_ms: int


pauses = st.sampled_from([0, 900, 40_000, 29 * MINUTE, 31 * MINUTE, 3 * DAY])
long_pauses = pauses | st.sampled_from([60 * DAY, 89 * DAY, 91 * DAY, 99 * DAY, 200 * DAY])
latenesses = st.sampled_from([0, 0, 0, 500, 5 * MINUTE, 45 * MINUTE, 2 * DAY, 7 * DAY])


@st.composite
def histories(draw, pause=pauses, size=40, consent=("personalization",)):
    """Draw what happens to one user: events and credits in order of arrival."""
    now, result = T0, []
    for number in range(draw(st.integers(1, size))):
        now += draw(pause)
        at_ms = now - draw(latenesses)
        if number and draw(st.integers(0, 9)) == 0:  # who earns a credit has done something before
            arm = draw(st.sampled_from(["ranker", "popular", "no such arm"]))
            result.append(Arrival(credit(f"c{number}", arm, draw(st.floats(0, 1)), at_ms), at_ms, now))
            continue
        kind = draw(st.sampled_from(EVENT_TYPES))
        items = (
            draw(st.lists(st.sampled_from(ITEMS), max_size=70)) if kind in {"impression", "purchase"} else []
        )
        record = event(
            f"e{number}",
            kind,
            draw(st.sampled_from([*ITEMS[:9], "unheard of"])),
            at_ms,
            received_time=now,
            items=tuple(EventItem(item) for item in items),
            rec_id=draw(st.sampled_from([None, "r1", "r2", "r3"])),
            value=draw(st.none() | st.floats(-1e6, 1e6)),
            consent=draw(st.sampled_from(consent)),
        )
        result.append(Arrival(record, at_ms, now))
    return result


def apply(logic: UserLogic, state: UserState | None, arrival: Arrival, offset: int) -> Step:
    if isinstance(arrival.record, Credit):
        return logic.on_credit(state, arrival.record, Position(0, offset))
    return logic.on_event(state, arrival.record, arrival.at_ms, Position(0, offset), EPOCH)


@every_logic
@thorough
@given(history=histories(pause=long_pauses, consent=("personalization",) * 9 + ("none",)))
def test_a_step_leaves_its_input_as_it_was_and_its_state_is_its_bytes(keyed, history):
    state = None
    for offset, arrival in enumerate(history):
        before = None if state is None else state.encode()
        step = apply(keyed.logic, state, arrival, offset)
        again = apply(keyed.logic, state, arrival, offset)
        assert again == step, "a step is a function of its arguments"
        assert (None if state is None else state.encode()) == before
        state = step.state
        if state is not None:
            data = state.encode()
            assert keyed.state.decode(data) == state
            assert keyed.state.decode(data).encode() == data
            refreshed = keyed.logic.refresh_embedding(state, EPOCH)
            assert keyed.state.decode(refreshed.encode()) == refreshed
            assert state.encode() == data


@every_logic
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(history=histories(size=120))
def test_no_history_exceeds_the_bound(keyed, history):
    state = None
    for repeat in range(4):
        for offset, arrival in enumerate(history):
            name = f"{repeat}-{offset}"
            if isinstance(arrival.record, Credit):
                arrival = arrival._replace(record=arrival.record._replace(credit_id=name))
            else:
                item = ITEMS[(7 * offset + repeat) % len(ITEMS)]
                arrival = arrival._replace(
                    record=arrival.record._replace(event_id=name, rec_id=name, item_id=item)
                )
            state = apply(keyed.logic, state, arrival, offset).state
            if state is not None:
                assert len(keyed.logic.refresh_embedding(state, EPOCH).encode()) <= keyed.bound


def outcome(keyed: KeyedLogic, history: list[Arrival], clocks_ms: list[list[int]]) -> list[object]:
    """Return state and outputs after every event, with wakes at the given clocks before each."""
    state, result = None, []
    for offset, (arrival, clocks) in enumerate(zip(history, clocks_ms, strict=True)):
        for clock_ms in clocks:
            wake = keyed.logic.on_wake(state, clock_ms)
            assert wake.deltas == () and wake.rank is Urgency.NEVER, "no output depends on a timer"
            state = wake.state
        step = apply(keyed.logic, state, arrival, offset)
        state = step.state
        if isinstance(arrival.record, Event):
            result.append((step.state, step.deltas, step.rank))
    return result


@every_logic
@thorough
@given(history=histories(pause=long_pauses), data=st.data())
def test_timers_early_on_time_and_late_give_one_result(keyed, history, data):
    """The clock may stand anywhere up to the arrival of the next event, and a little beyond it."""
    never = outcome(keyed, history, [[] for _ in history])
    always = outcome(keyed, history, [[arrival.arrival_ms] for arrival in history])
    ahead = outcome(keyed, history, [[arrival.arrival_ms + 12 * 60 * MINUTE] for arrival in history])
    early = outcome(keyed, history, [[0, arrival.arrival_ms - 9 * DAY] for arrival in history])
    some = [[arrival.arrival_ms] if data.draw(st.booleans()) else [] for arrival in history]
    assert never == always == ahead == early == outcome(keyed, history, some)


@every_logic
@thorough
@given(history=histories(), data=st.data())
def test_what_comes_twice_counts_once(keyed, history, data):
    delays = [data.draw(st.integers(0, 15)) for _ in history]
    twice = [(index, 0, index) for index in range(len(history))]
    twice += [(index + delay, 1, index) for index, delay in enumerate(delays)]
    state, plain = None, []
    for index, arrival in enumerate(history):
        step = apply(keyed.logic, state, arrival, index)
        state = step.state
        plain.append((step.state, step.deltas, step.rank))
    repeated_state, repeated = None, {}
    for _, again, index in sorted(twice):
        step = apply(keyed.logic, repeated_state, history[index], index)
        if again:
            assert step.state is repeated_state and step.deltas == () and step.rank is Urgency.NEVER
        else:
            repeated[index] = (step.state, step.deltas, step.rank)
        repeated_state = step.state
    assert list(repeated.values()) == plain


@every_logic
@thorough
@given(history=histories(consent=("personalization",) * 4 + ("essential",)))
def test_a_user_who_may_not_be_profiled_leaves_nothing(keyed, history):
    state = None
    for offset, arrival in enumerate(history):
        step = apply(keyed.logic, state, arrival, offset)
        if isinstance(arrival.record, Event) and arrival.record.consent != "personalization":
            assert step.state is None and step.deltas == ()
            assert (step.rank is Urgency.ERASE) == (state is not None)
        state = step.state
    for order in ("erase_user", "set_consent"):
        control = Control("x", order, "default", "u1", None, "none", T0, "")
        step = keyed.logic.on_control(state, control, Position(0, 0))
        assert step.state is None and step.rank is Urgency.ERASE


@every_logic
@thorough
@given(history=histories())
def test_an_idle_user_is_forgotten_by_following_the_wakes(keyed, history):
    state, wake_at_ms = None, None
    for offset, arrival in enumerate(history):
        step = apply(keyed.logic, state, arrival, offset)
        state = step.state
        wake_at_ms = wake_at_ms if step.wake_at_ms is None else step.wake_at_ms
        assert state is None or wake_at_ms is not None, "a stored user always has a wake"
    wakes = 0
    while state is not None:
        assert wake_at_ms is not None
        newest = state.last_ms
        state, _, _, wake_at_ms, _ = keyed.logic.on_wake(state, wake_at_ms)
        wakes += 1
        assert wakes <= 2
    assert wakes == 0 or newest >= max(T0 - 7 * DAY, history[0].at_ms)


def golden_files() -> list:
    return [
        pytest.param(keyed, path, id=f"{name}-{path.parent.name}-{path.stem}")
        for name, keyed in LOGICS.items()
        for path in sorted(keyed.fixtures.glob("v*/*.bin"))
    ]


@pytest.mark.parametrize(("keyed", "path"), golden_files())
def test_bytes_of_every_released_version_are_read(keyed, path):
    data = path.read_bytes()
    state = keyed.state.decode(data)
    wanted = json.loads(path.with_suffix(".json").read_text())
    assert {name: v.hex() if isinstance(v, bytes) else v for name, v in state._asdict().items()} == wanted
    assert state.encode()[0] == keyed.version
    if path.parent.name == f"v{keyed.version}":
        assert state.encode() == data


@every_logic
def test_the_version_of_today_has_golden_files(keyed):
    assert len(list(keyed.fixtures.glob(f"v{keyed.version}/*.bin"))) >= 3


@every_logic
def test_a_golden_user_lives_on(keyed):
    for path in keyed.fixtures.glob("v*/*.bin"):
        state = keyed.state.decode(path.read_bytes())
        at_ms = state.last_ms + SETTINGS.session_gap_ms
        step = keyed.logic.on_event(state, event("next", at_ms=at_ms), at_ms, Position(0, 1), EPOCH)
        assert step.state.n_events == state.n_events + 1
        assert step.state.n_sessions == state.n_sessions + 1
