"""What a user's history says of the items of one epoch: rows, strength, how due a repeat is, neighbours."""

from math import exp, log
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.model.manifest import NEIGHBOURS_PER_ITEM
from udfs.purchases import HALF_LIFE_DAYS
from udfs.ranking.item_index import ItemColumns, row_of
from udfs.ranking.rules import bought_recently
from udfs.ranking.snapshot import StateColumns
from udfs.user_state import EVENT_TYPES, MAX_BOUGHT, MAX_INTERACTIONS, MAX_SEEN

NEIGHBOUR_ITEMS = 10
NEIGHBOUR_DECAY = 0.85
MOST_TOUCHED = NEIGHBOUR_ITEMS * NEIGHBOURS_PER_ITEM
MS_A_DAY = 86_400_000.0
N_TYPES = 10
_DECAY_A_DAY = log(2.0) / HALF_LIFE_DAYS
_HAD = MAX_INTERACTIONS + MAX_BOUGHT
_PURCHASE = EVENT_TYPES.index("purchase")


class History(NamedTuple):
    """Rows of the hashes in `StateColumns` for U users, -1 for items that this epoch does not know.

    `recent_rows` are the last 10 different items with a weight, newest first.
    """

    item_rows: NDArray[np.int32]  # (U, 50)
    bought_rows: NDArray[np.int32]  # (U, 64)
    seen_rows: NDArray[np.int32]  # (U, 64)
    recent_rows: NDArray[np.int32]  # (U, 10)
    n_recent: NDArray[np.int32]  # (U,)


class Scratch(NamedTuple):
    """Arrays over all n items, used by one user after the other.

    A value in `excluded` or `had_stamp` holds for the user whose number plus one it is; sums are cleared
    through the list of rows touched.
    """

    excluded: NDArray[np.int32]  # bought within the rebuy interval
    had_stamp: NDArray[np.int32]  # in `had`
    strength: NDArray[np.float32]
    bought_days: NDArray[np.float64]  # -1: not bought
    had: NDArray[np.int32]  # (114,): items bought or interacted with
    had_score: NDArray[np.float32]
    sums: NDArray[np.float32]
    peaks: NDArray[np.float32]
    hits: NDArray[np.int32]
    touched: NDArray[np.int32]  # (500,)


def empty_history(users: int) -> History:
    """Return arrays for `locate` to fill."""
    return History(
        np.full((users, MAX_INTERACTIONS), -1, np.int32),
        np.full((users, MAX_BOUGHT), -1, np.int32),
        np.full((users, MAX_SEEN), -1, np.int32),
        np.full((users, NEIGHBOUR_ITEMS), -1, np.int32),
        np.zeros(users, np.int32),
    )


@kernel
def empty_scratch(n: int) -> Scratch:
    """Return a `Scratch` for n items."""
    return Scratch(
        np.zeros(n, np.int32),
        np.zeros(n, np.int32),
        np.zeros(n, np.float32),
        np.full(n, -1.0, np.float64),
        np.zeros(_HAD, np.int32),
        np.zeros(_HAD, np.float32),
        np.zeros(n, np.float32),
        np.zeros(n, np.float32),
        np.zeros(n, np.int32),
        np.zeros(MOST_TOUCHED, np.int32),
    )


@kernel
def locate(
    items: ItemColumns, states: StateColumns, type_weights: NDArray[np.float32], history: History
) -> None:
    """Fill a `History`."""
    for user in range(len(states.at_ms)):
        n_items = states.n_interactions[user]
        for k in range(states.n_bought[user]):
            history.bought_rows[user, k] = row_of(
                items.hashes, items.prefix, items.prefix_shift, states.bought_hashes[user, k]
            )
        for k in range(states.n_seen[user]):
            history.seen_rows[user, k] = row_of(
                items.hashes, items.prefix, items.prefix_shift, states.seen_hashes[user, k]
            )
        recent = history.recent_rows[user]
        n_recent = 0
        for back in range(n_items):
            k = n_items - 1 - back
            row = row_of(items.hashes, items.prefix, items.prefix_shift, states.item_hashes[user, k])
            history.item_rows[user, k] = row
            kind = states.item_types[user, k]
            if row < 0 or n_recent == NEIGHBOUR_ITEMS or kind >= N_TYPES or type_weights[kind] <= 0.0:
                continue
            known = False
            for j in range(n_recent):
                known = known or recent[j] == row
            if not known:
                recent[n_recent] = row
                n_recent += 1
        history.n_recent[user] = n_recent


