"""A backlog is told from a clock that differs, late events and a replay of old ones."""

from __future__ import annotations

from itertools import count

import pytest

from flink_jobs.arrival_delay import BASE_KEPT_MS, SAMPLES, ArrivalDelay

YEAR_MS = 365 * 86_400_000


def lags(delays_ms: list[int], every_ms: int = 50, delay: ArrivalDelay | None = None) -> list[int]:
    delay = delay or ArrivalDelay()
    return [
        delay.observe(ms, now_ms) for ms, now_ms in zip(delays_ms, count(YEAR_MS, every_ms), strict=False)
    ]


def test_a_growing_backlog_is_seen_and_a_drained_one_forgotten() -> None:
    growing, draining = list(range(100, 5_000, 50)), list(range(5_000, 100, -50))
    seen = lags(growing + draining)
    assert seen[0] <= 100
    assert max(seen) > 4_500
    assert seen[-1] <= 150


def test_one_late_batch_among_others_is_no_backlog() -> None:
    assert max(lags([100] * 20 + [90_000] * (SAMPLES - 1) + [100] * 20)) <= 100


@pytest.mark.parametrize("age_ms", [YEAR_MS, BASE_KEPT_MS + 1])
def test_a_replay_of_old_events_is_no_backlog_at_any_speed(age_ms: int) -> None:
    """At the speed of then the age stays, faster it falls."""
    assert max(lags([age_ms + 7 * n % 40 for n in range(500)])) < 100
    assert max(lags([age_ms - 45 * n for n in range(500)])) == 0


def test_a_replay_that_falls_behind_is_a_backlog() -> None:
    assert max(lags([YEAR_MS + 20 * n for n in range(200)])) > 3_500


def test_from_live_to_a_replay_and_back_nothing_counts_as_lag() -> None:
    assert max(lags([100] * 50 + [YEAR_MS] * 50 + [100] * 50)) <= 100


def test_a_delay_that_stays_counts_no_longer_than_the_base_is_kept() -> None:
    seen = lags([30_000] * 2_400, every_ms=500)
    assert seen[0] == 30_000, "before anything is known of this shop it may be a backlog"
    assert set(seen[BASE_KEPT_MS // 500 + 1 :]) == {0}


def test_an_arrival_in_the_future_makes_no_later_one_late() -> None:
    assert max(lags([-60_000, *[100] * 50])) <= 100
