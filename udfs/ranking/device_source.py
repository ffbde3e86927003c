"""The device source: what a user's last items speak for, by a table that devices have learnt.

A bundle without such a table has no such source, and nothing of this runs.
"""

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.model.manifest import NEIGHBOURS_PER_ITEM
from udfs.ranking.device_table import DeviceTable
from udfs.ranking.history import NEIGHBOUR_DECAY, NEIGHBOUR_ITEMS, History
from udfs.ranking.live_sessions import SessionCandidates
from udfs.ranking.top_k import order_key, row_of_key, score_of_key, sort_top


def find_by_devices(
    table: DeviceTable, history: History, allowed: NDArray[np.bool_], limit: int
) -> SessionCandidates:
    """Return what each user's last 10 items speak for, best first, at most `limit` items a user.

    The score of an item is the sum over the last items, .85 a step back. What the user had counts too; rules about
    that are retrieval's.

    Parameters
    ----------
    allowed
        bool (n,): in stock and not blocked.
    """
    users = len(history.n_recent)
    found = SessionCandidates(
        np.zeros(users, np.int32), np.zeros((users, limit), np.int32), np.zeros((users, limit), np.float32)
    )
    _find(table, history, allowed, found)
    return found


@kernel
def _find(table: DeviceTable, history: History, allowed: NDArray[np.bool_], found: SessionCandidates) -> None:
    limit = found.rows.shape[1]
    sums = np.zeros(len(allowed), np.float32)
    touched = np.empty(NEIGHBOUR_ITEMS * NEIGHBOURS_PER_ITEM, np.int32)
    keys = np.empty(NEIGHBOUR_ITEMS * NEIGHBOURS_PER_ITEM, np.uint64)
    for user in range(len(history.n_recent)):
        n_touched = 0
        step = np.float32(1.0)
        for j in range(history.n_recent[user]):
            recent = history.recent_rows[user, j]
            for at in range(table.offsets[recent], table.offsets[recent + 1]):
                row = table.rows[at]
                if not allowed[row]:
                    continue
                if sums[row] == np.float32(0.0):
                    touched[n_touched] = row
                    n_touched += 1
                sums[row] += step * table.scores[at]
            step = np.float32(step * np.float32(NEIGHBOUR_DECAY))
        for k in range(n_touched):
            keys[k] = order_key(sums[touched[k]], touched[k])
            sums[touched[k]] = np.float32(0.0)
        kept = min(n_touched, limit)
        sort_top(keys, n_touched, kept)
        for k in range(kept):
            found.rows[user, k] = row_of_key(keys[k])
            found.score[user, k] = score_of_key(keys[k])
        found.counts[user] = kept
