"""The shell that runs `FeedbackLogic` in Flink: micro-batches in, examples, credits and their sums out.

**State** (keyed by shard, RocksDB)
    `users`: user key → what is kept of the user's feedback, at most `udfs.feedback.feedback_state.MAX_STATE_BYTES`
    each. `wheel`: minute → users to look at when the clock has come there. `shard`: counts, and the clock.
**Forgets**
    A user with nothing left to settle; `FeedbackLogic` has the times. At once when consent is withdrawn or the user
    erased.
**Order**
    None among records within `feedback.lateness_ms` of the clock, which is a watermark that no waiting record has
    been overtaken by (`settled_clock`).
**On replay**
    State, clock and counts come from the checkpoint; what left after it was never committed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Any

from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext

from flink_jobs import time_wheel
from flink_jobs.dead_letter import dead_letter
from flink_jobs.feedback_counts import JOB, FeedbackCounts
from flink_jobs.keyed_shell import KeyedShell, map_state, value_state
from flink_jobs.prefix import CONTROL, EVENTS, EVERY_SHARD_PREFIX, SERVED, SOURCE_STRIDE
from flink_jobs.settled_clock import SettledClock
from flink_jobs.shard_record import ShardRecord
from flink_jobs.shards import index_of_keys, shard_of
from flink_jobs.wall_clock import wall_clock_ms
from schemas.codec import Codec, encode
from schemas.records import Credit
from schemas.refusal import Refused
from schemas.validation import effective_time, validate_control, validate_event, validate_served
from udfs.bandits.credit_sums import CreditSums
from udfs.feedback.feedback_logic import FeedbackLogic, FeedbackStep
from udfs.feedback.feedback_state import FeedbackState
from udfs.feedback.outcome import is_outcome

SOURCES = (EVENTS, CONTROL, SERVED)
DEAD_LETTER, EXAMPLE, CREDIT, SUMS = range(4)
"""Kinds of output rows; the last goes to the second step."""

OUTPUT_TYPE = Types.ROW_NAMED(
    ["kind", "key", "payload", "at_ms", "shard"],
    [Types.INT(), Types.STRING(), Types.PRIMITIVE_ARRAY(Types.BYTE()), Types.LONG(), Types.INT()],
)
"""kind; key of the record, of `SUMS` the tenant; its bytes; its timestamp (event time); the tenant's shard."""

TICK_MS = 1_000
MINUTE_MS = 60_000
WAKES_PER_TICK = 1_000


