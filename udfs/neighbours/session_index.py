"""The live index of sessions: learns each click, answers with candidates and their source scores."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.neighbours.index_arrays import (
    HORIZONS_CLICKS,
    N_CLICKS,
    N_SESSIONS,
    IndexArrays,
    IndexLimits,
    empty_arrays,
    size_bytes,
    with_items,
)
from udfs.neighbours.index_kernel import observe_all, observe_one
from udfs.neighbours.scan_arrays import (
    Candidates,
    Queries,
    ScanSettings,
    ScanTables,
    Scratch,
    empty_candidates,
    empty_scratch,
    largest_row,
    scan_tables,
)
from udfs.neighbours.scan_kernel import scan_all, scan_one


class SessionIndex:
    """Sessions by item, in bounded memory.

    Parameters
    ----------
    limits
        What bounds the memory; see `size_bytes`.
    settings
        How neighbours are weighed.
    items
        Rows to make room for at once; more are made when they come.

    Notes
    -----
    **State**: at most ``size_bytes`` bytes. **Forgets**: a session when `limits.sessions` newer ones came, an
    item's session when `limits.sessions_per_item` newer ones of it came. **Order**: clicks of one session come in
    their order; those of different sessions may come in any. A click that comes twice counts twice: the
    caller leaves repeats out.

    Examples
    --------
    >>> index = SessionIndex()
    >>> for session, item in [(1, 7), (1, 8), (2, 7), (2, 9), (3, 7), (3, 8)]:
    ...     index.observe(session, item)
    >>> index.query([[7]], limit=2).rows
    array([[7, 8]], dtype=int32)
    """

    def __init__(
        self, limits: IndexLimits | None = None, settings: ScanSettings | None = None, items: int = 1024
    ) -> None:
        self.limits = limits or IndexLimits()
        self.settings = settings or ScanSettings()
        self.arrays: IndexArrays = empty_arrays(self.limits, items)
        self._scratch: Scratch | None = None
        self._decay = -1.0 / np.array(HORIZONS_CLICKS)
        self._tables = scan_tables(self.settings)

    @property
    def clicks(self) -> int:
        """Clicks learnt so far."""
        return int(self.arrays.counts[N_CLICKS])

    @property
    def sessions(self) -> int:
        """Sessions opened so far."""
        return int(self.arrays.counts[N_SESSIONS])

    def size_bytes(self) -> int:
        """Return what the index can take with its present items."""
        return size_bytes(self.limits, len(self.arrays.ring_start))

    def observe(self, session_key: int, item: int, weight: float = 1.0) -> None:
        """Learn one click of a session on an item row."""
        self._make_room(item)
        observe_one(
            self.arrays, np.uint64(session_key), item, weight, self.limits.sessions_per_item, self._decay
        )

    def observe_all(
        self,
        session_keys: NDArray[np.uint64],
        items: NDArray[np.int32],
        weights: NDArray[np.float32] | None = None,
    ) -> None:
        """Learn clicks in their order.

        Parameters
        ----------
        session_keys
            uint64 (B,).
        items
            int32 (B,): rows.
        weights
            float32 (B,): what each adds to its item's popularity; 1 by default.
        """
        if not len(items):
            return
        self._make_room(int(items.max()))
        if weights is None:
            weights = np.ones(len(items), np.float32)
        longest = self.limits.sessions_per_item
        observe_all(self.arrays, session_keys, items, weights, longest, self._decay)

    def query(
        self,
        sessions: Sequence[Sequence[int]] | Queries,
        limit: int = 100,
        allowed: NDArray[np.bool_] | None = None,
    ) -> Candidates:
        """Return candidates for sessions.

        Parameters
        ----------
        sessions
            Item rows of each, oldest first; or `Queries`, which also name each session, so that it is no
            neighbour of itself.
        limit
            N, the most candidates a session.
        allowed
            bool (n,): item rows that may be candidates; all by default.
        """
        queries = sessions if isinstance(sessions, Queries) else as_queries(sessions)
        self._make_room(largest_row(queries))
        out = empty_candidates(len(queries.start), limit)
        longest = self.limits.sessions_per_item
        scan_all(
            self.arrays, queries, self.allowed(allowed), self._tables, self.settings, longest,
            self.scratch(), out,
        )  # fmt: skip
        return out

    def query_and_observe(
        self,
        queries: Queries,
        items: NDArray[np.int32],
        allowed: NDArray[np.bool_] | None = None,
        limit: int = 100,
    ) -> Candidates:
        """Answer each query, then learn its session's next click, before the next query is answered.

        Parameters
        ----------
        queries
            Q sessions; one without items only learns.
        items
            int32 (Q,): row that each session clicked next.
        allowed, limit
            As in `query`.
        """
        return self.query_between(queries, queries.keys, items, np.arange(len(items)), limit, allowed)

    def query_between(
        self,
        queries: Queries,
        session_keys: NDArray[np.uint64],
        items: NDArray[np.int32],
        before: NDArray[np.int64],
        limit: int = 100,
        allowed: NDArray[np.bool_] | None = None,
        out: Candidates | None = None,
    ) -> Candidates:
        """Answer queries and learn clicks, in the order in which they happened.

        Parameters
        ----------
        queries
            Q sessions; nothing is answered to one without items.
        session_keys, items
            uint64 and int32 (B,): the clicks, items as rows, -1: none. All of them are learnt in the end.
        before
            int64 (Q,), non-decreasing: how many of the clicks each query comes after.
        limit, allowed
            As in `query`.
        out
            Where to write, of at least Q lists; new by default.

        Returns
        -------
        The answer, in `out` if it was given.
        """
        self._make_room(max(int(items.max(initial=-1)), largest_row(queries)))
        asked = len(queries.start)
        if out is None:
            out = empty_candidates(asked, limit)
        else:
            out = Candidates(out.counts[:asked], out.rows[:asked], out.scores[:asked])
            _clear(out)
        longest = self.limits.sessions_per_item
        _replay(
            self.arrays, queries, session_keys, items, before, self.allowed(allowed), self._tables,
            self.settings, longest, self._decay, self.scratch(), out,
        )  # fmt: skip
        return out

    def allowed(self, given: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        """Return a mask over all item rows; rows behind the given one are not allowed."""
        rows = len(self.arrays.ring_start)
        if given is None:
            return np.ones(rows, np.bool_)
        return given if len(given) >= rows else np.concatenate([given, np.zeros(rows - len(given), np.bool_)])

    def scratch(self) -> Scratch:
        """Return scratch space for the present items."""
        rows = len(self.arrays.ring_start)
        if self._scratch is None or len(self._scratch.place) < rows:
            self._scratch = empty_scratch(self.arrays, self.settings, self.limits.sessions_per_item)
        return self._scratch

    def _make_room(self, item: int) -> None:
        if item >= len(self.arrays.ring_start):
            self.arrays = with_items(self.arrays, item + 1)


def as_queries(sessions: Sequence[Sequence[int]], keys: Sequence[int] | None = None) -> Queries:
    """Return sessions as one flat array; without keys they are strangers to the index."""
    lengths = np.array([len(session) for session in sessions], np.int64)
    stop = np.cumsum(lengths)
    flat = np.array([item for session in sessions for item in session], np.int32)
    own = np.full(len(sessions), NOBODY, np.uint64) if keys is None else np.array(keys, np.uint64)
    return Queries(flat, stop - lengths, stop, own)


NOBODY = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
"""The key of a session that the index does not have."""


@kernel
def _clear(out: Candidates) -> None:
    for q in range(len(out.counts)):
        for j in range(out.counts[q]):
            out.rows[q, j] = -1
            for s in range(out.scores.shape[2]):
                out.scores[q, j, s] = 0.0
        out.counts[q] = 0


@kernel
def _replay(
    arrays: IndexArrays,
    queries: Queries,
    session_keys: NDArray[np.uint64],
    items: NDArray[np.int32],
    before: NDArray[np.int64],
    allowed: NDArray[np.bool_],
    tables: ScanTables,
    settings: ScanSettings,
    longest: int,
    decay: NDArray[np.float64],
    scratch: Scratch,
    out: Candidates,
) -> None:
    done = 0
    for q in range(len(before)):
        while done < before[q]:
            if items[done] >= 0:
                observe_one(arrays, session_keys[done], items[done], 1.0, longest, decay)
            done += 1
        if queries.stop[q] > queries.start[q]:
            scan_one(arrays, queries, q, allowed, tables, settings, longest, scratch, out)
    while done < len(items):
        if items[done] >= 0:
            observe_one(arrays, session_keys[done], items[done], 1.0, longest, decay)
        done += 1
