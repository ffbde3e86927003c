"""Which items go together: co-occurrence in users' recent histories, cosine-normalised, top 50 an item.

Two events of one user, at most `window` of their events apart, add to both items' pair: 1 within a session,
`across * 0.5 ** (gap / half_life)` between sessions. A pair's score is its sum divided by the geometric mean
of both items' event counts plus `shrink`, so that two items seen once together do not score 1. A user's
newest `max_events` events count and no more, so that a wholesaler or a bot cannot decide what is similar.

Source: item-based top-N recommendation, Deshpande and Karypis, ACM TOIS 22(1), 2004, section 4 (cosine);
the decay by gap as in the session-based kNN family (Ludewig and Jannach, UMUAI 28, 2018).
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_export.interactions import DAY_MS, Interactions
from udfs.kernel_cache import kernel


@dataclass(frozen=True)
class NeighbourSettings:
    """How pairs are counted."""

    per_item: int = 50
    window: int = 50  # events of the user; what the user state holds
    across: float = 0.25
    half_life_days: float = 30.0
    shrink: float = 10.0
    max_events: int = 1_000  # newest of a user


@dataclass(frozen=True)
class Neighbours:
    """Neighbour lists in one array each, as in a bundle.

    Parameters
    ----------
    offsets
        int64 (n+1,): the neighbours of row i stand at offsets[i] to before offsets[i+1].
    rows
        int32 (z,), the neighbours' rows.
    scores
        float32 (z,), descending within a list; equal scores by row.
    """

    offsets: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]

    def of(self, row: int) -> list[tuple[int, float]]:
        """Return the neighbours of a row and their scores, best first."""
        part = slice(self.offsets[row], self.offsets[row + 1])
        return list(zip(self.rows[part].tolist(), self.scores[part].tolist(), strict=True))


def fit_neighbours(data: Interactions, settings: NeighbourSettings | None = None) -> Neighbours:
    """Count pairs and keep each item's best.

    Every occurrence of an item looks at the window around it, so the work is events x 2 window and the memory
    one array of n items; no matrix of pairs is built.

    Parameters
    ----------
    data
        Interactions before the cut.
    settings
        See `NeighbourSettings`.
    """
    settings = settings or NeighbourSettings()
    users, items, times_ms, sessions = by_user(data, settings.max_events)
    occurrences, starts = by_item(items, data.n_items)
    lengths, rows, scores = _neighbour_lists(
        users,
        items,
        times_ms,
        sessions,
        occurrences,
        starts,
        settings.per_item,
        settings.window,
        settings.across,
        settings.half_life_days * DAY_MS,
        settings.shrink,
    )
    return Neighbours(*compressed(lengths, rows, scores))


def by_user(data: Interactions, max_events: int) -> tuple[npt.NDArray[np.int64], ...]:
    """Return users, items, times and sessions of each user's newest events, user by user in the order of time."""
    order = np.lexsort((np.arange(len(data)), data.times_ms, data.users))
    users = data.users[order].astype(np.int64)
    after = np.searchsorted(users, users, side="right") - np.arange(len(users))  # to the user's last
    order = order[after <= max_events]
    return (
        data.users[order].astype(np.int64),
        data.items[order].astype(np.int64),
        data.times_ms[order],
        data.sessions[order].astype(np.int64),
    )


def by_item(
    items: npt.NDArray[np.int64], n_items: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return where each item occurs, item by item, and where its places start, int64 (n + 1,)."""
    occurrences = np.argsort(items, kind="stable")
    return occurrences, np.searchsorted(items[occurrences], np.arange(n_items + 1)).astype(np.int64)


def compressed(
    lengths: npt.NDArray[np.int64], rows: npt.NDArray[np.int32], scores: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Return n lists as compressed rows: offsets (n + 1,), then the first `lengths` of each row and its scores."""
    kept = np.arange(rows.shape[1])[None, :] < lengths[:, None]
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), rows[kept], scores[kept]


@kernel
def _neighbour_lists(  # type: ignore[no-untyped-def]
    users, items, times_ms, sessions, occurrences, starts, per_item, window, across, half_life_ms, shrink
):
    """Return lengths (n,), rows (n, per_item) and scores (n, per_item) of the neighbour lists."""
    n_items = len(starts) - 1
    lengths = np.zeros(n_items, np.int64)
    rows = np.zeros((n_items, per_item), np.int32)
    scores = np.zeros((n_items, per_item), np.float32)
    sums = np.zeros(n_items, np.float64)
    touched = np.empty(n_items, np.int64)
    for item in range(n_items):
        n_touched = 0
        own_count = starts[item + 1] - starts[item]
        for k in range(starts[item], starts[item + 1]):
            at = occurrences[k]
            first = max(0, at - window)
            last = min(len(items), at + window + 1)
            for other in range(first, last):
                if users[other] != users[at] or items[other] == item:
                    continue
                weight = 1.0
                if sessions[other] != sessions[at]:
                    gap = abs(times_ms[other] - times_ms[at])
                    weight = across * 2.0 ** (-gap / half_life_ms)
                if weight == 0.0:  # a gap of a thousand half-lives
                    continue
                if sums[items[other]] == 0.0:
                    touched[n_touched] = items[other]
                    n_touched += 1
                sums[items[other]] += weight
        candidates = np.sort(touched[:n_touched])
        values = np.empty(n_touched, np.float32)
        for k in range(n_touched):
            other = candidates[k]
            count = starts[other + 1] - starts[other]
            values[k] = sums[other] / (np.sqrt(float(own_count) * float(count)) + shrink)
            sums[other] = 0.0
        best = np.argsort(-values, kind="mergesort")[:per_item]
        lengths[item] = len(best)
        for k in range(len(best)):
            rows[item, k] = candidates[best[k]]
            scores[item, k] = values[best[k]]
    return lengths, rows, scores


def reference_neighbours(data: Interactions, settings: NeighbourSettings) -> list[list[tuple[int, float]]]:
    """Return what `fit_neighbours` returns, by every pair of events: slow, readable, for tests."""
    histories: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for user, item, time_ms, session in zip(
        data.users.tolist(), data.items.tolist(), data.times_ms.tolist(), data.sessions.tolist(), strict=True
    ):
        histories[user].append((item, time_ms, session))
    sums: dict[tuple[int, int], float] = defaultdict(float)
    counts: dict[int, int] = defaultdict(int)
    for history in histories.values():
        newest = history[-settings.max_events :]
        for i, (a, time_a, session_a) in enumerate(newest):
            counts[a] += 1
            for b, time_b, session_b in newest[i + 1 : i + 1 + settings.window]:
                if a != b:
                    gap_days = (time_b - time_a) / DAY_MS
                    decayed = settings.across * 0.5 ** (gap_days / settings.half_life_days)
                    weight = 1.0 if session_a == session_b else decayed
                    sums[a, b] += weight
                    sums[b, a] += weight
    lists: list[list[tuple[int, float]]] = [[] for _ in range(data.n_items)]
    for (a, b), total in sums.items():
        lists[a].append((b, total / (math.sqrt(counts[a] * counts[b]) + settings.shrink)))
    return [sorted(found, key=lambda pair: (-pair[1], pair[0]))[: settings.per_item] for found in lists]