class FeedbackShell(KeyedShell):
    """Join a shard's lists, impressions and outcomes."""

    def open(self, runtime_context: RuntimeContext) -> None:
        """Open state and the logic."""
        self._users = map_state(runtime_context, "users")
        self._wheel = map_state(runtime_context, "wheel", Types.LONG())
        self._record = value_state(runtime_context, "shard")
        self._index_of_key = index_of_keys(self._settings.job.shards)
        self._shards: dict[int, _Shard] = {}
        self._logic = FeedbackLogic(self._settings.feedback.rules)
        self._codec = Codec(self._settings.kafka.schema_ids)
        self._clock = SettledClock(self._settings.feedback.batch_ms)
        self._counts = FeedbackCounts(self._settings)
        self._apply = (self._event, self._control, self._list)

    def close(self) -> None:
        """Leave the store."""
        self._counts.close()

    def process_element(self, value: Any, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        """Apply one micro-batch (`prefix.BATCH_TYPE`)."""
        keys, payloads, partitions, offsets, times, window_end_ms = value
        shard = self._open_shard(ctx)
        shard.pass_to(self._clock.at_window(window_end_ms))
        batch = _Batch(self._users)
        rows = zip(partitions, offsets, keys, payloads, times, strict=True)
        for partition, offset, key, payload, at_ms in sorted(rows):
            source = partition // SOURCE_STRIDE
            try:
                self._apply[source](shard, batch, key, payload)
            except Refused as refused:
                shard.record.count(f"{_NAMES[source]}_refused_{refused.reason}")
                if SOURCES[source] != SERVED:
                    continue  # the recommend job has sent it to the dead letters
                place = (SOURCES[source], partition % SOURCE_STRIDE, offset, at_ms)
                letter = dead_letter(*place, key, payload, refused, JOB)
                yield Row(DEAD_LETTER, *letter, at_ms, 0)
        yield from self._close_batch(shard, batch, ctx)

    def on_timer(self, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext) -> Iterator[Row]:
        """Settle what the clock has come to, and publish the counts."""
        shard, now_ms = self._open_shard(ctx), wall_clock_ms()
        shard.pass_to(self._clock.at_rest(now_ms))
        batch = _Batch(self._users)
        looked = 0
        while shard.minutes and shard.minutes[0] * MINUTE_MS <= shard.clock_ms and looked < WAKES_PER_TICK:
            minute = heappop(shard.minutes)
            shard.known.remove(minute)
            for key in time_wheel.take(self._wheel, minute):
                looked += 1
                self._take(shard, batch, key, self._logic.on_wake(batch.load(key), shard.clock_ms))
        self._counts.publish(shard.record, now_ms)
        yield from self._close_batch(shard, batch, ctx)

    # --- records ------------------------------------------------------------------------------------------

    def _event(self, shard: _Shard, batch: _Batch, key: str, payload: bytes) -> None:
        shard.record.count("events")
        event = self._codec.decode_event(payload, self._settings.job.max_event_bytes)
        validate_event(event, key)
        if event.consent == "personalization" and event.event_type != "impression" and not is_outcome(event):
            return
        at_ms, _ = effective_time(event)
        self._take(shard, batch, key, self._logic.on_event(batch.load(key), event, at_ms, shard.clock_ms))

    def _control(self, shard: _Shard, batch: _Batch, key: str, payload: bytes) -> None:
        control = self._codec.decode("Control", payload)
        validate_control(control, key)
        if not key.startswith(EVERY_SHARD_PREFIX):
            shard.record.count("orders")
            self._take(shard, batch, key, self._logic.on_control(batch.load(key), control, shard.clock_ms))

    def _list(self, shard: _Shard, batch: _Batch, key: str, payload: bytes) -> None:
        shard.record.count("lists")
        served = self._codec.decode("ServedList", payload)
        validate_served(served, key)
        self._take(shard, batch, key, self._logic.on_list(batch.load(key), served, shard.clock_ms))

    def _take(self, shard: _Shard, batch: _Batch, key: str, step: FeedbackStep) -> None:
        batch.keep(key, step)
        for name in step.counts:
            shard.record.count(name)

    # --- opening and closing a call -----------------------------------------------------------------------

    def _open_shard(self, ctx: Any) -> _Shard:
        self._clock.see(wall_clock_ms(), ctx.timer_service().current_watermark())
        key = ctx.get_current_key()
        shard = self._shards.get(key)
        if shard is None:
            text, _, clock = (self._record.value() or b"").partition(b"\n")
            record = ShardRecord.decode(text or None, self._index_of_key[key], self._settings.job.shards)
            shard = self._shards[key] = _Shard(record, json.loads(clock or b"0"), list(self._wheel.keys()))
        return shard

    def _close_batch(self, shard: _Shard, batch: _Batch, ctx: Any) -> Iterator[Row]:
        by_tenant: dict[str, list[Credit]] = {}
        for key, step in batch.steps:
            for example in step.examples:
                shard.record.count("examples")
                yield Row(EXAMPLE, key, encode(example), example.settled_time, 0)
            for credit in step.credits:
                shard.record.count("credits")
                by_tenant.setdefault(credit.tenant, []).append(credit)
                yield Row(CREDIT, key, encode(credit), credit.event_time, 0)
        for tenant, credits in by_tenant.items():
            home = shard_of(tenant, self._settings.job.shards)
            yield Row(SUMS, tenant, CreditSums().add(credits).encode(), 0, home)
        batch.close()
        for minute, names in batch.wakes.items():
            time_wheel.add(self._wheel, minute, names)
            if minute not in shard.known:
                shard.known.add(minute)
                heappush(shard.minutes, minute)
        self._record.update(shard.record.encode() + b"\n" + json.dumps(shard.clock_ms).encode())
        if shard.minutes or shard.record.counts_changed:
            # The same for every call in a second, so that each shard has one timer, also after a restart.
            tick_ms = (wall_clock_ms() // TICK_MS + 1) * TICK_MS
            ctx.timer_service().register_processing_time_timer(tick_ms)


_NAMES = ("event", "order", "list")  # by source, for the counters of what is refused


class _Shard:
    """One shard in this process.

    Attributes
    ----------
    clock_ms
        Event time that no record applied from now on, and in order, lies before; it never falls.
    minutes
        A heap of the wheel's minutes; `known` has the same.
    """

    def __init__(self, record: ShardRecord, clock_ms: int, minutes: list[int]) -> None:
        self.record = record
        self.clock_ms = clock_ms
        self.minutes = minutes
        self.known = set(minutes)
        heapify(self.minutes)

    def pass_to(self, clock_ms: int) -> None:
        """Move the clock on."""
        self.clock_ms = max(self.clock_ms, clock_ms)


class _Batch:
    """One call's work: each user read once and written once."""

    def __init__(self, users: Any) -> None:
        self.steps: list[tuple[str, FeedbackStep]] = []
        self.wakes: dict[int, list[str]] = {}
        self._users = users
        self._before: dict[str, FeedbackState | None] = {}
        self._now: dict[str, FeedbackState | None] = {}

    def load(self, key: str) -> FeedbackState | None:
        """Give what is kept of a user."""
        if key not in self._now:
            data = self._users.get(key)
            self._before[key] = self._now[key] = None if data is None else FeedbackState.decode(data)
        return self._now[key]

    def keep(self, key: str, step: FeedbackStep) -> None:
        """Take over a step."""
        self._now[key] = step.state
        if step.examples or step.credits:
            self.steps.append((key, step))
        if step.wake_at_ms is not None:
            self.wakes.setdefault(step.wake_at_ms // MINUTE_MS + 1, []).append(key)

    def close(self) -> None:
        """Write who has changed."""
        for key, state in self._now.items():
            if state is self._before[key]:
                continue
            if state is None:
                self._users.remove(key)
            else:
                self._users.put(key, state.encode())
