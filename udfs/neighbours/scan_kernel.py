"""One session's candidates by VMIS-kNN, with a second hop. The readable form is `reference`.

Source: VMIS-kNN, Kersbergen, Sprangers and Schelter, "Serenade", SIGMOD 2022; decay by the gap to the match and a
second hop are ours.
"""

from math import exp, log

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.neighbours.index_arrays import (
    CLICK,
    HORIZONS_CLICKS,
    ITEMS,
    LENGTH,
    LOW_BITS,
    N_CLICKS,
    N_HORIZONS,
    N_SESSIONS,
    NUMBER,
    SESSION_CAP,
    IndexArrays,
)
from udfs.neighbours.index_kernel import slot_of
from udfs.neighbours.scan_arrays import (
    AGE,
    BACKWARD,
    COSINE,
    FIRST,
    FORWARD,
    HOP,
    MAX_QUERY,
    N_SUMS,
    NEXT,
    NOW,
    PAIR,
    SECOND,
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
def latest_distinct(
    items: NDArray[np.int32], start: int, stop: int, most: int, out: NDArray[np.int32]
) -> int:
    """Write the latest `most` distinct items to `out`, newest first, and return how many."""
    count = 0
    for at in range(stop - 1, start - 1, -1):
        if count == most:
            break
        known = False
        for j in range(count):
            if out[j] == items[at]:
                known = True
        if not known:
            out[count] = items[at]
            count += 1
    return count


@kernel
def _find_sessions(
    arrays: IndexArrays,
    query: NDArray[np.int32],
    count: int,
    own: int,
    tables: ScanTables,
    settings: ScanSettings,
    longest: int,
    scratch: Scratch,
) -> int:
    """Sum each session's matches; write the best ones' slots to the front of `keys` and return how many."""
    similarity, match, touched = scratch.similarity, scratch.match, scratch.touched
    postings, sessions = arrays.postings, arrays.sessions
    mask = len(sessions) - 1
    n_touched = 0
    weight = 1.0
    for d in range(count):
        item = query[d]
        pushed, room, start = (
            arrays.ring_pushed[item],
            np.int64(arrays.ring_room[item]),
            arrays.ring_start[item],
        )
        for j in range(min(pushed, room, longest)):
            number = postings[start + ((pushed - 1 - j) & (room - 1))]
            slot = number & mask
            if sessions[slot, NUMBER] != number or slot == own:
                continue
            if similarity[slot] == 0.0:
                touched[n_touched] = slot
                match[slot] = 0
                n_touched += 1
            similarity[slot] += weight
            match[slot] |= 1 << d
        weight *= settings.query_decay
    clicks = arrays.counts[N_CLICKS]
    keys = scratch.keys
    for j in range(n_touched):
        slot = touched[j]
        age = ((clicks - sessions[slot, CLICK]) & LOW_BITS) / settings.half_age_clicks
        value = similarity[slot] * exp(-age) * tables.length_weights[sessions[slot, LENGTH]]
        similarity[slot] = value
        keys[j] = order_key(np.float32(value), j)
    sort_top(keys, n_touched, settings.neighbours)
    return n_touched


@kernel
def _sum_neighbours(
    arrays: IndexArrays,
    query: NDArray[np.int32],
    kept: int,
    tables: ScanTables,
    settings: ScanSettings,
    scratch: Scratch,
) -> int:
    """Add up what the neighbours clicked around the match, each in turn; return how many items were found."""
    sums, found, mark = scratch.sums, scratch.found, scratch.mark
    n_found = 0
    for j in range(kept):
        slot = scratch.touched[row_of_key(scratch.keys[j])]
        items, length = arrays.sessions[slot, ITEMS:], arrays.sessions[slot, LENGTH]
        matched = scratch.match[slot]
        d = 0
        while matched >> d & 1 == 0:
            d += 1
        base = scratch.similarity[slot] * max(1.0 - settings.match_decay * d, 0.0)
        at = length - 1
        while at > 0 and items[at] != query[d]:
            at -= 1
        for p in range(length):
            item = items[p]
            if mark[item] == 0:
                mark[item] = 1
                found[n_found] = item
                n_found += 1
            gap = p - at
            near = tables.gap_weights[abs(gap)]
            if gap > 0:
                sums[item, FORWARD] += base * near
            else:
                sums[item, BACKWARD] += base * near
            if gap == 1:
                sums[item, NEXT] += base
            sums[item, COSINE] += base
            if matched & 1:
                sums[item, PAIR] += near
            if matched & 2:
                sums[item, SECOND] += near
    return n_found


@kernel
def _vmis(sums: NDArray[np.float64], item: int, backward: float) -> float:
    return float(sums[item, FORWARD] + backward * sums[item, BACKWARD])


@kernel
def _rarity(arrays: IndexArrays, item: int, log_sessions: float, logs: NDArray[np.float64]) -> float:
    pushed = arrays.ring_pushed[item]
    return 1.0 + log_sessions - (logs[pushed] if pushed < len(logs) else log(pushed))


@kernel
def _second_hop(
    arrays: IndexArrays,
    n_found: int,
    own: int,
    tables: ScanTables,
    settings: ScanSettings,
    scratch: Scratch,
) -> int:
    """Add up what the latest sessions of the best candidates hold around them; return how many items were found."""
    sums, found, mark, keys = scratch.sums, scratch.found, scratch.mark, scratch.keys
    sessions = arrays.sessions
    mask = len(sessions) - 1
    for j in range(n_found):
        keys[j] = order_key(np.float32(_vmis(sums, found[j], settings.backward)), j)
    hops = min(settings.hop_items, n_found)
    sort_top(keys, n_found, hops)
    strength = np.empty(hops, np.float64)
    for h in range(hops):
        strength[h] = _vmis(sums, found[row_of_key(keys[h])], settings.backward)
    for h in range(hops):
        middle = found[row_of_key(keys[h])]
        base = strength[h]
        pushed, room = arrays.ring_pushed[middle], np.int64(arrays.ring_room[middle])
        start = arrays.ring_start[middle]
        for j in range(min(pushed, room, settings.hop_sessions)):
            number = arrays.postings[start + ((pushed - 1 - j) & (room - 1))]
            slot = number & mask
            if sessions[slot, NUMBER] != number or slot == own:
                continue
            items, length = sessions[slot, ITEMS:], sessions[slot, LENGTH]
            at = length - 1
            while at > 0 and items[at] != middle:
                at -= 1
            share = base * tables.length_weights[length]
            for p in range(length):
                item = items[p]
                if item == middle:
                    continue
                if mark[item] == 0:
                    mark[item] = 1
                    found[n_found] = item
                    n_found += 1
                sums[item, HOP] += share * tables.gap_weights[abs(p - at)]
    return n_found


@kernel
def _describe(arrays: IndexArrays, item: int, out: NDArray[np.float32]) -> None:
    """Write what is known of an item at this moment."""
    age = arrays.counts[N_CLICKS] - arrays.item_click[item]
    for h in range(N_HORIZONS):
        out[NOW + h] = arrays.item_weight[item, h] * exp(-age / HORIZONS_CLICKS[h])
    out[AGE] = age
    out[SESSIONS] = arrays.ring_pushed[item]


@kernel
def _choose(
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
    """Blend the sources, write the best candidates, and leave the scratch space clean."""
    sums, found, mark, keys = scratch.sums, scratch.found, scratch.mark, scratch.keys
    repeat = settings.repeat_share
    start = max(queries.start[q], queries.stop[q] - SESSION_CAP)
    for at in range(queries.stop[q] - 1, start - 1, -1):
        item = queries.items[at]
        if mark[item] == 0:
            mark[item] = 1
            found[n_found] = item
            n_found += 1
        if mark[item] == 1:
            mark[item] = 2
            sums[item, FIRST] = repeat
            repeat *= settings.repeat_decay
    log_sessions = log(max(arrays.counts[N_SESSIONS], 1))
    most_vmis, most_hop = 0.0, 0.0
    for j in range(n_found):
        item = found[j]
        rarity = _rarity(arrays, item, log_sessions, tables.logs)
        for s in range(FORWARD, N_SUMS):
            sums[item, s] *= rarity
        most_vmis = max(most_vmis, _vmis(sums, item, settings.backward))
        most_hop = max(most_hop, sums[item, HOP])
    kept = 0
    for j in range(n_found):
        item = found[j]
        mark[item] = 0
        if not allowed[item]:
            continue
        score = sums[item, FIRST]
        if most_vmis > 0.0:
            score += _vmis(sums, item, settings.backward) / most_vmis
        if most_hop > 0.0:
            score += settings.hop_share * sums[item, HOP] / most_hop
        score *= 1.0 + settings.popular_share * arrays.item_popular[item]
        sums[item, FIRST] = score
        keys[kept] = order_key(np.float32(score), item)
        kept += 1
    limit = out.rows.shape[1]
    sort_top(keys, kept, limit)
    out.counts[q] = min(kept, limit)
    for j in range(out.counts[q]):
        item = row_of_key(keys[j])
        out.rows[q, j] = item
        for s in range(N_SUMS):
            out.scores[q, j, s] = sums[item, s]
        out.scores[q, j, VMIS] = _vmis(sums, item, settings.backward)
        _describe(arrays, item, out.scores[q, j])
    for j in range(n_found):
        for s in range(N_SUMS):
            sums[found[j], s] = 0.0


@kernel
def scan_one(
    arrays: IndexArrays,
    queries: Queries,
    q: int,
    allowed: NDArray[np.bool_],
    tables: ScanTables,
    settings: ScanSettings,
    longest: int,
    scratch: Scratch,
    out: Candidates,
) -> None:
    """Answer query `q`.

    Parameters
    ----------
    arrays
        The index; not changed.
    queries
        Of which one is answered.
    allowed
        bool (n,): items that may be candidates; the others still connect sessions.
    tables
        Of the settings.
    settings, longest
        How neighbours are weighed; how many of an item's sessions are read.
    scratch
        Left clean.
    out
        Row `q` is written.
    """
    query = np.empty(MAX_QUERY, np.int32)
    count = latest_distinct(queries.items, queries.start[q], queries.stop[q], settings.query_items, query)
    if count == 0:
        return
    own = slot_of(arrays, queries.keys[q])
    touched = _find_sessions(arrays, query, count, own, tables, settings, longest, scratch)
    found = _sum_neighbours(arrays, query, min(touched, settings.neighbours), tables, settings, scratch)
    for j in range(touched):
        scratch.similarity[scratch.touched[j]] = 0.0
    if settings.hop_items > 0:
        found = _second_hop(arrays, found, own, tables, settings, scratch)
    _choose(arrays, queries, q, found, allowed, tables, settings, scratch, out)


@kernel
def scan_all(
    arrays: IndexArrays,
    queries: Queries,
    allowed: NDArray[np.bool_],
    tables: ScanTables,
    settings: ScanSettings,
    longest: int,
    scratch: Scratch,
    out: Candidates,
) -> None:
    """Answer every query; see `scan_one`."""
    for q in range(len(queries.start)):
        scan_one(arrays, queries, q, allowed, tables, settings, longest, scratch, out)
