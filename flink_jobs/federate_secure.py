"""Lines of the federate job that are added under masks: messages in, what members are told and versions out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyflink.common import Row

from flink_jobs.dead_letter import dead_letter
from flink_jobs.federate_numbers import StoredNumbers
from flink_jobs.federate_store import JOB
from flink_jobs.prefix import EDGE_UPDATES
from schemas.codec import decode, encode
from schemas.ids import user_key
from schemas.records import EdgeCohort, EdgeModel, EdgeUpdate
from schemas.refusal import Refused
from udfs.federate.contribution import SecurePacket
from udfs.federate.line import LineLogic
from udfs.federate.line_state import LineHead, LineState
from udfs.federate.secure_cohort import SecureLogic
from udfs.federate.secure_cohort_state import SecureCohort, SecureStep
from udfs.federate.update_check import redacted

DEAD_LETTER, MODEL, COHORT = range(3)
"""Kinds of output rows of the lines' step."""


class StoredCohort:
    """What a line under masks has in Flink's state.

    Parameters
    ----------
    name
        Of the line.
    heads, cohorts
        Map states: line to `LineHead` and to `SecureCohort`.
    numbers
        Model and running sum.
    """

    def __init__(self, name: str, heads: Any, cohorts: Any, numbers: StoredNumbers) -> None:
        self._name = name
        self._heads = heads
        self._cohorts = cohorts
        self._numbers = numbers

    def read(self) -> tuple[SecureCohort, LineState]:
        """The open cohort and the line with its running sum."""
        blob = self._cohorts.get(self._name)
        cohort = SecureCohort() if blob is None else SecureCohort.decode(blob)
        head = LineHead.decode(self._heads.get(self._name))
        total = self._numbers.sum_of(head.version)
        return cohort, LineState(
            head, self._numbers.weights(), {} if total is None else {head.version: total}
        )

    def is_idle(self) -> bool:
        """Whether no time can be over: nobody has joined."""
        blob = self._cohorts.get(self._name)
        return blob is None or SecureCohort.decode(blob).since_ms is None

    def write(self, before: LineState, cohort: SecureCohort, after: LineState) -> None:
        """Store what messages made."""
        self._cohorts.put(self._name, cohort.encode())
        self._heads.put(self._name, after.head.encode())
        self._numbers.put_sums(after.sums, before.sums.keys() - after.sums.keys())
        if after.head.version > before.head.version:
            self._numbers.put_weights(after.weights)


def secure_rows(
    logic: LineLogic, stored: StoredCohort, packets: list[SecurePacket], clock_ms: int, counts: dict[str, int]
) -> Iterator[Row]:
    """Take messages in the order of (time, partition, offset), then let time pass.

    Parameters
    ----------
    counts
        Counters of the shard, which are raised.
    """
    if not packets and stored.is_idle():
        return
    secure = SecureLogic(logic)
    cohort, before = stored.read()
    state = before
    for packet, update in in_order(packets):
        step = secure.on_message(cohort, state, update, packet.at_ms)
        cohort, state = step.cohort, step.state
        if step.refused is not None:
            yield refusal_row(packet, update, step.refused)
        yield from _rows(step, counts)
    step = secure.on_time(cohort, state, clock_ms)
    yield from _rows(step, counts)
    stored.write(before, step.cohort, step.state)


def in_order(packets: list[SecurePacket]) -> Iterator[tuple[SecurePacket, EdgeUpdate]]:
    """Give packets and what they hold, in the order of (time, partition, offset)."""
    for packet in sorted(packets, key=lambda one: one[1:4]):
        update = decode("EdgeUpdate", packet.value)
        assert isinstance(update, EdgeUpdate)
        yield packet, update


def model_row(record: EdgeModel) -> Row:
    """A version as it leaves the job."""
    return Row(MODEL, f"{record.model_line}/{record.version}", encode(record))


def told_row(told: EdgeCohort) -> Row:
    """What members of a cohort, or a key holder, are told, as it leaves the job."""
    sender = f"/{told.members[0]}" if told.phase == "shares" else ""
    return Row(COHORT, f"{told.model_line}/{told.cohort}/{told.phase}{sender}", encode(told))


def refusal_row(packet: SecurePacket, update: EdgeUpdate, refused: Refused) -> Row:
    """The dead letter of an update, without its numbers."""
    place = (EDGE_UPDATES, packet.partition, packet.offset, packet.at_ms)
    key = user_key(update.tenant, update.user_id)
    return Row(DEAD_LETTER, *dead_letter(*place, key, encode(redacted(update)), refused, JOB))


def count_step(counters: tuple[str, ...], refused: Refused | None, counts: dict[str, int]) -> None:
    """Raise the shard's counters by what a step names."""
    for counter in counters:
        is_refusal = refused is not None and refused.reason == counter
        name = f"refused_{counter}" if is_refusal else f"line_{counter}"
        counts[name] = counts.get(name, 0) + 1


def _rows(step: SecureStep, counts: dict[str, int]) -> Iterator[Row]:
    for told in step.told:
        yield told_row(told)
    if step.released is not None:
        yield model_row(step.released)
    count_step(step.counts, step.refused, counts)
