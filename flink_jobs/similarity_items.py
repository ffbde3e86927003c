"""The second step of the similarity job: packets in, each item's counts in state and its lists in Redis.

**State** (keyed by item shard, RocksDB)
    `items`: item key → counts and neighbours, at most `udfs.similarity.item_counts.MAX_ITEM_BYTES` each.
    `countries`: item key → weight by country, at most `udfs.similarity.country_trends.MAX_TRENDS_BYTES` each.
    `pending`: keys of items that changed since they were written. `shard`: counts and the newest event time.
**Forgets**
    An item that no session has held for `similarity.forget_after_ms`, when the sweep comes by.
**Order**
    None: counts decay to one moment by event time, so late and early contributions add alike.
**On replay**
    State and what is pending come from the checkpoint; items are written again as absolute values.

Redis is written from the processing-time tick, inside the call: a call ends before a checkpoint passes, so what
state calls written is written. An item is written at most once in `similarity.publish_interval_ms`. A sweep
writes the others too, a few a tick: that renews what other items' counts have changed, repairs a store that lost
data, and finds what to forget.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext

from flink_jobs.keyed_shell import KeyedShell, map_state, value_state
from flink_jobs.shard_record import ShardRecord
from flink_jobs.shards import index_of_keys
from flink_jobs.similarity_store import JOB, open_store
from udfs.similarity.contribution import unpack_packets
from udfs.similarity.count_kernel import HalfLives, apply_contributions, in_order
from udfs.similarity.country_trends import add_trends, read_trends, trends_of
from udfs.similarity.item_counts import ItemCounts, empty_blob

BATCH_TYPE = Types.ROW([Types.OBJECT_ARRAY(Types.PRIMITIVE_ARRAY(Types.BYTE())), Types.LONG()])
"""Packets of one item shard and window; their number."""

OUTPUT_TYPE = Types.ROW_NAMED(["unused"], [Types.INT()])
"""Nothing leaves by it."""

LOOKED_AT = 4
MAX_WRITTEN_MEMORY = 200_000


class ItemShell(KeyedShell):
    """Add packets to a shard's items, and write them."""

    def open(self, runtime_context: RuntimeContext) -> None:
        """Open state and connect to the store."""
        similarity = self._settings.similarity
        self._items = map_state(runtime_context, "items", Types.LONG())
        self._countries = map_state(runtime_context, "countries", Types.LONG())
        self._pending = value_state(runtime_context, "pending")
        self._record = value_state(runtime_context, "shard")
        self._index_of_key = index_of_keys(self._settings.job.shards)
        self._half_lives = HalfLives(similarity.half_life_ms, similarity.trend_half_life_ms)
        self._shards: dict[int, _Shard] = {}
        self._store = open_store(self._settings)

    def close(self) -> None:
        """Leave the store."""
        self._store.close()

    def process_element(self, value: Any, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        """Apply the packets of one window (`BATCH_TYPE`)."""
        packets, _ = value
        shard = self._open_shard(ctx.get_current_key())
        full = [packet for packet in packets if packet]
        if len(full) < len(packets):
            shard.owe(self._items.keys())
        if full:
            self._apply(shard, full)
        self._close_shard(shard, ctx)
        yield from ()

    def _apply(self, shard: _Shard, packets: list[bytes]) -> None:
        contributions, names = unpack_packets(packets)
        ordered = in_order(contributions)
        items = np.unique(ordered["item"])
        blobs, unnamed = [], []
        for item, key in zip(items.tolist(), items.view(np.int64).tolist(), strict=True):
            blob = self._items.get(key)
            if blob is None and item in names:
                blob = empty_blob(names[item])
            if blob is None:  # its own step is gone, see `similarity.forget_after_ms`: it has no name yet
                unnamed.append(item)
            else:
                blobs.append(blob)
        if unnamed:
            ordered = ordered[~np.isin(ordered["item"], np.array(unnamed, np.uint64))]
            items = np.setdiff1d(items, np.array(unnamed, np.uint64))
        keys = items.view(np.int64).tolist()
        for key, blob in zip(keys, apply_contributions(blobs, ordered, self._half_lives), strict=True):
            self._items.put(key, blob)
        for item, added in trends_of(ordered, names, self._half_lives.trend_ms).items():
            self._countries.put(_signed(item), add_trends(self._countries.get(_signed(item)), added))
        counts = shard.record.counts
        counts["applied"] = counts.get("applied", 0) + len(contributions)
        counts["newest_ms"] = max(counts.get("newest_ms", 0), int(contributions["at_ms"].max()))
        shard.owe(keys)

    def on_timer(self, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext) -> Iterator[Row]:
        """Write items whose turn has come, and some of those that nothing touched."""
        shard, limits = self._open_shard(ctx.get_current_key()), self._settings.similarity
        now_ms = time.monotonic_ns() // 1_000_000
        due = shard.due(now_ms, limits.publish_interval_ms, limits.publish_items_per_tick)
        if not shard.sweep:
            shard.sweep = list(self._items.keys())
        swept = [shard.sweep.pop() for _ in range(min(limits.sweep_items_per_tick, len(shard.sweep)))]
        found: dict[int, ItemCounts] = {}
        trends: dict[int, dict[bytes, float]] = {}
        forgotten: dict[int, ItemCounts] = {}
        over_ms = shard.record.counts.get("newest_ms", 0) - limits.forget_after_ms
        for key in dict.fromkeys((*due, *swept)):
            blob = self._items.get(key)
            if blob is None:
                shard.pending.pop(key, None)
                continue
            counts = ItemCounts.decode(blob)
            if counts.as_of_ms < over_ms:
                forgotten[key % _TWO_64] = counts
                self._items.remove(key)
                self._countries.remove(key)
            else:
                found[key % _TWO_64] = counts
                trends[key % _TWO_64] = read_trends(self._countries.get(key))
        incomplete = self._store.put_similar(found, trends)
        self._store.forget(forgotten)
        if forgotten:
            shard.record.counts["forgotten"] = shard.record.counts.get("forgotten", 0) + len(forgotten)
        shard.written((_signed(item) for item in found), {_signed(item) for item in incomplete}, now_ms)
        totals = {name: count for name, count in shard.record.counts.items() if name != "newest_ms"}
        self._store.put_shard_counts(JOB, f"items-{shard.record.index}", totals)
        self._close_shard(shard, ctx)
        yield from ()

    def _open_shard(self, key: int) -> _Shard:
        shard = self._shards.get(key)
        if shard is None:
            index = self._index_of_key[key]
            record = ShardRecord.decode(self._record.value(), index, self._settings.job.shards)
            shard = self._shards[key] = _Shard(record, self._pending.value())
        return shard

    def _close_shard(self, shard: _Shard, ctx: Any) -> None:
        self._pending.update(np.fromiter(shard.pending, np.int64, len(shard.pending)).tobytes())
        self._record.update(shard.record.encode())
        timers = ctx.timer_service()
        # The same for every call of a tick, so that each shard has one timer, also after a restart.
        tick_ms = self._settings.similarity.tick_ms
        timers.register_processing_time_timer((timers.current_processing_time() // tick_ms + 1) * tick_ms)


class _Shard:
    """One item shard in this process.

    Attributes
    ----------
    pending
        State keys of items that changed since they were written, longest first.
    sweep
        State keys of items still to be written in this round of the sweep.
    """

    def __init__(self, record: ShardRecord, pending: bytes | None) -> None:
        self.record = record
        self.pending: dict[int, None] = dict.fromkeys(np.frombuffer(pending or b"", np.int64).tolist())
        self.sweep: list[int] = []
        self._written_ms: dict[int, int] = {}  # lost with the process: then an item is written early
        self._again: set[int] = set()

    def owe(self, keys: Any) -> None:
        """Note items to write."""
        owed = dict.fromkeys(keys)
        self.pending.update(owed)
        self._again.difference_update(owed)

    def due(self, now_ms: int, interval_ms: int, at_most: int) -> list[int]:
        """Give pending items whose turn has come, looking at a bounded number."""
        found = []
        for looked, key in enumerate(self.pending):
            if len(found) >= at_most or looked >= LOOKED_AT * at_most:
                break
            if now_ms - self._written_ms.get(key, now_ms - interval_ms) >= interval_ms:
                found.append(key)
        return found

    def written(self, keys: Iterator[int], incomplete: set[int], now_ms: int) -> None:
        """Note what was written; what lacks a neighbour is owed once more, then left to the sweep."""
        if len(self._written_ms) >= MAX_WRITTEN_MEMORY:
            self._written_ms.clear()
        for key in keys:
            self.pending.pop(key, None)
            self._written_ms[key] = now_ms
        again = incomplete - self._again
        self.pending.update(dict.fromkeys(sorted(again)))
        self._again = (self._again | again) if len(self._again) < MAX_WRITTEN_MEMORY else again


_TWO_64 = 1 << 64


def _signed(item: int) -> int:
    """Give the state key of an item key: Flink's integers have a sign."""
    return item - _TWO_64 if item >> 63 else item
