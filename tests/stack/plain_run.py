"""The recommend job without Flink: the same logic over the same topic, one record after the other.

It knows neither shards, batches, timers nor stores. What the job leaves in its state and in Redis must equal
what stands here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from flink_jobs.kafka_key import key_text
from schemas.codec import Codec
from schemas.ids import split_user_key
from schemas.records import Item, SessionDelta
from schemas.redis_keys import format_version
from schemas.refusal import Refused
from schemas.validation import effective_time, validate_event
from udfs.bandits.shared_posterior import SharedPosterior
from udfs.model.bundle import Bundle
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.live_sessions import LiveSessions
from udfs.ranking.rank import Ranked, RankSettings, rank_batch
from udfs.ranking.snapshot import Snapshot
from udfs.user_logic import LogicSettings, Position, Urgency, UserLogic
from udfs.user_state import UserState
from udfs.user_vector import refresh_embedding


class Row(NamedTuple):
    """One record of a topic as it stands there."""

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
    control_seq
        1 + offset of the activation, or of the republish after it.
    arrivals
        `model.arrivals` of the job.
    """

    bundle: Bundle
    settings: LogicSettings
    control_seq: int = 0
    max_event_bytes: int = 65_536
    generation: int = 0
    arrivals: int = 1_000
    states: dict[str, UserState] = field(default_factory=dict)
    ranked: dict[str, UserState] = field(default_factory=dict)
    deltas: list[SessionDelta] = field(default_factory=list)
    refused: list[tuple[Row, Refused]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def run(self, rows: Iterable[Row]) -> PlainRun:
        """Apply rows in the order of partition and offset; rows of a later call come after."""
        epoch, factors = self.bundle.epoch, self.bundle.items.factors
        logic = UserLogic(self.settings, {epoch: factors})
        codec = Codec({1: "Event"})
        for row in sorted(rows):
            self.counts["events"] += 1
            key, value = key_text(row.key), row.value or b""
            try:
                event = codec.decode_event(value, self.max_event_bytes)
                validate_event(event, key)
            except Refused as refused:
                self.counts[f"refused_{refused.reason}"] += 1
                self.refused.append((row, refused))
                continue
            at_ms, clamped = effective_time(event)
            if clamped is not None:
                self.counts[clamped] += 1
            position = Position(row.partition, row.offset)
            step = logic.on_event(self.states.get(key), event, at_ms, position, epoch)
            self.counts.update(step.counts)
            self.deltas.extend(step.deltas)
            if step.state is None:
                self.erase(key)
                continue
            self.states[key] = step.state
            if step.rank in (Urgency.NOW, Urgency.SOON):
                self.ranked[key] = step.state
        return self

    def earn(self, rows: Iterable[Row]) -> None:
        """Apply credits, after all events; they ask for no ranking."""
        logic, codec = UserLogic(self.settings, {}), Codec({7: "Credit"})
        for row in sorted(rows):
            key = key_text(row.key)
            credit = codec.decode("Credit", row.value or b"")
            step = logic.on_credit(self.states.get(key), credit, Position(row.partition, row.offset))
            if step.state is not None:
                self.states[key] = step.state

    def erase(self, key: str) -> None:
        """Forget a user, as an order does."""
        self.states.pop(key, None)
        self.ranked.pop(key, None)

    def wake_all(self, clock_ms: int) -> None:
        """Forget whom the job forgets when its event-time clock shows `clock_ms`; lists stay."""
        logic = UserLogic(self.settings, {})
        for key, state in list(self.states.items()):
            if logic.on_wake(state, clock_ms).state is None:
                del self.states[key]

    def republish(self, control_seq: int, bundle: Bundle | None = None) -> None:
        """Everyone's list is made anew of the state as it stands, under this order's number."""
        self.control_seq = control_seq
        self.bundle = bundle or self.bundle
        self.ranked = dict(self.states)

    def state_bytes(self) -> dict[str, bytes]:
        """Give what stands in the job's state once everyone was ranked: the vector up to date."""
        return {key: self._refreshed(state).encode() for key, state in self.states.items()}

    def versions(self) -> dict[str, str]:
        """Give the `_v` of every list."""
        return {key: self._version(state) for key, state in self.ranked.items()}

    def lists(
        self,
        items: Sequence[Item],
        mark: int,
        settings: RankSettings,
        keys: Iterable[str] | None = None,
        sessions: LiveSessions | None = None,
        posteriors: Mapping[str, SharedPosterior] | None = None,
    ) -> dict[str, Ranked]:
        """Rank everyone, or these, in one batch."""
        view, snapshots = self.view(items, mark), self.snapshots(self.ranked if keys is None else keys)
        ranked = rank_batch(self.bundle, snapshots, view, settings, sessions, posteriors)
        return {snapshot.key: list_ for snapshot, list_ in zip(snapshots, ranked, strict=True)}

    def snapshots(self, keys: Iterable[str]) -> list[Snapshot]:
        """Give users as the job hands them to its rank workers."""
        states = {key: self._refreshed(self.ranked[key]) for key in keys}
        return [
            Snapshot(
                key,
                *split_user_key(key),
                self._version(state),
                state.last_ms,
                self.bundle.epoch,
                state.encode(),
            )
            for key, state in states.items()
        ]

    def view(self, items: Sequence[Item], mark: int) -> CatalogueView:
        """Give the catalogue as a worker has it after these records."""
        view = CatalogueView(self.bundle, self.arrivals)
        for item in items:
            view.apply(item)
        view.mark = mark
        view.settle()
        return view

    def _refreshed(self, state: UserState) -> UserState:
        return refresh_embedding(state, self.bundle.items.factors, self.bundle.epoch)

    def _version(self, state: UserState) -> str:
        return format_version(self.generation, state.newest_offset, self.control_seq)
