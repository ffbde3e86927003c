from typing import Any

import pytest
from pyflink.common import Row

from flink_jobs.micro_batch import MicroBatch, RankingPace
from flink_jobs.output_rows import ERASE, RANK
from flink_jobs.shard_record import ShardRecord
from schemas.records import Event
from tests.state_in_memory import MapState
from udfs.user_logic import LogicSettings, Position, Urgency, UserLogic
from udfs.user_state import UserState

KEY = "default/u1"
LOGIC = UserLogic(LogicSettings(), {})


class Shard:
    """One shard's states across batches, as Flink would hold them."""

    def __init__(self) -> None:
        self.users, self.pending = MapState(), MapState()
        self.record = ShardRecord(0, 1, epoch=1)
        self.pace = RankingPace(view_interval_ms=1_000, max_interval_ms=8_000)

    def batch(self) -> MicroBatch:
        return MicroBatch(
            lambda states, epoch: list(states), self.users, self.pending, self.record, self.pace, generation=0
        )

    def run(self, offsets_and_types: list[tuple[int, str]], now_ms: int) -> list[Row]:
        batch = self.batch()
        rows: list[Row] = []
        for offset, event_type in offsets_and_types:
            state = batch.load(KEY)
            step = LOGIC.on_event(state, event(offset, event_type), offset * 1_000, Position(0, offset), 1)
            if step.rank is Urgency.NEVER and state is not None and step.state is not state:
                rows += batch.settle(KEY, state, now_ms)
            batch.keep(KEY, step, offset)
        return rows + list(batch.finish(now_ms))

    def tick(self, now_ms: int) -> list[Row]:
        batch = self.batch()
        return [*batch.settle_due(now_ms, 100), *batch.finish(now_ms)]


def event(offset: int, event_type: str, consent: str = "personalization") -> Event:
    return Event(
        f"e{offset}", event_type, "default", "u1", None, f"item{offset}", offset * 1_000, offset * 1_000,
        None, (), None, None, {}, consent,
    )  # fmt: skip


def last_ranked(rows: list[Row]) -> tuple[str, bytes]:
    ranked = [row for row in rows if row[0] == RANK]
    return ranked[-1][3], ranked[-1][2]


def test_a_click_is_ranked_in_its_batch_and_its_state_is_written() -> None:
    shard = Shard()
    rows = shard.run([(1, "click")], now_ms=0)
    assert [row[0] for row in rows] == [RANK]
    assert shard.users[KEY] == rows[0][2]


def test_a_user_leaves_once_a_batch_with_the_newest_state() -> None:
    rows = Shard().run([(1, "click"), (2, "click"), (3, "click")], now_ms=0)
    assert len(rows) == 1
    assert UserState.decode(rows[0][2]).n_events == 3


def test_views_are_ranked_once_an_interval_and_the_last_one_at_a_tick() -> None:
    shard = Shard()
    assert len(shard.run([(1, "view")], now_ms=0)) == 1
    assert shard.run([(2, "view")], now_ms=100) == []
    assert shard.pending.keys() == {KEY}
    assert shard.tick(now_ms=500) == []
    rows = shard.tick(now_ms=1_000)
    assert UserState.decode(rows[0][2]).newest_offset == 2
    assert not shard.pending


def test_an_impression_alone_is_never_ranked() -> None:
    assert Shard().run([(1, "impression")], now_ms=0) == []


@pytest.mark.parametrize("cuts", [[3], [1, 2], [2, 1], [1, 1, 1]])
def test_the_final_list_does_not_depend_on_batch_boundaries(cuts: list[int]) -> None:
    """View, view, impression: the list is that of the second view, wherever batches end."""
    shard, events, rows, now_ms = Shard(), [(1, "view"), (2, "view"), (3, "impression")], [], 0
    for size in cuts:
        rows += shard.run(events[:size], now_ms)
        events, now_ms = events[size:], now_ms + 100
    rows += shard.tick(now_ms + 5_000)
    version, state = last_ranked(rows)
    assert UserState.decode(state).newest_offset == 2
    assert int(version[4:20], 16) == 2


def test_lowered_consent_deletes_the_state_and_the_lists() -> None:
    shard = Shard()
    shard.run([(1, "click")], now_ms=0)
    batch = shard.batch()
    step = LOGIC.on_event(batch.load(KEY), event(2, "click", "essential"), 2_000, Position(0, 2), 1)
    batch.keep(KEY, step, 2)
    rows = list(batch.finish(1_000))
    assert [row[0] for row in rows] == [ERASE]
    assert not shard.users


def test_without_a_model_nothing_is_ranked_and_the_first_one_owes_everyone_a_list() -> None:
    shard = Shard()
    shard.record.epoch = 0
    assert shard.run([(1, "click")], now_ms=0) == []
    shard.record.epoch = 1
    shard.batch().owe_all()
    assert len(shard.tick(now_ms=10)) == 1


def test_republishing_is_spread_over_ticks() -> None:
    shard = Shard()
    shard.run([(1, "click")], now_ms=0)
    for number in range(5):
        shard.users.put(f"default/v{number}", shard.users[KEY])
    shard.batch().owe_all()
    sizes = []
    for tick in range(4):
        batch = shard.batch()
        sizes.append(len(list(batch.settle_due(10_000 + tick, 2))))
        list(batch.finish(10_000 + tick))
    assert sizes == [2, 2, 2, 0]


def test_the_interval_stretches_with_the_lag_and_shrinks_again() -> None:
    pace = RankingPace(view_interval_ms=1_000, max_interval_ms=8_000)
    pace.ranked(KEY, now_ms=0)
    pace.observe_lag(3_000)
    assert not pace.may_rank(KEY, Urgency.NOW, now_ms=5_000)
    assert pace.may_rank(KEY, Urgency.NOW, now_ms=6_000)
    pace.observe_lag(20_000)
    assert pace.load_interval_ms == 8_000
    pace.observe_lag(100)
    assert pace.may_rank(KEY, Urgency.NOW, now_ms=1)


def test_a_state_is_read_and_written_once_a_batch() -> None:
    shard = Shard()
    shard.run([(1, "click")], now_ms=0)
    reads: list[Any] = []
    original = shard.users.get
    shard.users.get = lambda key, default=None: reads.append(key) or original(key)  # type: ignore[method-assign]
    shard.run([(2, "click"), (3, "click")], now_ms=10)
    assert reads == [KEY]
