"""The recommend job without Flink: the same logic over the same topic, one record after the other.

It knows neither shards, batches, timers nor stores. What the job leaves in its state and in Redis must equal
what stands here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.codec import Codec
from schemas.records import DeadLetter, SessionDelta
from schemas.redis_keys import format_version
from schemas.refusal import Refused
from schemas.validation import effective_time, validate_event
from udfs.model.bundle import Bundle
from udfs.user_logic import LogicSettings, Position, Urgency, UserLogic
from udfs.user_state import UserState
from udfs.user_vector import refresh_embedding

MAX_EVENT_BYTES = 65_536


class Row(NamedTuple):
    """One record of the events topic."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


@dataclass
class PlainRun:
    """What the job must leave behind.

    Attributes
    ----------
    states
        User key → state after all events.
    ranked
        User key → state right after the newest event that asked for a ranking: what the list is made of.
    """

    bundle: Bundle
    epoch: int
    shards: int
    control_seq: int
    states: dict[str, UserState] = field(default_factory=dict)
    ranked: dict[str, UserState] = field(default_factory=dict)
    deltas: list[SessionDelta] = field(default_factory=list)
    refused: list[tuple[Row, Refused]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def run(self, rows: Iterable[Row]) -> PlainRun:
        """Apply rows in the order of partition and offset."""
        logic = UserLogic(LogicSettings(shards=self.shards), {})
        codec, factors = Codec({1: "Event"}), self.bundle.items.factors
        for row in sorted(rows, key=lambda row: (row.partition, row.offset)):
            self.counts["events"] += 1
            # What the job's source makes of a missing key or value, and of a key that is not UTF-8.
            key, value = (row.key or b"").decode("utf-8", "replace"), row.value or b""
            try:
                event = codec.decode_event(value, MAX_EVENT_BYTES)
                validate_event(event, key)
            except Refused as refused:
                self.counts[f"refused_{refused.reason}"] += 1
                self.refused.append((row, refused))
                continue
            at_ms, clamped = effective_time(event)
            if clamped is not None:
                self.counts[clamped] += 1
            position = Position(row.partition, row.offset)
            step = logic.on_event(self.states.get(key), event, at_ms, position, self.epoch)
            self.counts.update(step.counts)
            self.deltas.extend(step.deltas)
            if step.state is None:
                self.states.pop(key, None)
                self.ranked.pop(key, None)
                continue
            self.states[key] = step.state
            if step.rank in (Urgency.NOW, Urgency.SOON):
                self.ranked[key] = step.state
        for key, state in self.ranked.items():
            self.ranked[key] = refresh_embedding(state, factors, self.epoch)
            self.states[key] = refresh_embedding(self.states[key], factors, self.epoch)
        return self

    def version(self, state: UserState, generation: int = 0) -> str:
        """Give the `_v` of a list made of `state`."""
        return format_version(generation, state.newest_offset, self.control_seq)


def reasons(letters: Iterable[DeadLetter]) -> Counter[str]:
    """Count dead letters by reason, each place in the topic once."""
    return Counter(reason for _, reason in {((d.topic, d.partition, d.offset), d.reason) for d in letters})
