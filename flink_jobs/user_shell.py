"""The shell that runs `UserLogic` in Flink: micro-batches in, at most one snapshot a user out.

It knows batches, shards, timers and state; the logic knows none of them.

**State** (keyed by shard, RocksDB)
    `users`: user key → state blob, at most `udfs.user_state.MAX_STATE_BYTES` each. `pending`: users owed a
    ranking. `wheel`: minute → users whose next wake falls into it. `shard`: a `ShardRecord`.
**Forgets**
    A user after `job.forget_after_ms` without events, see `UserLogic.on_wake`.
**Order**
    Rows are applied by (partition, offset). A user's events share a partition, so batch boundaries change
    nothing: a snapshot is the state right after the newest event that asked for a ranking.
**On replay**
    State, owed rankings and counts come from the checkpoint. Rows leave again with the same version and bytes,
    and the list store keeps the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext, TimeDomain

from flink_jobs import time_wheel
from flink_jobs.arrival_delay import ArrivalDelay
from flink_jobs.dead_letter import dead_letter
from flink_jobs.keyed_shell import KeyedShell, map_state, value_state
from flink_jobs.micro_batch import MicroBatch, RankingPace
from flink_jobs.model_store import ModelStore
from flink_jobs.output_rows import COUNTS, DEAD_LETTER, PRELOAD, SESSION
from flink_jobs.prefix import CONTROL, EVERY_SHARD_PREFIX, SOURCE_STRIDE, SOURCES
from flink_jobs.shard_record import ShardRecord, read_experiments
from flink_jobs.shards import index_of_keys
from flink_jobs.wall_clock import wall_clock_ms
from schemas.codec import Codec, encode
from schemas.records import Control
from schemas.redis_keys import format_version
from schemas.refusal import Refused
from schemas.validation import effective_time, validate_control, validate_credit, validate_event
from udfs.user_logic import LogicSettings, Position, Step, Urgency, UserLogic
from udfs.user_state import UserState
from udfs.user_vector import refresh_embeddings

JOB = "recommend"
TICK_MS = 100
COUNTS_EVERY_MS = 1_000
MINUTE_MS = 60_000
WAKES_PER_CALL = 500

_REFUSED = ("refused", "control_refused", "credit_refused")  # counter by source; events alone add up


class UserShell(KeyedShell):
    """Apply a shard's micro-batch to its users' states."""

    def open(self, runtime_context: RuntimeContext) -> None:
        """Open state and the logic; a model bundle is opened when the first record names its epoch."""
        job = self._settings.job
        self._users = map_state(runtime_context, "users")
        self._pending = map_state(runtime_context, "pending")
        self._wheel = map_state(runtime_context, "wheel", Types.LONG())
        self._shard = value_state(runtime_context, "shard")
        self._shards: dict[int, ShardRecord] = {}
        self._index_of_key = index_of_keys(job.shards)
        self._models = ModelStore(self._settings.model)
        self._logic = UserLogic(
            LogicSettings(
                session_gap_ms=job.session_gap_ms, forget_after_ms=job.forget_after_ms, shards=job.shards
            ),
            self._models.factors,
        )
        self._codec = Codec(self._settings.kafka.schema_ids)
        self._pace = RankingPace(job.view_interval_ms, job.max_interval_ms)
        self._delay = ArrivalDelay()
        self._newest_arrival_ms = 0  # in this batch; 0 without events
        self._apply = (self._event, self._control, self._credit)

    # --- records ------------------------------------------------------------------------------------------

    def process_element(self, value: Any, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        """Apply one micro-batch (`prefix.BATCH_TYPE`)."""
        keys, payloads, partitions, offsets, times, window_end_ms = value
        now_ms = wall_clock_ms()
        self._newest_arrival_ms = 0
        batch = self._open_batch(ctx)
        rows = zip(partitions, offsets, keys, payloads, times, strict=True)
        for partition, offset, key, payload, at_ms in sorted(rows):
            source = partition // SOURCE_STRIDE
            position = Position(partition % SOURCE_STRIDE, offset)
            try:
                yield from self._apply[source](batch, key, payload, position)
            except Refused as refused:
                if SOURCES[source] == CONTROL and key.startswith(EVERY_SHARD_PREFIX) and batch.shard.index:
                    continue  # every shard refuses it alike, the first one reports
                batch.shard.count(f"{_REFUSED[source]}_{refused.reason}")
                letter = dead_letter(SOURCES[source], *position, at_ms, key, payload, refused, JOB)
                yield Row(DEAD_LETTER, *letter, "", at_ms, 0, "")
        if self._newest_arrival_ms:
            self._delay.observe(now_ms - self._newest_arrival_ms, now_ms)
        self._pace.observe_lag(max(now_ms - window_end_ms, self._delay.lag_ms))
        yield from self._close_batch(batch, ctx, now_ms)

    def _event(self, batch: MicroBatch, key: str, payload: bytes, position: Position) -> Iterator[Row]:
        batch.shard.count("events")
        event = self._codec.decode_event(payload, self._settings.job.max_event_bytes)
        validate_event(event, key)
        at_ms, clamped = effective_time(event)
        if clamped is not None:
            batch.shard.count(clamped)
        arrival_ms = event.received_time or at_ms
        if arrival_ms > self._newest_arrival_ms:
            self._newest_arrival_ms = arrival_ms
        state = batch.load(key)
        step = self._logic.on_event(state, event, at_ms, position, batch.shard.epoch)
        yield from self._keep(batch, key, step, position.offset)

    def _credit(self, batch: MicroBatch, key: str, payload: bytes, position: Position) -> Iterator[Row]:
        batch.shard.count("credits")
        credit = self._codec.decode("Credit", payload)
        validate_credit(credit, key)
        state = batch.load(key)
        step = self._logic.on_credit(state, credit, position)
        yield from self._keep(batch, key, step, position.offset)

    def _keep(
        self, batch: MicroBatch, key: str, step: Step, offset: int, control_seq: int | None = None
    ) -> Iterator[Row]:
        for name in step.counts:
            batch.shard.count(name)
        for delta in step.deltas:
            yield Row(SESSION, key, encode(delta), "", delta.event_time, 0, "")
        before = batch.load(key)
        if step.rank is Urgency.NEVER and before is not None and step.state is not before:
            yield from batch.settle(key, before, wall_clock_ms())
        batch.keep(key, step, offset, control_seq)

    # --- control ------------------------------------------------------------------------------------------

    def _control(self, batch: MicroBatch, key: str, payload: bytes, position: Position) -> Iterator[Row]:
        shard = batch.shard
        control = self._codec.decode("Control", payload)
        validate_control(control, key)
        control_seq = position.offset + 1
        if not key.startswith(EVERY_SHARD_PREFIX):
            state = batch.load(key)
            offset = 0 if state is None else state.newest_offset
            step = self._logic.on_control(state, control, position)
            if step.rank is Urgency.ERASE and not offset:
                # Nothing tells how far the user's events were; `lists.lua` then goes by the order number, so lists
                # that are made from now on must have at least this one.
                shard.control_seq = control_seq
            yield from self._keep(batch, key, step, offset, control_seq)
        elif control.kind == "activate_epoch":
            self._require_epoch(control)
            first = shard.epoch == 0
            shard.epoch, shard.control_seq = control.epoch, control_seq
            if first:
                batch.owe_all()
        elif control.kind == "preload_epoch" and control.epoch is not None:
            self._models.factors(control.epoch)  # opened now, not while the first user waits
            yield Row(PRELOAD, key, b"", "", 0, control.epoch, "")
        elif control.kind == "set_experiments":
            self._require_experiments(control)
            shard.experiments = control.experiments or ""
        elif control.kind == "republish":
            shard.control_seq = control_seq
            shard.counts_changed = True  # they stand in the store too
            batch.owe_all()
        elif control.kind != "begin_budget_epoch":  # that is the federate job's
            raise Refused("bad_control", f"{control.kind!r} with epoch {control.epoch!r} under key {key!r}")

    def _require_experiments(self, control: Control) -> None:
        try:
            running = read_experiments(control.experiments or "")
        except ValueError as error:
            raise Refused("bad_control", str(error)) from error
        for epoch in running.epochs():
            refusal = self._models.refusal(epoch)
            if refusal is not None:
                raise Refused("no_bundle", refusal)

    def _require_epoch(self, control: Control) -> None:
        if control.epoch is None or control.epoch < 1:
            raise Refused("bad_control", f"activate_epoch names no epoch: {control.epoch!r}")
        refusal = self._models.refusal(control.epoch)
        if refusal is not None:
            raise Refused("no_bundle", refusal)

    # --- timers -------------------------------------------------------------------------------------------

    def on_timer(self, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext) -> Iterator[Row]:
        """Rank who is owed it and publish the counts (processing time); look at idle users (event time)."""
        batch = self._open_batch(ctx)
        now_ms = wall_clock_ms()
        if ctx.time_domain() == TimeDomain.EVENT_TIME:
            self._wake(batch, timestamp, ctx)
        else:
            batch.shard.tick_ms = 0
            yield from batch.settle_due(now_ms, self._settings.job.republish_users_per_tick)
            yield from self._publish_counts(batch.shard, now_ms)
        yield from self._close_batch(batch, ctx, now_ms)

    def _wake(self, batch: MicroBatch, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext) -> None:
        minute = timestamp // MINUTE_MS
        names = time_wheel.take(self._wheel, minute)
        clock_ms = ctx.timer_service().current_watermark()
        for name in names[:WAKES_PER_CALL]:
            state = batch.load(name)
            if state is not None:
                step = self._logic.on_wake(state, clock_ms)
                for counted in step.counts:
                    batch.shard.count(counted)
                batch.keep(name, step, state.newest_offset)
                batch.rewake(name, step.wake_at_ms)
        if names[WAKES_PER_CALL:]:
            time_wheel.add(self._wheel, minute, names[WAKES_PER_CALL:])
            ctx.timer_service().register_event_time_timer(timestamp)

    def _publish_counts(self, shard: ShardRecord, now_ms: int) -> Iterator[Row]:
        if shard.counts_changed and now_ms - shard.counts_sent_ms >= COUNTS_EVERY_MS:
            shard.counts_seq += 1
            shard.counts_sent_ms, shard.counts_changed = now_ms, False
            version = format_version(self._settings.job.generation, shard.counts_seq, 0)
            key = f"{self._settings.kafka.topic_prefix}/{shard.index}"
            yield Row(COUNTS, key, shard.encode_counts(), version, 0, 0, "")

    def _refresh(self, states: Sequence[UserState], epoch: int) -> list[UserState]:
        factors = self._models.factors(epoch)
        return list(states) if factors is None else refresh_embeddings(states, factors, epoch)

    # --- opening and closing a call -----------------------------------------------------------------------

    def _open_batch(self, ctx: KeyedProcessFunction.Context) -> MicroBatch:
        key = ctx.get_current_key()
        shard = self._shards.get(key)
        if shard is None:
            shards = self._settings.job.shards
            shard = ShardRecord.decode(self._shard.value(), self._index_of_key[key], shards)
            shard.pending.update(dict.fromkeys(self._pending.keys()))
            self._shards[key] = shard
        generation = self._settings.job.generation
        return MicroBatch(self._refresh, self._users, self._pending, shard, self._pace, generation)

    def _close_batch(
        self, batch: MicroBatch, ctx: KeyedProcessFunction.Context, now_ms: int
    ) -> Iterator[Row]:
        yield from batch.finish(now_ms)
        shard, timers = batch.shard, ctx.timer_service()
        for wake_at_ms, names in batch.wakes.items():
            minute = wake_at_ms // MINUTE_MS + 1
            time_wheel.add(self._wheel, minute, names)
            timers.register_event_time_timer(minute * MINUTE_MS)
        if shard.tick_ms <= now_ms and (shard.pending or shard.counts_changed):
            wait_ms = TICK_MS if shard.pending else COUNTS_EVERY_MS
            shard.tick_ms = (now_ms // wait_ms + 1) * wait_ms
            timers.register_processing_time_timer(shard.tick_ms)
        self._shard.update(shard.encode())
