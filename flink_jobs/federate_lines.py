"""The second step of the federate job: packets of contributions in, versions of model lines out.

**State** (keyed by line shard, RocksDB), each value at most 256 KiB and some bytes, whatever the model's size
    `heads`: line → `LineHead`, 48 bytes a contribution of the open cohort. `weights`: line and block → that part of
    the newest model. `sums`: line, base version and block → that part of a partial sum. `kept`: line and number →
    some single contributions of the open cohort, for rules that vote (`udfs.federate.robust`), at most 8 MiB a line.
    `cohorts`: line → `SecureCohort`, where cohorts are added under masks, or the key that devices encrypt under; then
    one of `sums` is a ciphertext of 64 KiB. `shard`: counts.
**Forgets**
    A cohort's sums and contributions when it is released. A line that the settings no longer name stays as it is.
**Order**
    Contributions of a window are taken in the order of the broker's time. Sums do not depend on it; which
    contributions a cohort has does, and its noise depends on the cohort.
**On replay**
    State comes from the checkpoint. Versions written after it were never committed; a cohort that is released again
    has the same bytes, because nothing but its contributions and the noise key decides them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext

from flink_jobs.dead_letter import dead_letter
from flink_jobs.federate_encrypted import StoredEncryption, encrypted_rows
from flink_jobs.federate_numbers import StoredNumbers
from flink_jobs.federate_secure import COHORT, DEAD_LETTER, MODEL, StoredCohort, model_row, secure_rows
from flink_jobs.federate_settings import Federate, model_lines
from flink_jobs.federate_store import JOB, open_store
from flink_jobs.keyed_shell import KeyedShell, map_state, value_state
from flink_jobs.prefix import EDGE_UPDATES
from flink_jobs.settings import load
from flink_jobs.shard_record import ShardRecord
from flink_jobs.shards import index_of_keys, shard_of
from schemas.codec import encode
from schemas.ids import user_key
from udfs.federate.contribution import Packet, SecurePacket, is_secure, unpack_packet
from udfs.federate.line import LineLogic
from udfs.federate.line_batch import on_batch
from udfs.federate.line_settings import LineSettings
from udfs.federate.line_state import LineHead, first_state
from udfs.federate.release import Seed, first_record
from udfs.privacy.keyed_noise import MIN_KEY_BYTES
from udfs.privacy.terms import Mode

__all__ = ["BATCH_TYPE", "COHORT", "DEAD_LETTER", "MODEL", "OUTPUT_TYPE", "LineShell", "noise_seed"]

BATCH_TYPE = Types.ROW([Types.OBJECT_ARRAY(Types.PRIMITIVE_ARRAY(Types.BYTE())), Types.LONG()])
"""Packets of one line shard and window, empty ones are ticks; their number."""

OUTPUT_TYPE = Types.ROW_NAMED(
    ["kind", "key", "payload"], [Types.INT(), Types.STRING(), Types.PRIMITIVE_ARRAY(Types.BYTE())]
)


class LineShell(KeyedShell):
    """Add contributions to a shard's model lines, and release their versions."""

    def open(self, runtime_context: RuntimeContext) -> None:
        """Open state, and read the noise key where a line needs it."""
        names = ("heads", "weights", "sums", "kept")
        self._heads, self._weights, self._sums, self._kept = (
            map_state(runtime_context, name) for name in names
        )
        self._cohorts = map_state(runtime_context, "cohorts")
        self._shard = value_state(runtime_context, "shard")
        federate, shards = self._settings.federate, self._settings.job.shards
        self._index_of_key = index_of_keys(shards)
        lines = model_lines(federate)
        seed = noise_seed(federate, lines)
        self._logics: dict[int, dict[str, LineLogic]] = {}
        for name, line in lines.items():
            self._logics.setdefault(shard_of(name, shards), {})[name] = LineLogic(line, federate.budget, seed)
        self._store = open_store(self._settings)

    def close(self) -> None:
        """Leave the store."""
        self._store.close()

    def process_element(self, value: Any, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        """Apply the packets of one window (`BATCH_TYPE`), then let time pass."""
        packets, _ = value
        index = self._index_of_key[ctx.get_current_key()]
        clock_ms = ctx.timer_service().current_processing_time() - self._settings.federate.timeout_grace_ms
        came: dict[str, list[Packet]] = {}
        messages: dict[str, list[SecurePacket]] = {}
        for data in packets:
            if is_secure(data):
                message = SecurePacket.decode(data)
                messages.setdefault(message.line, []).append(message)
            elif data:
                packet = unpack_packet(data)
                came.setdefault(packet.line, []).append(packet)
        logics = self._logics.get(index, {})
        counts: dict[str, int] = {}
        for name in (came.keys() | messages.keys()) - logics.keys():
            lost = sum(len(packet.fixed) for packet in came.get(name, ())) + len(messages.get(name, ()))
            counts["unknown_line"] = counts.get("unknown_line", 0) + lost
        for name, logic in logics.items():
            some = messages.get(name, [])
            yield from self._line(name, logic, came.get(name, []), some, clock_ms, counts)
        if counts:
            record = ShardRecord.decode(self._shard.value(), index, self._settings.job.shards)
            for counter, by in counts.items():
                record.counts[counter] = record.counts.get(counter, 0) + by
            self._shard.update(record.encode())
            self._store.put_shard_counts(JOB, f"lines-{index}", record.counts)

    def _line(
        self,
        name: str,
        logic: LineLogic,
        packets: list[Packet],
        messages: list[SecurePacket],
        clock_ms: int,
        counts: dict[str, int],
    ) -> Iterator[Row]:
        kept = self._kept if logic.line.robust_rule.keeps_contributions else None
        numbers = StoredNumbers(name, logic.line.dimension, self._weights, self._sums, kept)
        blob = self._heads.get(name)
        if blob is None:
            state = first_state(np.zeros(logic.line.dimension), logic.line.first_clip_norm)
            head = state.head
            numbers.put_weights(state.weights)
            self._heads.put(name, head.encode())
            yield model_row(first_record(state, logic.line, logic.budget_epsilon, 0))
        else:
            head = LineHead.decode(blob)
        if logic.line.secure:
            masked = StoredCohort(name, self._heads, self._cohorts, numbers)
            yield from secure_rows(logic, masked, messages, clock_ms, counts)
            return
        if logic.line.encryption_key:
            encrypted = StoredEncryption(logic.line, self._heads, self._cohorts, numbers)
            yield from encrypted_rows(logic, encrypted, messages, clock_ms, counts)
            return
        if self._cohorts.get(name) is not None:
            raise ValueError(
                f"line {name!r}: was added under masks or encrypted before; give the line another name"
            )
        step = on_batch(logic, head, numbers, packets, clock_ms)
        if step.head != head:
            self._heads.put(name, step.head.encode())
            numbers.keep(step, head.contributions)
        for one, refused in step.refused:
            place = (EDGE_UPDATES, one.partition, one.offset, one.at_ms)
            line = logic.line
            update = one.without_numbers(name, str(line.mode), line.noise_multiplier, line.dimension)
            key = user_key(update.tenant, update.user_id)
            yield Row(DEAD_LETTER, *dead_letter(*place, key, encode(update), refused, JOB))
        for record in step.released:
            yield model_row(record)
        for counter, by in step.counts.items():
            is_refusal = any(refused.reason == counter for _, refused in step.refused)
            told = f"refused_{counter}" if is_refusal else f"line_{counter}"
            counts[told] = counts.get(told, 0) + by


def noise_seed(federate: Federate, lines: dict[str, LineSettings]) -> Seed:
    """Give the secret of the job's noise from this process's environment.

    Raises
    ------
    RuntimeError
        Where a line of central mode needs it and it is not there: a release without noise must not happen.
    """
    secret = load(environment=dict(os.environ)).federate.noise_key
    if secret is not None:
        key = bytes.fromhex(secret.get_secret_value())
        if len(key) < MIN_KEY_BYTES:
            raise RuntimeError(f"TAILRACE_FEDERATE__NOISE_KEY: wanted at least {MIN_KEY_BYTES} bytes")
        return Seed(federate.noise_key_id, key)
    central = [name for name, line in lines.items() if line.mode is Mode.CENTRAL]
    if central:
        raise RuntimeError(
            f"lines {', '.join(central)} have central noise, and TAILRACE_FEDERATE__NOISE_KEY is not in this "
            "worker's environment; set it to 32 random bytes in hexadecimal and restart the TaskManagers"
        )
    return Seed("", b"")
