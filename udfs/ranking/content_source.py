"""The content source: items like a user's last ones by what is said of them, new items among them at once.

A bundle without a vocabulary has no such source, and nothing of this runs.
"""

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.model.manifest import NEIGHBOURS_PER_ITEM
from udfs.ranking.content_table import ContentTable
from udfs.ranking.found_items import FoundItems, no_items
from udfs.ranking.history import NEIGHBOUR_DECAY, NEIGHBOUR_ITEMS, History
from udfs.ranking.linked_items import add_links
from udfs.ranking.top_k import order_key, row_of_key, score_of_key, sort_top

SCORED_BY_CONTENT = 4
"""Times its share that it finds: candidates of other sources get its score too."""
_TOUCHED = NEIGHBOUR_ITEMS * 2 * NEIGHBOURS_PER_ITEM


def find_by_content(
    table: ContentTable, history: History, allowed: NDArray[np.bool_], limit: int
) -> FoundItems:
    """Return what is like each user's last 10 items, at most `limit` items a user.

    The score of an item is the sum of its cosines with the last items, .85 a step back. Items that the epoch does not
    know come by turns with those it knows, the best of either first: they have no other source to bring them.

    Parameters
    ----------
    allowed
        bool (n + m,): in stock and not blocked.
    """
    found = no_items(len(history.n_recent), limit)
    _find(table, history, allowed, found)
    return found


@kernel
def _find(table: ContentTable, history: History, allowed: NDArray[np.bool_], found: FoundItems) -> None:
    limit, known = found.rows.shape[1], len(table.offsets) - 1
    arrived = len(table.late_rows) > 0
    sums = np.zeros(len(allowed), np.float32)
    touched = np.empty(_TOUCHED, np.int32)
    keys, late_keys = np.empty(_TOUCHED, np.uint64), np.empty(_TOUCHED, np.uint64)
    for user in range(len(history.n_recent)):
        n_touched = 0
        step = np.float32(1.0)
        for j in range(history.n_recent[user]):
            recent = history.recent_rows[user, j]
            if recent < known:
                n_touched = add_links(
                    recent, step, table.offsets, table.rows, table.scores, sums, touched, n_touched
                )
            if arrived:
                n_touched = add_links(
                    recent,
                    step,
                    table.late_offsets,
                    table.late_rows,
                    table.late_scores,
                    sums,
                    touched,
                    n_touched,
                )
            step = np.float32(step * np.float32(NEIGHBOUR_DECAY))
        n_known, n_late = 0, 0
        for k in range(n_touched):
            row = touched[k]
            if allowed[row]:
                if row < known:
                    keys[n_known] = order_key(sums[row], row)
                    n_known += 1
                else:
                    late_keys[n_late] = order_key(sums[row], row)
                    n_late += 1
            sums[row] = np.float32(0.0)
        sort_top(keys, n_known, min(n_known, limit))
        sort_top(late_keys, n_late, min(n_late, limit))
        at_known, at_late = 0, 0
        kept = min(n_known + n_late, limit)
        for k in range(kept):
            if at_late < n_late and (at_late <= at_known or at_known >= n_known):
                key = late_keys[at_late]
                at_late += 1
            else:
                key = keys[at_known]
                at_known += 1
            found.rows[user, k] = row_of_key(key)
            found.score[user, k] = score_of_key(key)
        found.counts[user] = kept
