"""The session source: sessions of all users as they happen, and what neighbours of a user's session did next.

Items enter by hash, so the sessions outlive an epoch; the rows of each epoch are looked up once an item. A model
whose settings have `learnt_sessions` gets them in the order of the ranker that learns in the stream, as published.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from schemas.records import LearntPart
from udfs.item_factors import INTERACTION_WEIGHTS
from udfs.kernel_cache import kernel
from udfs.neighbours.index_arrays import IndexLimits
from udfs.neighbours.item_table import ItemTable
from udfs.neighbours.scan_arrays import FIRST, Candidates, Queries, ScanSettings
from udfs.neighbours.session_index import SessionIndex
from udfs.online.published_ranker import PublishedRanker
from udfs.online.session_learner import CANDIDATES, LIMITS, SCAN
from udfs.ranking.click_records import session_key
from udfs.ranking.found_items import FoundItems, no_items
from udfs.ranking.item_index import ItemIndex, row_of
from udfs.ranking.snapshot import Snapshot, StateColumns
from udfs.user_state import MAX_INTERACTIONS

MOST_ITEMS = 1 << 21
_EPOCHS_HELD = 2


def one_session(items: ItemIndex) -> "LiveSessions":
    """Return a small source that has seen two items of the epoch: asking it makes all kernels ready."""
    live = LiveSessions(IndexLimits(sessions=16, pool=64))
    live.observe(np.zeros(2, np.uint64), items.columns.hashes[:2])
    return live


class LiveSessions:
    """An index of sessions by item hash, asked for the items of one epoch.

    Parameters
    ----------
    limits
        What bounds the memory, `LIMITS` by default; see `udfs.neighbours.index_arrays.size_bytes`.
    settings
        How neighbours are weighed, `SCAN` by default.
    most_items
        Different items learnt; ids that nobody has listed cannot fill the memory.

    Attributes
    ----------
    mark
        How far the log of sessions was applied; whoever applies it sets it, and lists carry it.
    learnt
        The ranker that learns in the stream, as far as its versions were taken.
    """

    def __init__(
        self,
        limits: IndexLimits | None = None,
        settings: ScanSettings | None = None,
        most_items: int = MOST_ITEMS,
    ) -> None:
        self.mark = 0
        self._index = SessionIndex(limits or LIMITS, settings or SCAN)
        self._items = ItemTable(most_items)
        self.learnt = PublishedRanker(self._items.add)
        self._rows: list[tuple[ItemIndex, NDArray[np.int32]]] = []

    @property
    def clicks(self) -> int:
        """Interactions learnt so far."""
        return self._index.clicks

    @property
    def weights_version(self) -> int:
        """Version of the learnt ranker, 0: none yet."""
        return self.learnt.version

    def observe(self, session_keys: NDArray[np.uint64], item_hashes: NDArray[np.uint64]) -> None:
        """Learn interactions in their order: uint64 (B,) of sessions and of items."""
        rows = self._items.add(item_hashes)
        self._index.observe_all(session_keys[rows >= 0], rows[rows >= 0])

    def find(
        self,
        items: ItemIndex,
        snapshots: Sequence[Snapshot],
        states: StateColumns,
        allowed: NDArray[np.bool_],
        limit: int,
    ) -> FoundItems:
        """Return what sessions like each user's last one did next.

        The score is that of the first order of `udfs.neighbours`, or the learnt probability.

        Parameters
        ----------
        items
            Of the epoch.
        snapshots, states
            U users.
        allowed
            bool (n,) of the epoch's items.
        limit
            S.
        """
        nothing = np.zeros(0, np.uint64)
        return self.find_between(
            items, snapshots, states, allowed, limit, nothing, nothing, np.zeros(len(snapshots), np.int64)
        )

    def find_between(
        self,
        items: ItemIndex,
        snapshots: Sequence[Snapshot],
        states: StateColumns,
        allowed: NDArray[np.bool_],
        limit: int,
        session_keys: NDArray[np.uint64],
        item_hashes: NDArray[np.uint64],
        before: NDArray[np.int64],
        versions: Sequence[tuple[int, Sequence[LearntPart]]] = (),
    ) -> FoundItems:
        """Answer and learn in the order in which it happened, as `SessionIndex.query_between` does.

        Parameters
        ----------
        items, snapshots, states, allowed, limit
            As in `find`.
        session_keys, item_hashes
            uint64 (B,): interactions, all learnt in the end.
        before
            int64 (U,), non-decreasing: how many of them each user's snapshot comes after.
        versions
            Parts of the learnt ranker, and the first user to be ranked with them; users ascending. All are taken in
            the end.
        """
        learnt = self._items.add(item_hashes)
        names = np.array(
            [session_key(each.key, n) for each, n in zip(snapshots, states.n_sessions.tolist(), strict=True)],
            np.uint64,
        )
        queries = self._queries(states, names)
        rows = self.rows_in(items)
        if not len(rows):
            return no_items(len(snapshots))
        is_learnt = bool(items.settings.learnt_sessions)
        found = self._index.query_between(
            queries,
            session_keys,
            learnt,
            before,
            max(limit, CANDIDATES) if is_learnt else limit,
            (rows >= 0) & allowed[rows],
        )
        if is_learnt:
            found_rows, score = self._by_learnt_order(found, queries, versions, limit)
        else:
            found_rows, score = found.rows, np.ascontiguousarray(found.scores[:, :, FIRST])
        counts = np.minimum(found.counts, limit)
        return FoundItems(counts, np.where(found_rows >= 0, rows[found_rows], 0), score)

    def _by_learnt_order(
        self,
        found: Candidates,
        queries: Queries,
        versions: Sequence[tuple[int, Sequence[LearntPart]]],
        limit: int,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return rows and probabilities of each user's best, int32 and float32 (U, limit), by the user's version."""
        probabilities = np.zeros(found.rows.shape, np.float32)
        users, start = len(found.counts), 0
        for stop, parts in (*versions, (users, ())):
            if stop > start:
                of = slice(start, stop)
                some = Candidates(found.counts[of], found.rows[of], found.scores[of])
                asked = Queries(queries.items, queries.start[of], queries.stop[of], queries.keys[of])
                probabilities[of] = self.learnt.probabilities(some, asked)
            for part in parts:
                self.learnt.take(part)
            start = max(start, stop)
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :limit]
        return np.take_along_axis(found.rows, order, axis=1), np.take_along_axis(probabilities, order, axis=1)

    def rows_in(self, items: ItemIndex) -> NDArray[np.int32]:
        """Return the epoch's row of each item met so far, int32, -1 where it has none."""
        known = next((rows for index, rows in self._rows if index is items), np.zeros(0, np.int32))
        if len(known) < len(self._items):
            columns = items.columns
            more = np.empty(len(self._items) - len(known), np.int32)
            _rows_of(
                columns.hashes, columns.prefix, columns.prefix_shift, self._items.hashes[len(known) :], more
            )
            known = np.concatenate([known, more])
            others = [(index, rows) for index, rows in self._rows if index is not items]
            self._rows = [*others[-(_EPOCHS_HELD - 1) :], (items, known)]
        return known

    def _queries(self, states: StateColumns, names: NDArray[np.uint64]) -> Queries:
        users = len(names)
        flat = np.empty(users * MAX_INTERACTIONS, np.uint64)
        stop = np.empty(users, np.int64)
        _items_of_last_session(states, INTERACTION_WEIGHTS, flat, stop)
        rows = self._items.add(flat[: stop[-1]])  # a user's own items count before the log has brought them
        start = np.concatenate([[0], stop[:-1]]).astype(np.int64)
        return Queries(*_without_strangers(rows, start, stop), names)


