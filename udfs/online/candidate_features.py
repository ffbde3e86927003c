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
_LITTLE = 1e-3  # a share of nothing, so that its log is finite
_SHARED = np.array(SHARED)


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
    rows, scores = candidates.rows, candidates.scores
    most = np.empty(len(_SHARED), np.float64)
    for q in range(len(candidates.counts)):
        n = candidates.counts[q]
        if n == 0:
            continue
        start, stop = queries.start[q], queries.stop[q]
        items = queries.items
        mass = 0.0
        most[:] = 0.0
        for j in range(n):
            mass += scores[q, j, VMIS]
            for s in range(len(_SHARED)):
                most[s] = max(most[s], scores[q, j, _SHARED[s]])
        length = stop - start
        log_clicks = log1p(length) / 3.0
        repeats = 1.0 - _distinct(items, start, stop) / length
        same = 1.0 if length > 1 and items[stop - 2] == items[stop - 1] else 0.0
        for j in range(n):
            x, score = out[q, j], scores[q, j]
            for s in range(len(_SHARED)):
                share = score[_SHARED[s]] / most[s] if most[s] > 0.0 else 0.0
                x[2 * s] = log(_LITTLE + share) / 7.0 + 1.0
                x[2 * s + 1] = share
            x = x[_SOURCE_COLUMNS:]
            x[0] = log(_LITTLE + score[FIRST])
            x[1] = 1.0 / (1.0 + j / 3.0)
            x[2] = log1p(j) / 5.0
            x[3] = log1p(score[NOW]) / 3.0
            x[4] = log1p(score[LATELY]) / 4.0
            x[5] = log1p(score[LONG]) / 5.0
            x[6] = log1p(score[AGE]) / 12.0
            x[7] = log1p(score[SESSIONS]) / 5.0
            x[8] = log((score[NOW] + 0.05) * 8.0 / (score[LATELY] + 0.4))
            back, times = 0, 0
            for a in range(stop - 1, start - 1, -1):
                if items[a] == rows[q, j]:
                    times += 1
                    if back == 0:
                        back = stop - a
            x[9] = 1.0 if back == 1 else 0.0
            x[10] = 1.0 if back == 2 else 0.0
            x[11] = 1.0 if back == 3 else 0.0
            x[12] = 1.0 if back > 3 else 0.0
            x[13] = 1.0 / back if back > 3 else 0.0
            x[14] = log(times) if times > 1 else 0.0
            x[15] = 1.0 if times == 0 else 0.0
            x[16] = log_clicks
            x[17] = repeats
            x[18] = log1p(mass) / 5.0
            x[19] = log1p(n) / 5.0
            x[20] = same
            x[21] = 1.0
