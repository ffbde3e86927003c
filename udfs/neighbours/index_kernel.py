"""How one click enters the session index: find or open the session, append the item, push it to the item's ring."""

from math import log1p

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.neighbours.index_arrays import (
    CLICK,
    ITEMS,
    LENGTH,
    LOW_BITS,
    N_CLICKS,
    N_HORIZONS,
    N_SESSIONS,
    NUMBER,
    POOL_TOP,
    SESSION_CAP,
    SMALLEST_RING,
    IndexArrays,
)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@kernel
def place_of(key: np.uint64, size: int) -> int:
    """Return where in a table of `size` places, a power of two, the search for a key begins."""
    mixed = key * _GOLDEN
    mixed ^= mixed >> np.uint64(29)
    return int(np.int64(mixed & np.uint64(size - 1)))


@kernel
def slot_of(arrays: IndexArrays, key: np.uint64) -> int:
    """Return the slot of a session, -1: not kept."""
    table, keys = arrays.table, arrays.session_key
    mask = len(table) - 1
    place = place_of(key, len(table))
    while table[place] >= 0:
        if keys[table[place]] == key:
            return int(table[place])
        place = (place + 1) & mask
    return -1


@kernel
def _forget_key(arrays: IndexArrays, slot: int) -> None:
    """Take a slot's key out of the table; entries behind it move up, so that no search stops too early."""
    table, keys = arrays.table, arrays.session_key
    mask = len(table) - 1
    place = place_of(keys[slot], len(table))
    while table[place] != slot:
        place = (place + 1) & mask
    hole = place
    while True:
        place = (place + 1) & mask
        if table[place] < 0:
            break
        home = place_of(keys[table[place]], len(table))
        if ((place - home) & mask) >= ((place - hole) & mask):
            table[hole] = table[place]
            hole = place
    table[hole] = -1


@kernel
def _open_session(arrays: IndexArrays, key: np.uint64) -> int:
    """Give a new session the oldest one's slot."""
    number = int(arrays.counts[N_SESSIONS]) & LOW_BITS
    arrays.counts[N_SESSIONS] += 1
    slot = number & (len(arrays.sessions) - 1)
    if arrays.sessions[slot, NUMBER] >= 0:
        _forget_key(arrays, slot)
    arrays.sessions[slot, NUMBER] = number
    arrays.session_key[slot] = key
    arrays.sessions[slot, LENGTH] = 0
    mask = len(arrays.table) - 1
    place = place_of(key, len(arrays.table))
    while arrays.table[place] >= 0:
        place = (place + 1) & mask
    arrays.table[place] = slot
    return slot


@kernel
def _size_class(room: int) -> int:
    size, result = SMALLEST_RING, 0
    while size < room:
        size *= 2
        result += 1
    return result


@kernel
def _new_ring(arrays: IndexArrays, room: int) -> int:
    """Return the start of a ring of this room, -1: the pool is used up."""
    size = _size_class(room)
    start = int(arrays.free[size])
    if start >= 0:
        arrays.free[size] = arrays.postings[start]
        return start
    start = int(arrays.counts[POOL_TOP])
    if start + room > len(arrays.postings):
        return -1
    arrays.counts[POOL_TOP] += room
    return start


@kernel
def _push(arrays: IndexArrays, item: int, number: int, longest: int) -> None:
    """Append a session's number to an item's ring, which doubles while it may."""
    pushed, room = int(arrays.ring_pushed[item]), int(arrays.ring_room[item])
    if pushed >= room and room < longest:
        wanted = SMALLEST_RING if room == 0 else 2 * room
        start, old = _new_ring(arrays, wanted), arrays.ring_start[item]
        if start >= 0:
            for j in range(room):  # the oldest first, so that entry e lies at e modulo the new room
                entry = pushed - room + j
                arrays.postings[start + (entry & (wanted - 1))] = arrays.postings[old + (entry & (room - 1))]
            if room > 0:
                size = _size_class(room)
                arrays.postings[old] = arrays.free[size]
                arrays.free[size] = old
            arrays.ring_start[item] = start
            arrays.ring_room[item] = wanted
            room = wanted
    if room == 0:
        return  # the pool was used up before this item came: it has no neighbours
    arrays.postings[arrays.ring_start[item] + (pushed & (room - 1))] = number
    arrays.ring_pushed[item] = pushed + 1


@kernel
def observe_one(
    arrays: IndexArrays, key: np.uint64, item: int, weight: float, longest: int, decay: NDArray[np.float64]
) -> None:
    """Learn one click.

    Parameters
    ----------
    arrays
        Changed in place; they have room for `item`.
    key
        Of the session.
    item
        Row of the item.
    weight
        What the click adds to the item's decayed counts.
    longest
        Longest ring.
    decay
        float64 (N_HORIZONS,): logarithm of what is left of a count after one click of anybody.
    """
    slot = slot_of(arrays, key)
    if slot < 0:
        slot = _open_session(arrays, key)
    click = arrays.counts[N_CLICKS]
    arrays.counts[N_CLICKS] += 1
    session = arrays.sessions[slot]
    session[CLICK] = click & LOW_BITS
    items, length = session[ITEMS:], session[LENGTH]
    known = False
    for j in range(length):
        if items[j] == item:
            known = True
    if length == SESSION_CAP:
        for j in range(SESSION_CAP - 1):
            items[j] = items[j + 1]
        length -= 1
    items[length] = item
    session[LENGTH] = length + 1
    if not known:
        _push(arrays, item, session[NUMBER], longest)
    for h in range(N_HORIZONS):
        left = 0.0
        if arrays.item_click[item] >= 0:
            left = arrays.item_weight[item, h] * np.exp(decay[h] * (click - arrays.item_click[item]))
        arrays.item_weight[item, h] = left + weight
    arrays.item_popular[item] = log1p(arrays.item_weight[item, 1])
    arrays.item_click[item] = click


@kernel
def observe_all(
    arrays: IndexArrays,
    keys: NDArray[np.uint64],
    items: NDArray[np.int32],
    weights: NDArray[np.float32],
    longest: int,
    decay: NDArray[np.float64],
) -> None:
    """Learn clicks one after the other; see `observe_one`."""
    for j in range(len(keys)):
        observe_one(arrays, keys[j], items[j], weights[j], longest, decay)