@kernel
def _rows_of(
    hashes: NDArray[np.uint64],
    prefix: NDArray[np.int32],
    shift: int,
    wanted: NDArray[np.uint64],
    out: NDArray[np.int32],
) -> None:
    for j in range(len(wanted)):
        out[j] = row_of(hashes, prefix, shift, wanted[j])


@kernel
def _items_of_last_session(
    states: StateColumns,
    type_weights: NDArray[np.float32],
    flat: NDArray[np.uint64],
    stop: NDArray[np.int64],
) -> None:
    """Write the items of each user's last session one user after the other, oldest first, and where they end."""
    at = 0
    for user in range(len(stop)):
        first_s = states.session_start_ms[user] // 1000
        for k in range(states.n_interactions[user]):
            kind = states.item_types[user, k]
            if (
                np.int64(states.item_seconds[user, k]) >= first_s
                and kind < len(type_weights)
                and type_weights[kind] > 0.0
            ):
                flat[at] = states.item_hashes[user, k]
                at += 1
        stop[user] = at


@kernel
def _without_strangers(
    rows: NDArray[np.int32], start: NDArray[np.int64], stop: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Leave out items that the table has no room for."""
    kept = np.empty(len(rows), np.int32)
    first, last = np.empty(len(start), np.int64), np.empty(len(start), np.int64)
    at = 0
    for user in range(len(start)):
        first[user] = at
        for j in range(start[user], stop[user]):
            if rows[j] >= 0:
                kept[at] = rows[j]
                at += 1
        last[user] = at
    return kept[:at], first, last
