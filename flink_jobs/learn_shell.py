"""The keyed step of the learn job: session records in, parts of versions out.

**State** (one key, RocksDB)
    `blocks`: the copy of the learner, in values of at most 256 KiB, 62 MB and 280 bytes an item in all. `log`: the
    clicks since the copy, 16 bytes each, at most `learn.copy_clicks` and a batch. `head`: what there is, and counts.
**Forgets**
    Sessions as the index does (`udfs.neighbours.session_index`), clicks of the log with the next copy.
**Order**
    Within a batch, records of a partition by offset; partitions are merged by time. With one partition the versions
    are those of a plain run over the topic, bit for bit; with several, batches decide how partitions interleave.
**On replay**
    State comes from the checkpoint. Versions after it were never committed, and are made again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext

from flink_jobs.keyed_shell import KeyedShell, map_state, value_state
from flink_jobs.learner_state import KeptLearner
from flink_jobs.list_store import ListStore, StoreUnavailable, connect_as_worker, store_options
from flink_jobs.prefix import SESSIONS
from flink_jobs.settings import Learn
from schemas.codec import Codec, encode
from schemas.records import SessionDelta
from schemas.refusal import Refused
from udfs.online.publisher import PublisherSettings
from udfs.online.session_learner import LearnerSettings
from udfs.ranking.click_records import click_of

JOB = "learn"
SOURCES = (SESSIONS,)
OUTPUT_TYPE = Types.ROW_NAMED(["key", "payload"], [Types.STRING(), Types.PRIMITIVE_ARRAY(Types.BYTE())])
"""Part of a version; `LearntPart`."""


class LearnShell(KeyedShell):
    """Learn from all sessions, and publish what was learnt."""

    def open(self, runtime_context: RuntimeContext) -> None:
        """Open state; the learner is made of it with the first batch."""
        self._head = value_state(runtime_context, "head")
        self._blocks = map_state(runtime_context, "blocks")
        self._log = map_state(runtime_context, "log", Types.LONG())
        self._codec = Codec(self._settings.kafka.schema_ids)
        options = {**store_options(self._settings), "retry_limit_s": 0.0}  # learning does not wait for counts
        self._store = ListStore(connect_as_worker(self._settings.redis), **options)
        self._kept: KeptLearner | None = None
        self._refused = 0

    def close(self) -> None:
        """Leave the store."""
        self._store.close()

    def process_element(self, value: Any, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        """Learn one micro-batch (`prefix.BATCH_TYPE`)."""
        _, payloads, partitions, offsets, times, _ = value
        if self._kept is None:
            learn = self._settings.learn
            self._kept = KeptLearner(
                learner_settings(learn), learn.copy_clicks, self._head, self._blocks, self._log
            )
        keys, hashes = [], []
        for row in in_order(partitions, offsets, times):
            try:
                delta = self._codec.decode("SessionDelta", payloads[row])
            except Refused:
                self._refused += 1  # of this process: the recommend job wrote it, nobody can mend it
                continue
            assert isinstance(delta, SessionDelta)
            key, item = click_of(delta)
            keys.append(key)
            hashes.append(item)
        for part in self._kept.learn(np.array(keys, np.uint64), np.array(hashes, np.uint64)):
            yield Row(part.part, encode(part))
        counts = self._kept.learner.counts() | {
            "refused": self._refused,
            "restored": self._kept.restored,
            "learnt_again": self._kept.relearnt,
        }
        with contextlib.suppress(StoreUnavailable):
            self._store.put_shard_counts(JOB, "0", counts)


def learner_settings(learn: Learn) -> LearnerSettings:
    """Give how the job learns."""
    publisher = PublisherSettings(learn.publish_clicks, learn.publish_blocks)
    return LearnerSettings(publisher=publisher, most_items=learn.items)


def in_order(partitions: Sequence[int], offsets: Sequence[int], times: Sequence[int]) -> list[int]:
    """Give the rows of a batch in the order in which they are learnt.

    Each partition's rows keep the order of their offsets; a row counts as late as the latest one before it.

    Examples
    --------
    >>> in_order([0, 0, 1], [8, 7, 3], [50, 90, 70])
    [2, 1, 0]
    """
    rows = sorted(range(len(offsets)), key=lambda row: (partitions[row], offsets[row]))
    newest: dict[int, int] = {}
    at_ms = {}
    for row in rows:
        newest[partitions[row]] = max(newest.get(partitions[row], times[row]), times[row])
        at_ms[row] = newest[partitions[row]]
    return sorted(rows, key=at_ms.__getitem__)
