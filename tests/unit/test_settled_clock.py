"""No record in order is late by the clock, however long it waited in its window."""

from __future__ import annotations

from flink_jobs.settled_clock import BUSY_MS, KEPT, SPACING_MS, SettledClock


def test_a_window_gets_the_newest_watermark_that_was_seen_before_it_began() -> None:
    clock = SettledClock(window_ms=1_000)
    for now_ms, watermark_ms in ((10_000, 1), (10_500, 2), (11_000, 3), (11_001, 4)):
        clock.see(now_ms, watermark_ms)
    assert [clock.at_window(end_ms) for end_ms in (10_999, 11_000, 11_999, 12_000)] == [0, 1, 2, 3]


def test_without_a_watermark_nothing_is_known() -> None:
    clock = SettledClock(window_ms=1_000)
    clock.see(10_000, -(1 << 63))
    assert clock.at_window(99_000) == clock.at_rest(99_000) == 0


def test_at_rest_waits_for_the_windows_and_longer_after_the_task_was_away() -> None:
    clock = SettledClock(window_ms=1_000)
    for now_ms in range(10_000, 20_001, 500):
        clock.see(now_ms, now_ms)
    assert clock.at_rest(20_000) == 20_000 - 1_000 - BUSY_MS
    clock.see(30_000, 20_500)
    assert clock.at_rest(30_000) == 0, "what came while it was away may still wait"
    for now_ms in range(30_500, 32_001, 500):
        clock.see(now_ms, now_ms)
    assert clock.at_rest(32_000) == 20_000


def test_watermarks_of_a_minute_are_kept_and_no_more() -> None:
    clock = SettledClock(window_ms=0)
    for number in range(10 * KEPT):
        clock.see(number * SPACING_MS, number)
    newest_ms = (10 * KEPT - 1) * SPACING_MS
    assert clock.at_window(newest_ms) == 10 * KEPT - 1
    assert clock.at_window(newest_ms - 50_000) == 10 * KEPT - 1 - 500
    assert clock.at_window(newest_ms - 3 * KEPT * SPACING_MS) == 0
