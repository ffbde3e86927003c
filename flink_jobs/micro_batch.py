"""One call's work on a shard: each user read once, written once, and at most one snapshot a user sent out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from pyflink.common import Row

from flink_jobs.output_rows import ERASE, RANK, encode_variant
from flink_jobs.shard_record import ShardRecord
from schemas.redis_keys import format_version
from udfs.user_logic import Step, Urgency
from udfs.user_state import UserState

MAX_RANKED_MEMORY = 200_000
LOOKED_AT = 4
"""Owed users looked at for each that may be ranked: a tick costs the same however many wait."""

Refresh = Callable[[Sequence[UserState], int], list[UserState]]
"""Gives states whose vectors belong to the named model epoch."""


class _Due(NamedTuple):
    """A ranking that an event of this batch asked for: the state right after that event."""

    state: UserState
    urgency: Urgency


class RankingPace:
    """When each user was last ranked, and how long to wait before the next time.

    Kept in this process only: after a restart everyone may be ranked at once, which changes no final list.

    Parameters
    ----------
    view_interval_ms
        Least distance of two rankings that views ask for.
    max_interval_ms
        Bound of the distance that every ranking keeps under load.
    lag_ignored_ms
        Up to this wait nothing stretches: a ranking that is put off costs more than one at once, so short queues
        drain sooner without.
    """

    def __init__(self, view_interval_ms: int, max_interval_ms: int, lag_ignored_ms: int = 2_000) -> None:
        self.view_interval_ms = view_interval_ms
        self.max_interval_ms = max_interval_ms
        self.lag_ignored_ms = lag_ignored_ms
        self.load_interval_ms = 0
        self._ranked_at_ms: dict[str, int] = {}

    def observe_lag(self, lag_ms: int) -> None:
        """Stretch to twice the time that events wait; back to none when they are on time."""
        late = lag_ms > self.lag_ignored_ms
        self.load_interval_ms = min(2 * lag_ms, self.max_interval_ms) if late else 0

    def may_rank(self, key: str, urgency: Urgency, now_ms: int) -> bool:
        """Tell whether the user's turn has come."""
        interval_ms = self.load_interval_ms
        if urgency is Urgency.SOON and interval_ms < self.view_interval_ms:
            interval_ms = self.view_interval_ms
        return not interval_ms or now_ms - self._ranked_at_ms.get(key, -interval_ms) >= interval_ms

    def ranked(self, key: str, now_ms: int) -> None:
        """Remember that the user was ranked now."""
        if len(self._ranked_at_ms) >= MAX_RANKED_MEMORY:
            self._ranked_at_ms.clear()
        self._ranked_at_ms[key] = now_ms


