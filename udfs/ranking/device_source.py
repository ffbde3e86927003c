"""The device source: what a user's last items speak for, by a table that devices have learnt.

A bundle without such a table has no such source, and nothing of this runs.
"""

import numpy as np
from numpy.typing import NDArray

from udfs.ranking.found_items import FoundItems
from udfs.ranking.history import NEIGHBOUR_DECAY, NEIGHBOUR_ITEMS, History
from udfs.ranking.item_links import ItemLinks
from udfs.ranking.linked_items import find_linked

_STEPS = np.cumprod([1.0] + (NEIGHBOUR_ITEMS - 1) * [NEIGHBOUR_DECAY], dtype=np.float32)


def find_by_devices(table: ItemLinks, history: History, allowed: NDArray[np.bool_], limit: int) -> FoundItems:
    """Return what each user's last 10 items speak for, best first, at most `limit` items a user.

    The score of an item is the sum over the last items, .85 a step back. What the user had counts too; rules about
    that are retrieval's.

    Parameters
    ----------
    allowed
        bool (n,): in stock and not blocked.
    """
    return find_linked(table, _STEPS, history, allowed, limit)
