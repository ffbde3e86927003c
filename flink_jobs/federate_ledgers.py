"""The first step of the federate job: updates of a user shard in, what their ledgers let through out.

**State** (keyed by user shard, RocksDB)
    `ledgers`: user key → what the user has spent, at most `udfs.federate.ledger.MAX_LEDGER_BYTES` each. `wheel`:
    day → users to look at then. `shard`: counts, the budget epoch that an order began, and the newest time of each
    partition of the updates.
**Forgets**
    A ledger one whole epoch after its own, unless consent was taken back. No state time-to-live: it would hand out
    budgets anew.
**Order**
    Records are applied by (partition, offset); a user's share a partition, so a user's own order is kept whatever
    the batches are, and who is over budget does not depend on them.

A refused update leaves for the dead letters without its numbers; what cannot be decoded leaves no byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext

from flink_jobs import time_wheel
from flink_jobs.dead_letter import dead_letter
from flink_jobs.federate_settings import model_lines
from flink_jobs.federate_store import JOB, open_store
from flink_jobs.keyed_shell import KeyedShell, map_state, value_state
from flink_jobs.prefix import CONTROL, EDGE_UPDATES, EVERY_SHARD_PREFIX, SOURCE_STRIDE
from flink_jobs.shard_record import ShardRecord
from flink_jobs.shards import index_of_keys, shard_of
from schemas.codec import Codec, encode
from schemas.refusal import Refused
from schemas.validation import validate_control
from udfs.federate.contribution import Contribution, SecurePacket, packets_of
from udfs.federate.ledger import BudgetLedger, BudgetLogic, LedgerStep
from udfs.federate.secure_message import MASKED
from udfs.federate.update_check import check_update, redacted

SOURCES = (EDGE_UPDATES, CONTROL)
DEAD_LETTER, PACKET = range(2)
"""Kinds of output rows."""

OUTPUT_TYPE = Types.ROW_NAMED(
    ["kind", "shard", "key", "payload"],
    [Types.INT(), Types.INT(), Types.STRING(), Types.PRIMITIVE_ARRAY(Types.BYTE())],
)
"""kind; line shard; key of a dead letter; the letter, or a packet (`udfs.federate.contribution`)."""

DAY_MS = 86_400_000


class LedgerShell(KeyedShell):
    """Charge a shard's updates to their users, and pass on what the budgets allow."""

    def open(self, runtime_context: RuntimeContext) -> None:
        """Open state."""
        self._ledgers = map_state(runtime_context, "ledgers")
        self._wheel = map_state(runtime_context, "wheel", Types.LONG())
        self._shard = value_state(runtime_context, "shard")
        federate, self._shards = self._settings.federate, self._settings.job.shards
        self._index_of_key = index_of_keys(self._shards)
        self._lines = model_lines(federate)
        # Where epochs begin by order, their number is the clock that the ledgers know.
        length = federate.epoch_ms or 1
        self._logic = BudgetLogic(self._lines, federate.budget, federate.budget_delta, length)
        self._codec = Codec(self._settings.kafka.schema_ids)
        self._store = open_store(self._settings)

    def close(self) -> None:
        """Leave the store."""
        self._store.close()

    def process_element(self, value: Any, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        """Apply one micro-batch (`prefix.BATCH_TYPE`)."""
        keys, payloads, partitions, offsets, times, _ = value
        index = self._index_of_key[ctx.get_current_key()]
        record = self._shard.value()
        by_order = self._settings.federate.epoch_ms == 0
        work = _Batch(self._logic, self._ledgers, self._wheel, record, index, self._shards, by_order)
        charged: dict[str, list[Contribution]] = {}
        rows = zip(partitions, offsets, keys, payloads, times, strict=True)
        for partition, offset, key, payload, at_ms in sorted(rows, key=lambda row: row[:2]):
            if SOURCES[partition // SOURCE_STRIDE] == CONTROL:
                self._order(work, key, payload, at_ms)
                continue
            place = (EDGE_UPDATES, partition % SOURCE_STRIDE, offset, at_ms)
            kept = b""  # what a dead letter may have of the update: nothing, as long as it is not decoded
            work.clock(place[1], at_ms)
            try:
                update = self._codec.decode("EdgeUpdate", payload)
                kept = encode(redacted(update))
                check_update(update, key, self._lines)
                if update.secure is not None and update.secure != MASKED:
                    work.message(key)  # says nothing of the user's data, and costs nothing
                elif not work.update(key, update, at_ms):
                    continue
            except Refused as refused:
                work.shard.count(f"refused_{refused.reason}")
                yield Row(DEAD_LETTER, 0, *dead_letter(*place, key, kept, refused, JOB))
                continue
            if update.secure is not None or update.encryption is not None:
                packet = SecurePacket(update.model_line, at_ms, place[1], offset, payload)
                yield Row(PACKET, shard_of(update.model_line, self._shards), "", packet.encode())
                continue
            one = Contribution.of(update, at_ms, place[1], offset)
            charged.setdefault(update.model_line, []).append(one)
        for line, contributions in charged.items():
            for packet in packets_of(line, contributions):
                yield Row(PACKET, shard_of(line, self._shards), "", packet)
        work.close()
        self._shard.update(work.encode())
        self._store.put_budgets({key: self._view(ledger) for key, ledger in work.changed.items()})
        self._store.put_shard_counts(JOB, f"ledgers-{index}", work.shard.counts)

    def _order(self, work: _Batch, key: str, payload: bytes, at_ms: int) -> None:
        """Obey an order about a user; one that cannot be read is a dead letter of the recommend job."""
        try:
            control = self._codec.decode("Control", payload)
            validate_control(control, key)
        except Refused:
            return
        if control.kind == "begin_budget_epoch":
            work.shard.epoch = max(work.shard.epoch, control.epoch or 0)
        elif not key.startswith(EVERY_SHARD_PREFIX):
            work.take(key, self._logic.on_control(work.ledger(key), control, work.now(at_ms)))

    def _view(self, ledger: BudgetLedger) -> dict[str, int | float | str]:
        """Give the fields of a user's budget as they stand in the store."""
        federate = self._settings.federate
        return {
            "epoch": ledger.epoch,
            "epsilon": self._logic.epsilon_spent(ledger),
            "budget_epsilon": federate.budget,
            "delta": federate.budget_delta,
            "contributions": ledger.contributions,
            "revoked": int(ledger.revoked),
        }


class _Batch:
    """One call's work: each ledger read once and written once."""

    def __init__(
        self,
        logic: BudgetLogic,
        ledgers: Any,
        wheel: Any,
        record: bytes | None,
        index: int,
        shards: int,
        by_order: bool,
    ) -> None:
        self._logic = logic
        self._ledgers = ledgers
        self._wheel = wheel
        text, _, clocks = (record or b"").partition(b"\n")
        self.shard = ShardRecord.decode(text or None, index, shards)
        self._clocks: dict[str, int] = json.loads(clocks) if clocks else {}
        self._by_order = by_order
        self._slot_ms = 1 if by_order else DAY_MS
        self._day_before = self._day()
        self._before: dict[str, bytes | None] = {}
        self._now: dict[str, BudgetLedger | None] = {}
        self._wakes: dict[int, list[str]] = {}
        self.changed: dict[str, BudgetLedger] = {}

    def clock(self, partition: int, at_ms: int) -> None:
        """Note how far a partition of the updates is; the broker stamps them, so its times only grow."""
        if at_ms > self._clocks.get(str(partition), 0):
            self._clocks[str(partition)] = at_ms

    def now(self, at_ms: int) -> int:
        """The ledgers' time of a record: its own, or the epoch that an order began."""
        return self.shard.epoch if self._by_order else at_ms

    def message(self, key: str) -> None:
        """Let a message pass that is no contribution; `Refused` where the user took consent back."""
        self.shard.count("messages")
        ledger = self.ledger(key)
        if ledger is not None and ledger.revoked:
            raise Refused("revoked", "the user took consent back")

    def update(self, key: str, update: Any, at_ms: int) -> bool:
        """Charge an update; whether it goes on. Raises `Refused`."""
        self.shard.count("updates")
        step = self._logic.on_update(self.ledger(key), update, self.now(at_ms))
        if step.refused is not None:
            self.take(key, step._replace(counts=()))
            raise step.refused
        self.take(key, step)
        return step.accepted

    def ledger(self, key: str) -> BudgetLedger | None:
        """Give a user's ledger."""
        if key not in self._now:
            data = self._before[key] = self._ledgers.get(key)
            self._now[key] = None if data is None else BudgetLedger.decode(data)
        return self._now[key]

    def take(self, key: str, step: LedgerStep) -> None:
        """Note what a step made of a user's ledger."""
        before, ledger = self._now[key], step.ledger
        if ledger is not None and not ledger.revoked and (before is None or before.revoked):
            self._wake(key, ledger)
        self._now[key] = ledger
        for name in step.counts:
            self.shard.count(name)

    def close(self) -> None:
        """Forget who is due, and write what changed."""
        today = self._day()
        if today != self._day_before:
            for day in [day for day in list(self._wheel.keys()) if day < today]:
                for key in time_wheel.take(self._wheel, day):
                    self._look_at(key)
        for day, names in self._wakes.items():
            time_wheel.add(self._wheel, day, names)
        for key, ledger in self._now.items():
            data = None if ledger is None else ledger.encode()
            if data == self._before[key]:
                continue
            if ledger is None:
                self._ledgers.remove(key)
            else:
                self._ledgers.put(key, data)
                self.changed[key] = ledger

    def encode(self) -> bytes:
        """Give the shard's record."""
        return self.shard.encode() + b"\n" + json.dumps(self._clocks).encode()

    def _day(self) -> int:
        """The day, or epoch, before which users are looked at."""
        return self._clock_ms() // self._slot_ms

    def _clock_ms(self) -> int:
        """The ledgers' time: that of the partition that is furthest behind."""
        return self.now(min(self._clocks.values(), default=0))

    def _look_at(self, key: str) -> None:
        step = self._logic.on_wake(self.ledger(key), self._clock_ms())
        ledger = self._now[key] = step.ledger
        for name in step.counts:
            self.shard.count(name)
        if ledger is not None and not ledger.revoked:
            self._wake(key, ledger)

    def _wake(self, key: str, ledger: BudgetLedger) -> None:
        self._wakes.setdefault(self._logic.forget_at_ms(ledger) // self._slot_ms, []).append(key)
