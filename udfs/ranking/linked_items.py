"""What a table links with users' last items, summed: one kernel for the sources that are such a table."""

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.model.manifest import NEIGHBOURS_PER_ITEM
from udfs.ranking.found_items import FoundItems, no_items
from udfs.ranking.history import NEIGHBOUR_ITEMS, History
from udfs.ranking.item_links import ItemLinks
from udfs.ranking.top_k import order_key, row_of_key, score_of_key, sort_top


def find_linked(
    links: ItemLinks,
    steps: NDArray[np.float32],
    history: History,
    allowed: NDArray[np.bool_],
    limit: int,
) -> FoundItems:
    """Return what is linked with each user's last 10 items, best first, at most `limit` items a user.

    The score of an item is the sum over the last items. What the user had counts too; rules about that are
    retrieval's.

    Parameters
    ----------
    links
        Of n items.
    steps
        float32 (10,), above 0: what the newest item counts, the one before it, and so on.
    history
        Of U users.
    allowed
        bool (n,): in stock and not blocked.
    limit
        Items a user.
    """
    found = no_items(len(history.n_recent), limit)
    _find(links, steps, history, allowed, found)
    return found


@kernel
def _find(
    links: ItemLinks,
    steps: NDArray[np.float32],
    history: History,
    allowed: NDArray[np.bool_],
    found: FoundItems,
) -> None:
    limit = found.rows.shape[1]
    sums = np.zeros(len(allowed), np.float32)
    touched = np.empty(NEIGHBOUR_ITEMS * NEIGHBOURS_PER_ITEM, np.int32)
    keys = np.empty(NEIGHBOUR_ITEMS * NEIGHBOURS_PER_ITEM, np.uint64)
    for user in range(len(history.n_recent)):
        n_touched = 0
        for j in range(history.n_recent[user]):
            recent = history.recent_rows[user, j]
            n_touched = add_links(
                recent, steps[j], links.offsets, links.rows, links.scores, sums, touched, n_touched
            )
        best = 0
        for k in range(n_touched):
            row = touched[k]
            keys[best] = order_key(sums[row], row)
            best += allowed[row]
            sums[row] = np.float32(0.0)
        kept = min(best, limit)
        sort_top(keys, best, kept)
        for k in range(kept):
            found.rows[user, k] = row_of_key(keys[k])
            found.score[user, k] = score_of_key(keys[k])
        found.counts[user] = kept


@kernel
def add_links(
    item: int,
    weight: np.float32,
    offsets: NDArray[np.int64],
    rows: NDArray[np.int32],
    scores: NDArray[np.float32],
    sums: NDArray[np.float32],
    touched: NDArray[np.int32],
    n_touched: int,
) -> int:
    """Add what is linked with an item to `sums`, and rows that were 0 to `touched`; return how many those are now.

    Parameters
    ----------
    item, weight
        Its row, and what it counts.
    offsets, rows, scores
        Compressed rows of links, scores above 0.
    sums
        float32 (n,)
    touched
        int32, room for all links of all items that are added.
    """
    for at in range(offsets[item], offsets[item + 1]):
        row = rows[at]
        if sums[row] == np.float32(0.0):
            touched[n_touched] = row
            n_touched += 1
        sums[row] += weight * scores[at]
    return n_touched
