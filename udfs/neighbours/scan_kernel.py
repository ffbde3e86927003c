"""One session's candidates by VMIS-kNN, with a second hop. The readable form is `reference`.

Source: VMIS-kNN, Kersbergen, Sprangers and Schelter, "Serenade", SIGMOD 2022; decay by the gap to the match and a
second hop are ours.
"""

from math import exp

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.neighbours.choose_kernel import choose, meet, vmis
from udfs.neighbours.index_arrays import CLICK, ITEMS, LENGTH, LOW_BITS, N_CLICKS, N_SESSIONS, IndexArrays
from udfs.neighbours.index_kernel import slot_of
from udfs.neighbours.scan_arrays import (
    BACKWARD,
    COSINE,
    FORWARD,
    HOP,
    MAX_QUERY,
    NEXT,
    PAIR,
    SECOND,
    Candidates,
    Queries,
    ScanSettings,
    ScanTables,
    Scratch,
)
from udfs.neighbours.selection import select_top
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
def _is_stale(number: int, next_number: int, slots: int) -> bool:
    """Return whether a session's slot was given to another one: slots go in turn, so the number alone says so."""
    return ((next_number - number) & LOW_BITS) > slots


@kernel
def _find_sessions(
    arrays: IndexArrays,
    query: NDArray[np.int32],
    count: int,
    own: int,
    settings: ScanSettings,
    longest: int,
    scratch: Scratch,
) -> int:
    """Note which items of the query each session has; return how many have one, their slots in `touched`."""
    match, touched, postings = scratch.match, scratch.touched, arrays.postings
    slots, next_number = len(arrays.sessions), arrays.counts[N_SESSIONS]
    n_touched = 0
    for d in range(count):
        item = query[d]
        pushed, room, start = (
            arrays.ring_pushed[item],
            np.int64(arrays.ring_room[item]),
            arrays.ring_start[item],
        )
        for j in range(min(pushed, room, longest)):
            number = postings[start + ((pushed - 1 - j) & (room - 1))]
            slot = number & (slots - 1)
            if _is_stale(number, next_number, slots) or slot == own:
                continue
            if match[slot] == 0:
                touched[n_touched] = slot
                n_touched += 1
            match[slot] |= 1 << d
    return n_touched


@kernel
def _nearest_sessions(
    arrays: IndexArrays, touched: int, tables: ScanTables, settings: ScanSettings, scratch: Scratch
) -> int:
    """Weigh the touched sessions; bring the nearest to the front of `keys`, in no order, and return how many."""
    sessions, clicks = arrays.sessions, arrays.counts[N_CLICKS]
    for j in range(touched):
        slot = scratch.touched[j]
        age = ((clicks - sessions[slot, CLICK]) & LOW_BITS) / settings.half_age_clicks
        matched = tables.match_weights[scratch.match[slot]]
        value = matched * exp(-age) * tables.length_weights[sessions[slot, LENGTH]]
        scratch.similarity[j] = value
        scratch.keys[j] = order_key(np.float32(value), j)
    select_top(scratch.keys, touched, settings.neighbours)
    return min(touched, settings.neighbours)


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
    place, found, sums = scratch.place, scratch.found, scratch.sums
    n_found = 0
    for k in range(kept):
        j = row_of_key(scratch.keys[k])
        slot = scratch.touched[j]
        items, length = arrays.sessions[slot, ITEMS:], arrays.sessions[slot, LENGTH]
        matched = scratch.match[slot]
        d = 0
        while matched >> d & 1 == 0:
            d += 1
        base = scratch.similarity[j] * max(1.0 - settings.match_decay * d, 0.0)
        has_last, has_second = np.float64(matched & 1), np.float64(matched >> 1 & 1)
        at = length - 1
        while at > 0 and items[at] != query[d]:
            at -= 1
        for p in range(length):
            item = items[p]
            if place[item] == 0:
                n_found = meet(item, n_found, place, found, sums)
            own = place[item] - 1
            gap = p - at
            near = tables.gap_weights[abs(gap)]
            sums[own, FORWARD if gap > 0 else BACKWARD] += base * near
            sums[own, NEXT] += base if gap == 1 else 0.0
            sums[own, COSINE] += base
            sums[own, PAIR] += near * has_last
            sums[own, SECOND] += near * has_second
    return n_found


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
    place, found, sums, keys, slots_read = (
        scratch.place,
        scratch.found,
        scratch.sums,
        scratch.keys,
        scratch.touched,
    )
    sessions, postings = arrays.sessions, arrays.postings
    slots, next_number = len(sessions), arrays.counts[N_SESSIONS]
    for j in range(n_found):
        keys[j] = order_key(np.float32(vmis(sums, j, settings.backward)), j)
    hops = min(settings.hop_items, n_found)
    sort_top(keys, n_found, hops)
    ends, strength = np.empty(hops, np.int64), np.empty(hops, np.float64)
    n_read = 0
    for h in range(hops):  # all slots first: their rows come from far while others are looked up
        best = row_of_key(keys[h])
        strength[h] = vmis(sums, best, settings.backward)
        middle = found[best]
        pushed, room = arrays.ring_pushed[middle], np.int64(arrays.ring_room[middle])
        start = arrays.ring_start[middle]
        for j in range(min(pushed, room, settings.hop_sessions)):
            number = postings[start + ((pushed - 1 - j) & (room - 1))]
            slot = number & (slots - 1)
            if not _is_stale(number, next_number, slots) and slot != own:
                slots_read[n_read] = slot
                n_read += 1
        ends[h] = n_read
    for j in range(n_read):
        scratch.similarity[j] = tables.length_weights[sessions[slots_read[j], LENGTH]]
    n_read = 0
    for h in range(hops):
        middle = found[row_of_key(keys[h])]
        for j in range(n_read, ends[h]):
            slot = slots_read[j]
            items, length = sessions[slot, ITEMS:], sessions[slot, LENGTH]
            at = length - 1
            while at > 0 and items[at] != middle:
                at -= 1
            share = strength[h] * scratch.similarity[j]
            for p in range(length):
                item = items[p]
                if item == middle:
                    continue
                if place[item] == 0:
                    n_found = meet(item, n_found, place, found, sums)
                sums[place[item] - 1, HOP] += share * tables.gap_weights[abs(p - at)]
        n_read = ends[h]
    return n_found


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
    touched = _find_sessions(arrays, query, count, own, settings, longest, scratch)
    kept = _nearest_sessions(arrays, touched, tables, settings, scratch)
    found = _sum_neighbours(arrays, query, kept, tables, settings, scratch)
    for j in range(touched):
        scratch.match[scratch.touched[j]] = 0
    if settings.hop_items > 0:
        found = _second_hop(arrays, found, own, tables, settings, scratch)
    choose(arrays, queries, q, found, allowed, tables, settings, scratch, out)


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
