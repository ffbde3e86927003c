"""What a scan for candidates reads and writes: its settings, the sessions asked for, scratch space, the answer."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.neighbours.index_arrays import SESSION_CAP, IndexArrays

SUMS = ("first", "forward", "backward", "next", "cosine", "pair", "second", "hop")
"""What a scan adds up for each item; eight, so that an item's sums share a cache line."""
N_SUMS = len(SUMS)
FIRST, FORWARD, BACKWARD, NEXT, COSINE, PAIR, SECOND, HOP = range(N_SUMS)
SOURCES = (*SUMS, "vmis", "now", "lately", "long", "age", "sessions")
"""Scores of each candidate, in the order of the answer's last axis: the sums, and what is known of the item.

first: the blend that chose it; forward, backward: by neighbours that clicked it after, before the match; next: right
after; cosine: whatever the gap; pair, second: by neighbours with the session's last, last but one item; hop: second
hop; vmis: forward and backward; now, lately, long: decayed clicks; age: clicks of anybody since its last; sessions:
that ever had it.
"""
N_SOURCES = len(SOURCES)
VMIS, NOW, LATELY, LONG, AGE, SESSIONS = range(N_SUMS, N_SOURCES)
MAX_QUERY = 16


class ScanSettings(NamedTuple):
    """How neighbours are weighed."""

    query_items: int = 9
    """Latest distinct items of the session that look for neighbours."""
    query_decay: float = 0.7
    """Weight of an item relative to the one clicked after it."""
    neighbours: int = 150
    length_power: float = 0.25
    """A neighbour's similarity is divided by its length to this power."""
    half_age_clicks: float = 300_000.0
    """A neighbour's similarity is divided by e for each so many clicks of anybody since its last."""
    match_decay: float = 0.1
    """What a neighbour loses for each newer item of the session that it does not have."""
    gap_clicks: float = 4.0
    """An item's weight falls by e for each so many clicks between it and the match."""
    backward: float = 0.8
    """Weight of what a neighbour clicked before the match, relative to after."""
    hop_items: int = 10
    """Best candidates whose own sessions are read too; 0: no second hop."""
    hop_sessions: int = 16
    hop_share: float = 0.15
    repeat_share: float = 0.3
    repeat_decay: float = 0.8
    popular_share: float = 0.1


class Queries(NamedTuple):
    """Sessions that ask for candidates: Q of them, their items one after the other."""

    items: NDArray[np.int32]  # all sessions' item rows, each session's oldest first
    start: NDArray[np.int64]  # (Q,) first of a session's items
    stop: NDArray[np.int64]  # (Q,) behind its last; equal to start: nothing is asked
    keys: NDArray[np.uint64]  # (Q,) the session's own key: it is no neighbour of itself


@kernel
def largest_row(queries: Queries) -> int:
    """Return the largest item row that the sessions name, -1 if they name none.

    Not the maximum of `queries.items`: many queries may share one long array.
    """
    largest = -1
    for q in range(len(queries.start)):
        for at in range(queries.start[q], queries.stop[q]):
            largest = max(largest, queries.items[at])
    return largest


class ScanTables(NamedTuple):
    """Values that a scan would compute a thousand times."""

    match_weights: NDArray[np.float64]  # (2^query_items,) of a neighbour by the bits of its matches
    gap_weights: NDArray[np.float64]  # (SESSION_CAP,) of an item so many clicks from the match
    length_weights: NDArray[np.float64]  # (SESSION_CAP + 1,) of a neighbour with so many clicks
    logs: NDArray[np.float64]  # (LARGEST_LOG + 1,) of whole numbers; that of 0 is 0


def scan_tables(settings: ScanSettings) -> ScanTables:
    """Return the tables of some settings."""
    lengths = np.maximum(np.arange(SESSION_CAP + 1), 1)
    matches, weight = np.zeros(1), 1.0
    for _ in range(settings.query_items):
        matches = np.concatenate([matches, matches + weight])
        weight *= settings.query_decay
    return ScanTables(
        matches,
        np.exp(-np.arange(SESSION_CAP) / settings.gap_clicks),
        lengths**-settings.length_power,
        np.log(np.maximum(np.arange(LARGEST_LOG + 1), 1)),
    )


LARGEST_LOG = 1 << 14


class Scratch(NamedTuple):
    """Space that a scan needs; one for each thread.

    What a scan adds up lies by the order in which it met the items, so that it stays in the nearest cache: an item is
    looked up once in `place`, and the large arrays of all items are read once an item.
    """

    match: NDArray[np.int32]  # (S,) bit d: the session has the query's item d; 0 between scans
    touched: NDArray[np.int32]  # slots
    similarity: NDArray[np.float64]  # of the touched sessions
    keys: NDArray[np.uint64]
    place: NDArray[np.int32]  # (n,) one plus where the item stands in `found`; 0 between scans
    found: NDArray[np.int32]  # (n,) item rows
    sums: NDArray[np.float64]  # (n, N_SUMS) of the found items
    rarity: NDArray[np.float64]  # (n,) of the found items
    boost: NDArray[np.float64]  # (n,) factor of a found item's score, 0: no candidate


class Candidates(NamedTuple):
    """The answer to Q queries, at most N candidates each, best first."""

    counts: NDArray[np.int32]  # (Q,)
    rows: NDArray[np.int32]  # (Q, N), -1 behind the count
    scores: NDArray[np.float32]  # (Q, N, N_SOURCES), 0 behind the count


def empty_scratch(arrays: IndexArrays, settings: ScanSettings, longest: int) -> Scratch:
    """Return scratch space for this index."""
    items = len(arrays.ring_start)
    touched = max(settings.query_items * longest, settings.hop_items * settings.hop_sessions, 1)
    return Scratch(
        np.zeros(len(arrays.sessions), np.int32),
        np.zeros(touched, np.int32),
        np.zeros(touched, np.float64),
        np.zeros(max(touched, items), np.uint64),
        np.zeros(items, np.int32),
        np.zeros(items, np.int32),
        np.zeros((items, N_SUMS), np.float64),
        np.zeros(items, np.float64),
        np.zeros(items, np.float64),
    )


def empty_candidates(queries: int, limit: int) -> Candidates:
    """Return an answer without candidates."""
    return Candidates(
        np.zeros(queries, np.int32),
        np.full((queries, limit), -1, np.int32),
        np.zeros((queries, limit, N_SOURCES), np.float32),
    )
