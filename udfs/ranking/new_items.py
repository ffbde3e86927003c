"""A small share of slots for items of which the model knows little, so that it gets to know them.

At each slot a list takes one with a fixed probability, until it has one: at most one a list. It is drawn evenly from
all that may be shown to the user and are not among the finalists, which have their chance already. So the probability
of the item in the slot, given the slots before, is exactly the share over the number of such items; and what was
placed by an arm had that arm's probability times what the share left.
"""

from __future__ import annotations

from math import log1p
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.history import History
from udfs.ranking.rules import bought_recently
from udfs.ranking.snapshot import StateColumns

NO_ROW: Final = -1


class NewItems(NamedTuple):
    """M new items of n, and what keeps them from a user.

    `rows` ascend; `place` is a row's place in `rows`, -1: not new. The other arrays are those of `History` and
    `StateColumns`.
    """

    share: float
    rows: NDArray[np.int32]  # (M,)
    place: NDArray[np.int32]  # (n,)
    bought_rows: NDArray[np.int32]  # (U, 64)
    bought_seconds: NDArray[np.uint32]
    at_ms: NDArray[np.int64]  # (U,)
    rebuy_after_ms: int


def find_new_items(
    catalogue: CatalogueView,
    history: History,
    states: StateColumns,
    share: float,
    weight: float,
    rebuy_after_ms: int,
) -> NewItems:
    """Return the new items that may be shown; none where the share is 0.

    Parameters
    ----------
    share
        Probability of a slot to take one, in [0, `udfs.ranking.rank_settings.MAX_NEW_ITEM_SHARE`].
    weight
        An item is new while its interactions in training weigh no more than this: 1 a view, 5 a purchase.
    """
    if share > 0.0:
        new = catalogue.allowed & (catalogue.index.columns.popularity <= np.float32(log1p(weight)))
        rows = np.flatnonzero(new).astype(np.int32)
        place = np.full(len(new), NO_ROW, np.int32)
        place[rows] = np.arange(len(rows), dtype=np.int32)
    else:
        rows = place = np.empty(0, np.int32)
    return NewItems(
        share, rows, place, history.bought_rows, states.bought_seconds, states.at_ms, rebuy_after_ms
    )


@kernel
def draw_new_item(
    new: NewItems,
    user: int,
    finalists: NDArray[np.int32],
    count: int,
    draw: float,
    scratch: NDArray[np.int32],
) -> tuple[int, int]:
    """Return a row drawn evenly from the new items that the user may get, and how many those are.

    Parameters
    ----------
    finalists, count
        int32 (K,): the user's, which are left out.
    draw
        In [0, 1).
    scratch
        int32, room for K + 64 numbers.

    Returns
    -------
    row, eligible
        `NO_ROW` and 0 where there is none.
    """
    left_out = 0
    for k in range(count):
        left_out = _leave_out(new.place[finalists[k]], scratch, left_out)
    for k in range(new.bought_rows.shape[1]):
        row = new.bought_rows[user, k]
        if row >= 0 and bought_recently(new.at_ms[user], new.bought_seconds[user, k], new.rebuy_after_ms):
            left_out = _leave_out(new.place[row], scratch, left_out)
    eligible = len(new.rows) - left_out
    if eligible <= 0:
        return NO_ROW, 0
    place = int(draw * eligible)
    for k in range(left_out):  # in ascending order
        place += scratch[k] <= place
    return new.rows[place], eligible


@kernel
def _leave_out(place: int, sorted_places: NDArray[np.int32], count: int) -> int:
    """Put a place into its order, once; give how many there are."""
    if place < 0:
        return count
    at = count
    while at > 0 and sorted_places[at - 1] >= place:
        if sorted_places[at - 1] == place:
            return count
        at -= 1
    for k in range(count, at, -1):
        sorted_places[k] = sorted_places[k - 1]
    sorted_places[at] = place
    return count + 1