class MicroBatch:
    """The users that one call touches, and what it owes them.

    Parameters
    ----------
    refresh
        Brings the vectors of states that leave for ranking up to date, all of a batch in one call.
    users, pending
        Flink map states: user key → state blob, user key → nothing.
    shard
        The shard's record; its `pending` mirrors the map state.
    """

    def __init__(
        self,
        refresh: Refresh,
        users: Any,
        pending: Any,
        shard: ShardRecord,
        pace: RankingPace,
        generation: int,
    ) -> None:
        self.shard = shard
        self.wakes: dict[int, list[str]] = {}
        self._refresh = refresh
        self._users = users
        self._pending = pending
        self._pace = pace
        self._generation = generation
        self._before: dict[str, UserState | None] = {}
        self._states: dict[str, UserState | None] = {}
        self._due: dict[str, _Due] = {}
        self._erased: dict[str, str] = {}
        self._sent: dict[str, tuple[UserState, bytes]] = {}

    def load(self, key: str) -> UserState | None:
        """Give the user's state as of now, read once a batch."""
        if key in self._states:
            return self._states[key]
        data = self._users.get(key)
        state = None if data is None else UserState.decode(data)
        self._before[key] = self._states[key] = state
        return state

    def keep(self, key: str, step: Step, offset: int, control_seq: int | None = None) -> None:
        """Take over a step: the new state, and the ranking that it asks for."""
        known = self._states[key] is not None
        self._states[key] = step.state
        if step.rank is Urgency.ERASE:
            self._due.pop(key, None)
            self._erased[key] = self._version(offset, control_seq)
        elif step.state is not None and step.rank is not Urgency.NEVER:
            waiting = self._due.get(key)
            urgent = waiting is not None and waiting.urgency is Urgency.NOW
            self._due[key] = _Due(step.state, Urgency.NOW if urgent else step.rank)
            self._erased.pop(key, None)
        if not known and step.wake_at_ms is not None:
            self.wakes.setdefault(step.wake_at_ms, []).append(key)

    def rewake(self, key: str, wake_at_ms: int | None) -> None:
        """Note when to look at the user again."""
        if wake_at_ms is not None:
            self.wakes.setdefault(wake_at_ms, []).append(key)

    def owe(self, key: str) -> None:
        """Promise the user a ranking at a later tick."""
        if key not in self.shard.pending:
            self.shard.pending[key] = None
            self._pending.put(key, b"")

    def owe_all(self) -> None:
        """Promise a ranking to every user of the shard."""
        for key in list(self._users.keys()):
            self.owe(key)

    def settle(self, key: str, state: UserState, now_ms: int) -> Iterator[Row]:
        """Rank an owed user in `state`, before an event that asks for no ranking changes it."""
        if self.shard.epoch and key in self.shard.pending and key not in self._due:
            yield from self._snapshots([(key, state)], now_ms)

    def settle_due(self, now_ms: int, at_most: int) -> Iterator[Row]:
        """Rank owed users whose turn has come, longest owed first, looking at a bounded number."""
        if not self.shard.epoch:
            return
        first = list(islice(self.shard.pending, LOOKED_AT * at_most))
        due = [key for key in first if self._pace.may_rank(key, Urgency.SOON, now_ms)]
        leaving = []
        for key in due[:at_most]:
            state = self.load(key)
            if state is None:
                self._settled(key)
            else:
                leaving.append((key, state))
        yield from self._snapshots(leaving, now_ms)

    def finish(self, now_ms: int) -> Iterator[Row]:
        """Send out what is due, owe what must wait, and write each changed user."""
        for key, version in self._erased.items():
            self._settled(key)
            yield Row(ERASE, key, b"", version, 0, 0, "")
        # Without a model nothing can be ranked; the first activation owes everyone a list.
        leaving = []
        for key, (state, urgency) in self._due.items() if self.shard.epoch else ():
            # A state that has moved on must be ranked as it was, or the list would depend on batch boundaries.
            if state is not self._states[key] or self._pace.may_rank(key, urgency, now_ms):
                leaving.append((key, state))
            else:
                self.owe(key)
        yield from self._snapshots(leaving, now_ms)
        for key, state in self._states.items():
            if state is self._before[key]:
                continue
            if state is None:
                self._settled(key)
                self._users.remove(key)
            else:
                sent = self._sent.get(key)
                self._users.put(key, sent[1] if sent is not None and sent[0] is state else state.encode())

    def _snapshots(self, leaving: Sequence[tuple[str, UserState]], now_ms: int) -> Iterator[Row]:
        """Rank users in the given states; the vectors of their newest states come along."""
        if not leaving:
            return
        epoch, running = self.shard.epoch, self.shard.running
        moved_on = [
            (key, current)
            for key, state in leaving
            if (current := self._states[key]) is not state and current is not None
        ]
        refreshed = self._refresh([state for _, state in (*leaving, *moved_on)], epoch)
        for (key, state), snapshot in zip(leaving, refreshed, strict=False):
            if self._states[key] is state:
                self._states[key] = snapshot
            self._settled(key)
            self._pace.ranked(key, now_ms)
            data = snapshot.encode()
            self._sent[key] = (snapshot, data)
            label, changes = running.of_user(key)
            # A variant's epoch ranks with its own vector, which the rank worker folds in; the state keeps this one.
            of_epoch = changes.get("epoch", epoch)
            version = self._version(snapshot.newest_offset)
            yield Row(RANK, key, data, version, snapshot.last_ms, of_epoch, encode_variant(label, changes))
        for (key, _), current in zip(moved_on, refreshed[len(leaving) :], strict=True):
            self._states[key] = current

    def _settled(self, key: str) -> None:
        if key in self.shard.pending:
            del self.shard.pending[key]
            self._pending.remove(key)

    def _version(self, offset: int, control_seq: int | None = None) -> str:
        return format_version(self._generation, offset, control_seq or self.shard.control_seq)
