"""The source of sequential rules: what users took after items like a user's last ones.

A bundle without rules has no such source, and nothing of this runs.
"""

import numpy as np
from numpy.typing import NDArray

from udfs.ranking.found_items import FoundItems
from udfs.ranking.history import NEIGHBOUR_ITEMS, History
from udfs.ranking.item_links import ItemLinks
from udfs.ranking.linked_items import find_linked

SCORED_BY_RULES = 3
"""Times its share that it finds: candidates of other sources get its score too."""
_STEPS = (1.0 / np.arange(1, NEIGHBOUR_ITEMS + 1)).astype(np.float32)


def find_by_rules(table: ItemLinks, history: History, allowed: NDArray[np.bool_], limit: int) -> FoundItems:
    """Return what follows each user's last 10 items, best first, at most `limit` items a user.

    The score is the sum of the rules' shares, the newest item's whole, that of the one before it halved, and so on
    as 1 / s, like the steps that the rules were counted with.

    Parameters
    ----------
    allowed
        bool (n,): in stock and not blocked.
    """
    return find_linked(table, _STEPS, history, allowed, limit)
