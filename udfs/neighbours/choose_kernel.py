"""The end of a scan: the items that it met, blended into one order, and what is known of the best."""

from math import exp, log

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.neighbours.index_arrays import HORIZONS_CLICKS, N_CLICKS, N_SESSIONS, SESSION_CAP, IndexArrays
from udfs.neighbours.scan_arrays import (
    AGE,
    BACKWARD,
    FIRST,
    FORWARD,
    HOP,
    LATELY,
    LONG,
    N_SUMS,
    NOW,
    SESSIONS,
    VMIS,
    Candidates,
    Queries,
    ScanSettings,
    ScanTables,
    Scratch,
)
from udfs.ranking.top_k import order_key, row_of_key, sort_top


@kernel
def meet(
    item: int,
    n_found: int,
    place: NDArray[np.int32],
    found: NDArray[np.int32],
    sums: NDArray[np.float64],
) -> int:
    """Give an item the next place among the found ones; return how many have one now."""
    found[n_found] = item
    place[item] = n_found + 1
    for s in range(N_SUMS):
        sums[n_found, s] = 0.0
    return n_found + 1


@kernel
def vmis(sums: NDArray[np.float64], at: int, backward: float) -> float:
    """Return the score of VMIS-kNN from the sums of the item at a place."""
    return float(sums[at, FORWARD] + backward * sums[at, BACKWARD])


@kernel
def _describe(arrays: IndexArrays, item: int, q: int, j: int, scores: NDArray[np.float32]) -> None:
    """Write what is known of an item at this moment: candidate `j` of query `q`."""
    age = arrays.counts[N_CLICKS] - arrays.item_click[item]
    left = exp(-age / HORIZONS_CLICKS[2])
    scores[q, j, LONG] = arrays.item_weight[item, 2] * left
    left = left**8  # each horizon is an eighth of the next
    scores[q, j, LATELY] = arrays.item_weight[item, 1] * left
    scores[q, j, NOW] = arrays.item_weight[item, 0] * left**8
    scores[q, j, AGE] = age
    scores[q, j, SESSIONS] = arrays.ring_pushed[item]


@kernel
def _weigh_items(
    arrays: IndexArrays,
    n_found: int,
    allowed: NDArray[np.bool_],
    tables: ScanTables,
    settings: ScanSettings,
    scratch: Scratch,
) -> None:
    """Write how rare and how popular each found item is; nothing else here, so that many are fetched at once."""
    log_sessions, logs = log(max(arrays.counts[N_SESSIONS], 1)), tables.logs
    for j in range(n_found):
        item = scratch.found[j]
        pushed = arrays.ring_pushed[item]
        scratch.rarity[j] = 1.0 + log_sessions - (logs[pushed] if pushed < len(logs) else log(pushed))
        boost = 1.0 + settings.popular_share * arrays.item_popular[item]
        scratch.boost[j] = boost if allowed[item] else 0.0


@kernel
def choose(
    arrays: IndexArrays,
    queries: Queries,
    q: int,
    n_found: int,
    allowed: NDArray[np.bool_],
    tables: ScanTables,
    settings: ScanSettings,
    scratch: Scratch,
    out: Candidates,
) -> None:
    """Blend the sources, write the best candidates of query `q`, and leave the scratch space clean."""
    sums, found, place, keys = scratch.sums, scratch.found, scratch.place, scratch.keys
    start = max(queries.start[q], queries.stop[q] - SESSION_CAP)
    for at in range(queries.stop[q] - 1, start - 1, -1):
        if place[queries.items[at]] == 0:
            n_found = meet(queries.items[at], n_found, place, found, sums)
    _weigh_items(arrays, n_found, allowed, tables, settings, scratch)
    most_vmis, most_hop = 0.0, 0.0
    for j in range(n_found):
        for s in range(N_SUMS):
            sums[j, s] *= scratch.rarity[j]
        most_vmis = max(most_vmis, vmis(sums, j, settings.backward))
        most_hop = max(most_hop, sums[j, HOP])
    repeat = settings.repeat_share
    for at in range(queries.stop[q] - 1, start - 1, -1):
        own = place[queries.items[at]] - 1
        if sums[own, FIRST] == 0.0:
            sums[own, FIRST] = repeat
            repeat *= settings.repeat_decay
    kept = 0
    for j in range(n_found):
        score = sums[j, FIRST]
        if most_vmis > 0.0:
            score += vmis(sums, j, settings.backward) / most_vmis
        if most_hop > 0.0:
            score += settings.hop_share * sums[j, HOP] / most_hop
        score *= scratch.boost[j]
        sums[j, FIRST] = score
        keys[kept] = order_key(np.float32(score), found[j])
        kept += scratch.boost[j] > 0.0
    limit = out.rows.shape[1]
    sort_top(keys, kept, limit)
    out.counts[q] = min(kept, limit)
    for j in range(out.counts[q]):
        item = row_of_key(keys[j])
        own = place[item] - 1
        out.rows[q, j] = item
        for s in range(N_SUMS):
            out.scores[q, j, s] = sums[own, s]
        out.scores[q, j, VMIS] = vmis(sums, own, settings.backward)
        _describe(arrays, item, q, j, out.scores)
    for j in range(n_found):
        place[found[j]] = 0
