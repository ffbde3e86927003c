"""What may be recommended today: stock, blocks and prices of the items of one epoch."""

from math import isfinite, log1p

import numpy as np

from schemas.ids import item_hash
from schemas.records import Item
from udfs.ranking.features import FEATURES
from udfs.ranking.item_index import ItemIndex

UNKNOWN_PRICE = next(feature.missing for feature in FEATURES if feature.name == "price")


class CatalogueView:
    """Row-aligned with one epoch's items; starts with everything in stock at the bundle's prices.

    Item records are applied in the order of their topic, which has one partition. An item that the epoch does
    not know is counted and waits for the next model.

    Parameters
    ----------
    index
        The items of the epoch.

    Attributes
    ----------
    in_stock, blocked
        bool (n,)
    allowed
        bool (n,): in stock and not blocked.
    price
        float32 (n,), NaN: not known.
    price_log
        float32 (n,): log1p of it, -1: not known.
    mark
        Offset of the newest record applied, -1 before the first: lists carry it.
    unknown
        Records of items that the epoch does not know.
    """

    def __init__(self, index: ItemIndex) -> None:
        n = len(index)
        self._index = index
        self.in_stock = np.ones(n, np.bool_)
        self.blocked = np.zeros(n, np.bool_)
        self.allowed = np.ones(n, np.bool_)
        self.price = np.array(index.prices, np.float32)
        known = ~np.isnan(self.price)
        self.price_log = np.full(n, UNKNOWN_PRICE, np.float32)
        self.price_log[known] = [log1p(price) for price in self.price[known].tolist()]
        self.mark = -1
        self.unknown = 0

    def apply(self, item: Item, mark: int) -> bool:
        """Take one item record.

        Parameters
        ----------
        item
            The whole state of the item; a price that is absent, negative or not finite is not known.
        mark
            The record's offset. One at or below `self.mark` was applied before and changes nothing.

        Returns
        -------
        bool
            Whether anything was applied.
        """
        if mark <= self.mark:
            return False
        self.mark = mark
        row = self._index.row(item_hash(item.item_id))
        if row < 0:
            self.unknown += 1
            return False
        self.in_stock[row] = item.in_stock
        self.blocked[row] = item.blocked
        self.allowed[row] = item.in_stock and not item.blocked
        price = np.float32(np.nan if item.price is None else item.price)
        known = isfinite(price) and price >= 0
        self.price[row] = price if known else np.nan
        self.price_log[row] = log1p(price) if known else UNKNOWN_PRICE
        return True
