"""Which events a replay sends, when, and on which clock."""

import numpy as np
import pytest

from model_export.sources.event_log import EventLog, columns_of
from tailrace.errors import ExitCode, UserError
from tailrace.event_replay import DAY_MS, ReplayReport, Speed, choose, moment_ms, shift_to


def log_of(*times_ms: int) -> EventLog:
    ids = [f"e{number}" for number in range(len(times_ms))]
    columns = columns_of(
        len(times_ms),
        event_id=ids,
        event_type=["view"] * len(times_ms),
        user_id=["u"] * len(times_ms),
        item_id=["i"] * len(times_ms),
        event_time=list(times_ms),
    )
    return EventLog("toy", np.array(times_ms, np.int64), columns)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1970-01-02", DAY_MS),
        ("1970-01-02T00:00", DAY_MS),
        ("1970-01-02T01:00+01:00", DAY_MS),
        ("1970-01-01T00:00:01Z", 1_000),
    ],
)
def test_a_moment_is_utc_unless_it_says_otherwise(text: str, wanted: int) -> None:
    assert moment_ms(text) == wanted


def test_a_text_that_is_no_moment_is_a_usage_error_that_shows_the_form() -> None:
    with pytest.raises(UserError) as caught:
        moment_ms("last tuesday")
    assert caught.value.exit_code is ExitCode.USAGE
    assert "2011-11-01" in caught.value.fix


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("full", Speed()),
        ("250/s", Speed(per_s=250.0)),
        ("250", Speed(per_s=250.0)),
        ("x60", Speed(factor=60.0)),
        ("x0.5", Speed(factor=0.5)),
    ],
)
def test_a_speed_is_full_or_a_rate_or_a_factor(text: str, wanted: Speed) -> None:
    assert Speed.parse(text) == wanted


@pytest.mark.parametrize("text", ["fast", "0/s", "x0", "-3", "10/min", ""])
def test_a_speed_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        Speed.parse(text)


def test_events_are_due_by_their_number_at_a_rate_and_by_their_time_at_a_factor() -> None:
    assert Speed(per_s=100.0).due_s(50, after_first_ms=9_000) == 0.5
    assert Speed(factor=60.0).due_s(50, after_first_ms=120_000) == 2.0
    assert Speed().due_s(50, after_first_ms=120_000) == 0.0


def test_from_is_inclusive_until_is_not_and_the_limit_counts_from_there() -> None:
    log = log_of(10, 20, 30, 40)
    assert [event.event_id for event in choose(log, 20, 40)] == ["e1", "e2"]
    assert [event.event_id for event in choose(log, 20, None, 1)] == ["e1"]
    assert [event.event_id for event in choose(log, 40, 10)] == []
    assert len(choose(log)) == 4


def test_a_shift_is_of_whole_days_and_brings_the_newest_event_to_the_last_day() -> None:
    now_ms = 100 * DAY_MS + 5_000
    log = log_of(0, 3 * DAY_MS + 6_000)
    shift_ms = shift_to(log, now_ms)
    assert shift_ms % DAY_MS == 0
    assert 0 <= now_ms - (int(log.times_ms[-1]) + shift_ms) < DAY_MS
    assert shift_to(log_of(), now_ms) == 0


def test_a_replay_is_complete_when_every_event_is_confirmed_or_refused() -> None:
    assert ReplayReport(5, delivered=3, refused={"bad_id": 2}).complete
    assert not ReplayReport(5, delivered=3, failed=2).complete
    assert not ReplayReport(5, delivered=4).complete
