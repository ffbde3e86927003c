"""How items go together as a federated line has learnt it, arranged for the items of one epoch."""

from collections.abc import Sequence

import numpy as np

from udfs.federate.pair_table import PairTable, item_weights
from udfs.model.manifest import NEIGHBOURS_PER_ITEM
from udfs.ranking.item_links import ItemLinks


def device_table(table: PairTable, item_ids: Sequence[str]) -> ItemLinks:
    """Arrange a learnt table for the items of an epoch; what the epoch does not know is left out.

    Scores are the weights that `udfs.federate.pair_table.item_weights` makes of the pairs.

    Parameters
    ----------
    item_ids
        n, in row order.
    """
    row_of = {name: row for row, name in enumerate(item_ids)}
    known = [(row_of[name], place) for place, name in enumerate(table.item_ids) if name in row_of]
    weights = item_weights(table.pairs, table.sigma).astype(np.float32)
    lists: dict[int, list[tuple[float, int]]] = {}
    for row, place in known:
        spoken = [(float(weights[place, other]), at) for at, other in known if weights[place, other] > 0.0]
        lists[row] = sorted(spoken, key=lambda pair: (-pair[0], pair[1]))[:NEIGHBOURS_PER_ITEM]
    lengths = np.zeros(len(item_ids), np.int64)
    for row, spoken in lists.items():
        lengths[row] = len(spoken)
    in_order = [pair for row in sorted(lists) for pair in lists[row]]
    return ItemLinks(
        np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        np.array([row for _, row in in_order], np.int32),
        np.array([score for score, _ in in_order], np.float32),
    )
