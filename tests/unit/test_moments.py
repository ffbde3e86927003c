"""Moments: which sessions they are taken from, and what was done after them."""

from __future__ import annotations

import numpy as np
import pytest
from learning_examples import DAY_MS

from model_export.moments import GRADES, Moment, MomentSettings, collect_moments
from model_export.sources.event_log import EventLog, columns_of
from udfs.user_logic import LogicSettings

HOUR_MS = 3_600_000
START_MS = 1_600_000_000_000
LOGIC = LogicSettings()


def log_of(rows: list[tuple[str, str, str | None, int]]) -> EventLog:
    """A log of (user, type, item, milliseconds after the start), in time order."""
    times = [START_MS + time_ms for *_, time_ms in rows]
    columns = columns_of(
        len(rows),
        event_id=[f"e{number}" for number in range(len(rows))],
        event_type=[kind for _, kind, _, _ in rows],
        user_id=[user for user, *_ in rows],
        item_id=[item for _, _, item, _ in rows],
        event_time=times,
    )
    return EventLog("rows", np.array(times, np.int64), columns)


def moments(
    log: EventLog, start_ms: int, settings: MomentSettings, logic: LogicSettings = LOGIC
) -> list[Moment]:
    stretch = (START_MS + start_ms, int(log.times_ms[-1]) + 1)
    (found,), _ = collect_moments(log, [stretch], [settings], None, logic, np.random.default_rng(0))
    return found


SHOPPER = [
    ("u", "view", "a", 0),
    ("v", "view", "z", 1),
    ("u", "view", "b", DAY_MS),
    ("v", "view", "y", DAY_MS + 1),
    ("u", "add_to_cart", "c", DAY_MS + 2),
    ("u", "search", None, DAY_MS + 3),
    ("u", "purchase", "c", DAY_MS + 4),
    ("w", "view", "q", DAY_MS + 5),
    ("u", "view", "d", DAY_MS + HOUR_MS + 4),
]


def test_an_opening_knows_the_past_and_wants_the_whole_session() -> None:
    found = moments(log_of(SHOPPER), HOUR_MS, MomentSettings(within=False))
    assert [(m.user_id, m.at_ms - START_MS, dict(m.taken)) for m in found] == [
        ("u", DAY_MS, {"b": GRADES["view"], "c": GRADES["purchase"]}),
        ("v", DAY_MS + 1, {"y": 1}),
        ("u", DAY_MS + HOUR_MS + 4, {"d": 1}),  # an hour later: a session of its own; w was never here before
    ]
    assert [m.state.n_events for m in found if m.state is not None] == [1, 1, 5]


def test_a_moment_within_a_session_wants_what_came_after_its_event() -> None:
    for seed in range(6):
        (found,), _ = collect_moments(
            log_of(SHOPPER),
            [(START_MS + HOUR_MS, START_MS + DAY_MS + HOUR_MS)],
            [MomentSettings()],
            None,
            LOGIC,
            np.random.default_rng(seed),
        )
        (within,) = [m for m in found if m.kind == "within"]
        assert within.state is not None
        assert within.state.last_ms == within.at_ms
        wanted = {DAY_MS: {"c": 3}, DAY_MS + 2: {"c": 3}}
        assert dict(within.taken) == wanted[within.at_ms - START_MS]


def test_random_moments_want_only_what_the_user_did_next() -> None:
    rng = np.random.default_rng(4)
    times = np.sort(rng.integers(0, 30 * DAY_MS, 3_000)).tolist()
    rows = [(f"u{rng.integers(0, 20)}", "view", f"i{rng.integers(0, 50)}", time) for time in times]
    log = log_of(rows)
    found = moments(log, 10 * DAY_MS, MomentSettings(sessions_a_user=1_000))
    assert len(found) > 300
    for moment in found:
        later = [
            (time, item)
            for user, _, item, time in rows
            if user == moment.user_id
            and (
                time >= moment.at_ms - START_MS
                if moment.kind == "opening"
                else time > moment.at_ms - START_MS
            )
        ]
        assert moment.taken.keys() <= {item for _, item in later}
        assert later[0][1] in moment.taken
        if moment.kind == "opening":
            assert later[0][0] == moment.at_ms - START_MS


def test_only_first_sessions_are_measured_and_a_forgotten_user_is_a_stranger() -> None:
    logic = LogicSettings(forget_after_ms=DAY_MS // 2)
    chosen = MomentSettings(within=False, first_only=True, forgotten=True)
    found = moments(log_of(SHOPPER), HOUR_MS, chosen, logic)
    assert [(m.user_id, m.state) for m in found] == [("u", None), ("v", None)]
    assert (
        moments(log_of(SHOPPER), HOUR_MS, MomentSettings(within=False), logic)[0].at_ms
        > START_MS + DAY_MS + 5
    )


@pytest.mark.parametrize(("sessions", "a_user", "wanted"), [(100, 2, 40), (100, 100, 100), (7, 100, 7)])
def test_sessions_are_capped_in_all_and_for_each_user(sessions: int, a_user: int, wanted: int) -> None:
    rows = [(f"u{user}", "view", "a", day * DAY_MS + user) for day in range(6) for user in range(20)]
    chosen = MomentSettings(sessions=sessions, sessions_a_user=a_user, within=False)
    found = moments(log_of(rows), HOUR_MS, chosen)
    assert len(found) == wanted
    counts = [sum(m.user_id == f"u{user}" for m in found) for user in range(20)]
    assert max(counts) <= min(a_user, 5)