@kernel
def score_repeats(
    user: int,
    items: ItemColumns,
    states: StateColumns,
    history: History,
    type_weights: NDArray[np.float32],
    rebuy_after_ms: int,
    scratch: Scratch,
) -> int:
    """Fill `had` and `had_score` with the items the user had; return how many. Mark those bought too lately.

    The score is ``(.1 + .9 repeat_rate) * due * s / (1 + s)``: s is the weight of what the user did with it,
    a purchase counting 1, halved every 45 days; due see `_due`, 1 for an item never bought.
    """
    stamp = user + 1
    at_ms = states.at_ms[user]
    n_had = 0
    for k in range(states.n_bought[user]):
        row = history.bought_rows[user, k]
        if row < 0:
            continue
        age_ms = max(at_ms - np.int64(states.bought_seconds[user, k]) * 1000, 0)
        if bought_recently(at_ms, states.bought_seconds[user, k], rebuy_after_ms):
            scratch.excluded[row] = stamp
        if scratch.had_stamp[row] != stamp:
            scratch.had_stamp[row] = stamp
            scratch.had[n_had] = row
            n_had += 1
            scratch.strength[row] = np.float32(0.0)
        days = age_ms / MS_A_DAY
        scratch.bought_days[row] = days
        scratch.strength[row] += states.bought_counts[user, k] * np.float32(exp(-days * _DECAY_A_DAY))
    for k in range(states.n_interactions[user]):
        row = history.item_rows[user, k]
        kind = states.item_types[user, k]
        if row < 0 or kind >= N_TYPES or type_weights[kind] <= 0.0:
            continue
        if scratch.had_stamp[row] != stamp:
            scratch.had_stamp[row] = stamp
            scratch.had[n_had] = row
            n_had += 1
            scratch.strength[row] = np.float32(0.0)
            scratch.bought_days[row] = -1.0
        elif kind == _PURCHASE and scratch.bought_days[row] >= 0.0:
            continue  # counted above
        days = max(at_ms - np.int64(states.item_seconds[user, k]) * 1000, 0) / MS_A_DAY
        scratch.strength[row] += np.float32(0.2 * type_weights[kind] * exp(-days * _DECAY_A_DAY))
    for j in range(n_had):
        row = scratch.had[j]
        days = scratch.bought_days[row]
        due = 1.0 if days < 0.0 else _due(days, items.rebuy_days[row])
        strength = scratch.strength[row]
        rate = 0.1 + 0.9 * items.repeat_rate[row]
        scratch.had_score[j] = np.float32(rate * due * strength / (1.0 + strength))
    return n_had


@kernel
def _due(days: float, rebuy_days: float) -> float:
    """How due a repeat purchase is: rises to 1 at the usual interval, then fades; .5 where none is known."""
    if np.isnan(rebuy_days):
        return 0.5
    ratio = days / max(rebuy_days, 0.5)
    return ratio if ratio < 1.0 else 1.0 / (1.0 + 0.25 * (ratio - 1.0))


@kernel
def sum_neighbours(user: int, items: ItemColumns, history: History, scratch: Scratch) -> int:
    """Add up the recent items' neighbours in `sums`, `peaks`, `hits`; return how many rows were touched."""
    n_touched = 0
    step = np.float32(1.0)
    for j in range(history.n_recent[user]):
        recent = history.recent_rows[user, j]
        for at in range(items.neighbour_offsets[recent], items.neighbour_offsets[recent + 1]):
            row = items.neighbour_rows[at]
            term = step * items.neighbour_scores[at]
            if scratch.hits[row] == 0:
                scratch.touched[n_touched] = row
                n_touched += 1
            scratch.hits[row] += 1
            scratch.sums[row] += term
            scratch.peaks[row] = max(scratch.peaks[row], term)
        step = np.float32(step * np.float32(NEIGHBOUR_DECAY))
    return n_touched
