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
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext

from flink_jobs import time_wheel
from flink_jobs.dead_letter import dead_letter
from flink_jobs.keyed_shell import KeyedShell, map_state, value_state
from flink_jobs.prefix import CONTROL, EVERY_SHARD_PREFIX, SESSIONS, SOURCE_STRIDE
from flink_jobs.shard_record import ShardRecord
from flink_jobs.shards import index_of_keys
from flink_jobs.similarity_records import SessionColumns, read_sessions
from flink_jobs.similarity_store import JOB, open_store
from schemas.codec import Codec
from schemas.refusal import Refused
from schemas.validation import validate_control
from udfs.similarity.basket import Basket
from udfs.similarity.contribution import CONTRIBUTION, pack_packet
from udfs.similarity.session_kernel import apply_steps

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
        sources = np.array(partitions, np.int64)
        order = np.lexsort((np.array(offsets, np.int64), sources))
        is_order = sources[order] >= SOURCE_STRIDE * SOURCES.index(CONTROL)
        rows, orders = order[~is_order].tolist(), order[is_order].tolist()
        columns = read_sessions(self._codec, [keys[row] for row in rows], [payloads[row] for row in rows])
        work.sessions(columns, self._settings.similarity.max_session_events)
        for place, refused in columns.refused:
            row = rows[place]
            work.shard.count(f"refused_{refused.reason}")
            stood = (SESSIONS, partitions[row] % SOURCE_STRIDE, offsets[row], times[row])
            yield Row(DEAD_LETTER, 0, *dead_letter(*stood, keys[row], payloads[row], refused, JOB))
        for row in orders:
            with suppress(Refused):  # the recommend job has sent it to the dead letters
                work.order(keys[row], self._codec.decode("Control", payloads[row]))
        for shard, packet in work.packets():
            yield Row(PACKET, shard, "", packet)
        work.close()
        self._shard.update(work.encode())
        self._store.put_shard_counts(JOB, f"sessions-{index}", work.shard.counts)


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
        self._now: dict[str, bytes | None] = {}
        self._wakes: dict[int, list[str]] = {}
        self._packets: list[tuple[int, bytes]] = []
        self._republish = False

    def sessions(self, columns: SessionColumns, limit: int) -> None:
        """Apply session records, before any order."""
        steps, users = columns.steps, columns.users
        for key in users:
            self._load(key)
        done = apply_steps([self._before[key] for key in users], steps, limit)
        self._now.update(zip(users, done.baskets, strict=True))
        counted = np.flatnonzero(done.counted)
        counts = self.shard.counts
        for name, count in (
            ("session_steps", len(done.counted)),
            ("session_cut", len(done.counted) - len(counted)),
            ("contributions", len(done.contributions)),
        ):
            if count:
                counts[name] = counts.get(name, 0) + count
        if not len(counted):
            return
        firsts = counted[np.unique(steps.users[counted], return_index=True)[1]].tolist()
        for row in firsts:
            key = users[steps.users[row]]
            if self._before[key] is None:
                self._wake(key, int(steps.partitions[row]), int(steps.times_ms[row]))
        for partition in np.unique(steps.partitions[counted]).tolist():
            newest_ms = int(steps.times_ms[counted][steps.partitions[counted] == partition].max())
            name = str(partition)
            self._clocks[name] = max(newest_ms, self._clocks.get(name, 0))
        self._packets = _packed(done.contributions, columns.names, self._shards)

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
        yield from self._packets
        if self._republish:
            yield self.shard.index, b""  # every user shard sees the order, and tells its namesake

    def close(self) -> None:
        """Forget who is due, and write what changed."""
        for bucket in self._due():
            for key in time_wheel.take(self._wheel, bucket):
                self._look_at(key, bucket >> 32)
        for bucket, names in self._wakes.items():
            time_wheel.add(self._wheel, bucket, names)
        for key, data in self._now.items():
            if data is None and self._before[key] is not None:
                self._baskets.remove(key)
            elif data is not None and data != self._before[key]:
                self._baskets.put(key, data)

    def encode(self) -> bytes:
        """Give the shard's record."""
        return self.shard.encode() + b"\n" + json.dumps(self._clocks).encode()

    def _load(self, key: str) -> None:
        self._before[key] = self._now[key] = self._baskets.get(key)

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
        data = self._now[key]
        if data is None:
            return
        basket = Basket.decode(data)
        if basket.last_ms + KEEP_MS < self._clocks.get(str(partition), 0):
            self._now[key] = None
            self.shard.count("forgotten")
        else:
            self._wake(key, partition, basket.last_ms)

    def _wake(self, key: str, partition: int, last_ms: int) -> None:
        self._wakes.setdefault(partition << 32 | last_ms // HOUR_MS, []).append(key)


def _packed(
    contributions: NDArray[np.void], names: Mapping[int, bytes], shards: int
) -> list[tuple[int, bytes]]:
    """Give item shard and packet of all contributions."""
    to = (contributions["item"] % np.uint64(shards)).astype(np.uint16)
    order = np.argsort(to, kind="stable")
    data = contributions[order].tobytes()
    bounds = CONTRIBUTION.itemsize * np.searchsorted(to[order], np.arange(shards + 1))
    told: dict[int, dict[int, bytes]] = {}
    own = contributions[contributions["other"] == 0]
    for item in np.unique(own["item"]).tolist():
        told.setdefault(item % shards, {})[item] = names[item]
    located = own[own["country"] != 0]
    pairs = (located["item"] % np.uint64(shards)) << np.uint64(32) | located["country"]
    for pair in np.unique(pairs).tolist():
        told[pair >> 32][pair & 0xFFFF_FFFF] = names[pair & 0xFFFF_FFFF]
    return [
        (shard, pack_packet(data[start:end], told.get(shard, {})))
        for shard, (start, end) in enumerate(pairwise(bounds.tolist()))
        if end > start
    ]
