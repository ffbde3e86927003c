"""The sessions of a log as a rank worker knows them at each moment: only what happened before it.

A worker learns a little later, when the job's transaction is committed; training knows no such delay. For a model
with `learnt_sessions` the log also goes through the learner of the learn job, and each moment is ranked by the newest
version of before it.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from schemas.ids import item_hash, user_key
from schemas.records import LearntPart, SessionDelta
from udfs.online.session_learner import LearnerSettings, SessionLearner
from udfs.ranking.click_records import session_key
from udfs.ranking.found_items import FoundItems
from udfs.ranking.item_index import ItemIndex
from udfs.ranking.live_sessions import LiveSessions
from udfs.ranking.snapshot import Snapshot, StateColumns


@dataclass(frozen=True)
class SessionClicks:
    """What a log added to sessions: n interactions in time order, as `recs.sessions.v1` carries them.

    Parameters
    ----------
    times_ms
        int64 (n,)
    session_keys
        uint64 (n,): `udfs.ranking.live_sessions.session_key`.
    item_hashes
        uint64 (n,)
    learner
        How the learn job learns from them, for models that use it.
    """

    times_ms: npt.NDArray[np.int64]
    session_keys: npt.NDArray[np.uint64]
    item_hashes: npt.NDArray[np.uint64]
    learner: LearnerSettings = field(default_factory=LearnerSettings)

    def replay(self) -> ReplayedSessions:
        """Return a session source that has seen nothing yet."""
        return ReplayedSessions(self)


class ClickRecorder:
    """Collects the session records that the keyed logic gives out."""

    def __init__(self) -> None:
        self._times_ms = array("q")
        self._keys = array("Q")
        self._items = array("Q")
        self._hashes: dict[str, int] = {}
        self._sessions: dict[tuple[str, str], tuple[int, int]] = {}

    def add(self, delta: SessionDelta) -> None:
        """Take one record; they come in the order of their time."""
        user = (delta.tenant, delta.user_id)
        ordinal, key = self._sessions.get(user, (0, 0))
        if ordinal != delta.session_ordinal:
            key = session_key(user_key(*user), delta.session_ordinal)
            self._sessions[user] = delta.session_ordinal, key
        hashed = self._hashes.get(delta.item_id)
        if hashed is None:
            hashed = self._hashes[delta.item_id] = item_hash(delta.item_id)
        self._times_ms.append(delta.event_time)
        self._keys.append(key)
        self._items.append(hashed)

    def clicks(self) -> SessionClicks:
        """Return what was collected."""
        return SessionClicks(
            np.array(self._times_ms, np.int64),
            np.array(self._keys, np.uint64),
            np.array(self._items, np.uint64),
        )


class ReplayedSessions:
    """A `udfs.ranking.rank.SessionSource` that learns the log up to each snapshot's time, then answers.

    Snapshots must come in time order: what was learnt is not forgotten for an earlier one.
    """

    def __init__(self, clicks: SessionClicks) -> None:
        self.mark = 0
        self._clicks = clicks
        self._live = LiveSessions()
        self._done = 0
        self._learner: SessionLearner | None = None

    @property
    def weights_version(self) -> int:
        """Version of the learnt ranker, 0: none yet."""
        return self._live.weights_version

    def find(
        self,
        items: ItemIndex,
        snapshots: Sequence[Snapshot],
        states: StateColumns,
        allowed: npt.NDArray[np.bool_],
        limit: int,
    ) -> FoundItems:
        """See `LiveSessions.find`."""
        ends = np.searchsorted(self._clicks.times_ms, states.at_ms, side="left")
        before = np.maximum.accumulate(np.maximum(ends, self._done))
        part = slice(self._done, int(before[-1]))
        before = before - self._done
        self.mark = self._done = part.stop
        keys, hashes = self._clicks.session_keys[part], self._clicks.item_hashes[part]
        versions = self._learn(keys, hashes, before) if items.settings.learnt_sessions else []
        return self._live.find_between(
            items, snapshots, states, allowed, limit, keys, hashes, before, versions
        )

    def _learn(
        self,
        keys: npt.NDArray[np.uint64],
        hashes: npt.NDArray[np.uint64],
        before: npt.NDArray[np.int64],
    ) -> list[tuple[int, list[LearntPart]]]:
        """Return the versions that these clicks make due, each with the first snapshot that comes after it."""
        if self._learner is None:
            self._learner = SessionLearner(self._clicks.learner)
        found = []
        step = self._learner.settings.ranker.batch
        at = 0
        while at < len(keys):
            stop = min(at + step - self._learner.waiting, len(keys))
            parts = self._learner.learn(keys[at:stop], hashes[at:stop])
            if parts:
                found.append((int(np.searchsorted(before, stop, side="left")), parts))
            at = stop
        return found
