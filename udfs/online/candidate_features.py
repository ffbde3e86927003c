"""What the learnt ranker sees of a candidate: its scores by source, its item, its place in the session.

All values are of order one, because one learning rate serves all of them. `reference` has the readable form.
"""

from math import log, log1p

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.neighbours.scan_arrays import (
    AGE,
    BACKWARD,
    COSINE,
    FIRST,
    FORWARD,
    HOP,
    LATELY,
    LONG,
    NEXT,
    NOW,
    PAIR,
    SECOND,
    SESSIONS,
    SOURCES,
    VMIS,
    Candidates,
    Queries,
)
from udfs.online.fast_logs import to_logs

SHARED = (FORWARD, BACKWARD, NEXT, COSINE, PAIR, SECOND, HOP, VMIS)
"""Sources that are seen relative to the best candidate's."""
FEATURES = (
    *(f"{form}_{SOURCES[source]}" for source in SHARED for form in ("log", "share")),
    "log_first",
    "reciprocal_rank",
    "log_rank",
    "log_now",
    "log_lately",
    "log_long",
    "log_age",
    "log_sessions",
    "trend",
    "is_last",
    "is_second_last",
    "is_third_last",
    "is_older",
    "recency_older",
    "log_repeats",
    "is_new",
    "log_session_clicks",
    "session_repeat_share",
    "log_neighbour_mass",
    "log_candidates",
    "last_two_equal",
    "one",
)
"""Names of the columns that `write_candidate_features` writes."""
N_FEATURES = len(FEATURES)
_SOURCE_COLUMNS = 2 * len(SHARED)
_LITTLE = np.float32(1e-3)  # a share of nothing, so that its log is finite
_SHARED = np.array(SHARED)
_LOGS = 16
"""Values of a candidate whose logarithms are taken together: the shares, then `_OF_FIRST` to `_OF_TREND`."""
_OF_FIRST, _OF_NOW, _OF_LATELY, _OF_LONG, _OF_AGE, _OF_SESSIONS, _OF_TREND = range(
    len(SHARED), len(SHARED) + 7
)


@kernel
def _distinct(items: NDArray[np.int32], start: int, stop: int) -> int:
    count = 0
    for a in range(start, stop):
        seen = False
        for b in range(start, a):
            if items[b] == items[a]:
                seen = True
        if not seen:
            count += 1
    return count


@kernel
def _write_values(
    scores: NDArray[np.float32], q: int, n: int, most: NDArray[np.float32], values: NDArray[np.float32]
) -> None:
    """Write what logarithms are taken of: float32 (N · `_LOGS`,), each candidate's one after the other."""
    one = np.float32(1.0)
    for j in range(n):
        at = j * _LOGS
        for s in range(len(_SHARED)):
            share = scores[q, j, _SHARED[s]] / most[s] if most[s] > 0.0 else np.float32(0.0)
            values[at + s] = _LITTLE + share
        now, lately = scores[q, j, NOW], scores[q, j, LATELY]
        values[at + _OF_FIRST] = _LITTLE + scores[q, j, FIRST]
        values[at + _OF_NOW] = one + now
        values[at + _OF_LATELY] = one + lately
        values[at + _OF_LONG] = one + scores[q, j, LONG]
        values[at + _OF_AGE] = one + scores[q, j, AGE]
        values[at + _OF_SESSIONS] = one + scores[q, j, SESSIONS]
        values[at + _OF_TREND] = (now + 0.05) * 8.0 / (lately + 0.4)
        values[at + _OF_TREND + 1] = one


@kernel
def write_candidate_features(candidates: Candidates, queries: Queries, out: NDArray[np.float32]) -> None:
    """Write each candidate's features into the first columns.

    Parameters
    ----------
    candidates
        Q lists of at most N.
    queries
        The Q sessions that they answer.
    out
        float32 (Q, N, at least `N_FEATURES`); rows behind a list's count are left alone.
    """
    rows, scores, items = candidates.rows, candidates.scores, queries.items
    width = rows.shape[1]
    most = np.empty(len(_SHARED), np.float32)
    logs = np.empty(width * _LOGS, np.float32)
    log_rank = np.log1p(np.arange(width)) / 5.0
    for q in range(len(candidates.counts)):
        n = candidates.counts[q]
        if n == 0:
            continue
        start, stop = queries.start[q], queries.stop[q]
        mass = 0.0
        most[:] = 0.0
        for j in range(n):
            mass += scores[q, j, VMIS]
            for s in range(len(_SHARED)):
                most[s] = max(most[s], scores[q, j, _SHARED[s]])
        _write_values(scores, q, n, most, logs)
        to_logs(logs[: n * _LOGS])
        length = stop - start
        log_clicks = log1p(length) / 3.0
        repeats = 1.0 - _distinct(items, start, stop) / length
        same = 1.0 if length > 1 and items[stop - 2] == items[stop - 1] else 0.0
        log_mass, log_count = log1p(mass) / 5.0, log1p(n) / 5.0
        for j in range(n):
            at, x = j * _LOGS, _SOURCE_COLUMNS
            for s in range(len(_SHARED)):
                out[q, j, 2 * s] = logs[at + s] / 7.0 + 1.0
                share = scores[q, j, _SHARED[s]] / most[s] if most[s] > 0.0 else np.float32(0.0)
                out[q, j, 2 * s + 1] = share
            out[q, j, x] = logs[at + _OF_FIRST]
            out[q, j, x + 1] = 1.0 / (1.0 + j / 3.0)
            out[q, j, x + 2] = log_rank[j]
            out[q, j, x + 3] = logs[at + _OF_NOW] / 3.0
            out[q, j, x + 4] = logs[at + _OF_LATELY] / 4.0
            out[q, j, x + 5] = logs[at + _OF_LONG] / 5.0
            out[q, j, x + 6] = logs[at + _OF_AGE] / 12.0
            out[q, j, x + 7] = logs[at + _OF_SESSIONS] / 5.0
            out[q, j, x + 8] = logs[at + _OF_TREND]
            back, times = 0, 0
            for a in range(stop - 1, start - 1, -1):
                if items[a] == rows[q, j]:
                    times += 1
                    if back == 0:
                        back = stop - a
            out[q, j, x + 9] = 1.0 if back == 1 else 0.0
            out[q, j, x + 10] = 1.0 if back == 2 else 0.0
            out[q, j, x + 11] = 1.0 if back == 3 else 0.0
            out[q, j, x + 12] = 1.0 if back > 3 else 0.0
            out[q, j, x + 13] = 1.0 / back if back > 3 else 0.0
            out[q, j, x + 14] = log(times) if times > 1 else 0.0
            out[q, j, x + 15] = 1.0 if times == 0 else 0.0
            out[q, j, x + 16] = log_clicks
            out[q, j, x + 17] = repeats
            out[q, j, x + 18] = log_mass
            out[q, j, x + 19] = log_count
            out[q, j, x + 20] = same
            out[q, j, x + 21] = 1.0
