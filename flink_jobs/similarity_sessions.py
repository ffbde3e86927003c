"""The first step of the similarity job: a user shard's session records in, packets for item shards out.

**State** (keyed by user shard, RocksDB)
    `baskets`: user key → the user's last session, at most `udfs.similarity.basket.MAX_BASKET_BYTES` each.
    `wheel`: (partition, hour) → users to look at when that partition's event time has come there. `shard`: counts
    and each partition's clock.
**Forgets**
    A basket when its partition's event time is `KEEP_MS` past its newest event: effective times lie at most 7 days
    before arrival, so no record of that session can come any more. At once when the user's consent is withdrawn
    or the user erased.
**Order**
    Records are applied by (partition, offset) of the sessions topic; a user's share a partition. One that comes
    again is left out by the event's (partition, offset, n).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext

from flink_jobs import time_wheel
from flink_jobs.dead_letter import dead_letter
from flink_jobs.keyed_shell import KeyedShell, map_state, value_state
from flink_jobs.prefix import CONTROL, EVERY_SHARD_PREFIX, SESSIONS, SOURCE_STRIDE
from flink_jobs.shard_record import ShardRecord
from flink_jobs.shards import index_of_keys
from flink_jobs.similarity_store import JOB, open_store
from schemas.codec import Codec
from schemas.ids import check_id, user_key
from schemas.records import SessionDelta
from schemas.refusal import Refused
from schemas.validation import validate_control
from udfs.similarity.basket import Basket
from udfs.similarity.contribution import pack_packet
from udfs.similarity.session_step import step

SOURCES = (SESSIONS, CONTROL)
DEAD_LETTER, PACKET = range(2)
"""Kinds of output rows."""

OUTPUT_TYPE = Types.ROW_NAMED(
    ["kind", "shard", "key", "payload"],
    [Types.INT(), Types.INT(), Types.STRING(), Types.PRIMITIVE_ARRAY(Types.BYTE())],
)
"""kind; item shard; key of a dead letter; the letter, or a packet (`contribution.pack_packet`; empty: write every
item again)."""

HOUR_MS = 3_600_000
KEEP_MS = 8 * 24 * HOUR_MS
_FORGET = ("erase_user", "set_consent")


class SessionShell(KeyedShell):
    """Turn a shard's session records into contributions to items."""

    def open(self, runtime_context: RuntimeContext) -> None:
        """Open state."""
        self._baskets = map_state(runtime_context, "baskets")
        self._wheel = map_state(runtime_context, "wheel", Types.LONG())
        self._shard = value_state(runtime_context, "shard")
        self._count_of_shards = self._settings.job.shards
        self._index_of_key = index_of_keys(self._count_of_shards)
        self._codec = Codec(self._settings.kafka.schema_ids)
        self._store = open_store(self._settings)

    def close(self) -> None:
        """Leave the store."""
        self._store.close()

    def process_element(self, value: Any, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        """Apply one micro-batch (`prefix.BATCH_TYPE`)."""
        keys, payloads, partitions, offsets, times, _ = value
        index = self._index_of_key[ctx.get_current_key()]
        work = _Batch(self._baskets, self._wheel, self._shard.value(), index, self._count_of_shards)
        rows = zip(partitions, offsets, keys, payloads, times, strict=True)
        limit = self._settings.similarity.max_session_events
        for partition, offset, key, payload, at_ms in sorted(rows):
            topic = SOURCES[partition // SOURCE_STRIDE]
            try:
                if topic == SESSIONS:
                    work.session(key, self._delta(key, payload), limit)
                else:
                    work.order(key, self._codec.decode("Control", payload))
            except Refused as refused:
                if topic == CONTROL:
                    continue  # the recommend job has sent it to the dead letters
                work.shard.count(f"refused_{refused.reason}")
                place = (topic, partition % SOURCE_STRIDE, offset, at_ms)
                yield Row(DEAD_LETTER, 0, *dead_letter(*place, key, payload, refused, JOB))
        for shard, packet in work.packets():
            yield Row(PACKET, shard, "", packet)
        work.close()
        self._shard.update(work.encode())
        self._store.put_shard_counts(JOB, f"sessions-{index}", work.shard.counts)

    def _delta(self, key: str, payload: bytes) -> SessionDelta:
        delta = self._codec.decode("SessionDelta", payload)
        if key != user_key(delta.tenant, delta.user_id):
            raise Refused(
                "key_mismatch", f"record of {user_key(delta.tenant, delta.user_id)!r} under {key!r}"
            )
        check_id("item_id", delta.item_id)
        if delta.event_type not in ("view", "click", "add_to_cart", "purchase"):
            raise Refused(
                "bad_value", f"event_type: wanted one that adds to a session, got {delta.event_type}"
            )
        return delta


class _Batch:
    """One call's work: each basket read once and written once."""

    def __init__(self, baskets: Any, wheel: Any, record: bytes | None, index: int, shards: int) -> None:
        self._baskets = baskets
        self._wheel = wheel
        self._shards = shards
        text, _, clocks = (record or b"").partition(b"\n")
        self.shard = ShardRecord.decode(text or None, index, shards)
        self._clocks: dict[str, int] = json.loads(clocks) if clocks else {}  # partition → newest event time
        self._hours_before = self._hours()
        self._before: dict[str, bytes | None] = {}
        self._now: dict[str, Basket | None] = {}
        self._wakes: dict[int, list[str]] = {}
        self._made: dict[int, list[bytes]] = {}
        self._names: dict[int, dict[int, bytes]] = {}
        self._republish = False

    def session(self, key: str, delta: SessionDelta, limit: int) -> None:
        """Apply a session record."""
        shards = self._shards
        counts = self.shard.counts
        counts["session_steps"] = counts.get("session_steps", 0) + 1
        if key not in self._now:
            self._load(key)
        done = step(self._now[key], delta, limit)
        if not done.contributions:
            counts["session_cut"] = counts.get("session_cut", 0) + 1
            return
        partition = str(delta.partition)
        if delta.event_time > self._clocks.get(partition, 0):
            self._clocks[partition] = delta.event_time
        if self._now[key] is None:
            self._wake(key, delta.partition, delta.event_time)
        self._now[key] = done.basket
        counts["contributions"] = counts.get("contributions", 0) + len(done.contributions)
        for item, packed in done.contributions:
            shard = item % shards
            if shard not in self._made:
                self._made[shard], self._names[shard] = [], {}
            self._made[shard].append(packed)
        names = self._names[done.item % shards]
        names[done.item] = user_key(delta.tenant, delta.item_id).encode()
        if done.country:
            names[done.country] = delta.country.encode()

    def order(self, key: str, control: Any) -> None:
        """Obey an order about a user, or one to write everything again."""
        validate_control(control, key)
        if key.startswith(EVERY_SHARD_PREFIX):
            self._republish |= control.kind == "republish"
        elif control.kind in _FORGET and control.consent != "personalization":
            if key not in self._now:
                self._load(key)
            self._now[key] = None

    def packets(self) -> Iterator[tuple[int, bytes]]:
        """Give item shard and packet of all that was contributed."""
        for shard, made in self._made.items():
            yield shard, pack_packet(made, self._names[shard])
        if self._republish:
            yield self.shard.index, b""  # every user shard sees the order, and tells its namesake

    def close(self) -> None:
        """Forget who is due, and write what changed."""
        for bucket in self._due():
            for key in time_wheel.take(self._wheel, bucket):
                self._look_at(key, bucket >> 32)
        for bucket, names in self._wakes.items():
            time_wheel.add(self._wheel, bucket, names)
        for key, basket in self._now.items():
            data = None if basket is None else basket.encode()
            if data is None and self._before[key] is not None:
                self._baskets.remove(key)
            elif data is not None and data != self._before[key]:
                self._baskets.put(key, data)

    def encode(self) -> bytes:
        """Give the shard's record."""
        return self.shard.encode() + b"\n" + json.dumps(self._clocks).encode()

    def _load(self, key: str) -> None:
        data = self._baskets.get(key)
        self._before[key] = data
        self._now[key] = None if data is None else Basket.decode(data)

    def _hours(self) -> dict[int, int]:
        """Give for each partition the hour before which baskets are over."""
        return {int(name): (at_ms - KEEP_MS) // HOUR_MS for name, at_ms in self._clocks.items()}

    def _due(self) -> list[int]:
        """Give the wheel's buckets whose time has come; it is read when a partition enters a new hour."""
        hours = self._hours()
        if hours == self._hours_before:
            return []
        return [
            bucket for bucket in list(self._wheel.keys()) if bucket & 0xFFFF_FFFF < hours.get(bucket >> 32, 0)
        ]

    def _look_at(self, key: str, partition: int) -> None:
        if key not in self._now:
            self._load(key)
        basket = self._now[key]
        if basket is None:
            return
        if basket.last_ms + KEEP_MS < self._clocks.get(str(partition), 0):
            self._now[key] = None
            self.shard.count("forgotten")
        else:
            self._wake(key, partition, basket.last_ms)

    def _wake(self, key: str, partition: int, last_ms: int) -> None:
        self._wakes.setdefault(partition << 32 | last_ms // HOUR_MS, []).append(key)
