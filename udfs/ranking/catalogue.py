"""What may be recommended today: stock, blocks and prices of the items of one epoch."""

from __future__ import annotations

from math import log1p
from typing import TYPE_CHECKING

import numpy as np

from schemas.ids import item_hash
from schemas.records import Item
from udfs.ranking.item_index import ItemIndex

if TYPE_CHECKING:
    from udfs.model.bundle import Bundle

UNKNOWN_PRICE = -1.0  # what the feature `price` says where none is known
MAX_PRICE = 1e12


class CatalogueView:
    """Row-aligned with one epoch's items; starts with everything in stock at the bundle's prices.

    Records are applied in the order of their topic, which has one partition. An item that the epoch does not
    know is counted and waits for the next model.

    Parameters
    ----------
    source
        The bundle, or in training the items alone.

    Attributes
    ----------
    bundle_sha256
        The bundle's manifest; empty for items alone.
    in_stock, blocked
        bool (n,)
    allowed
        bool (n,): in stock and not blocked.
    price
        float32 (n,), NaN: not known.
    price_log
        float32 (n,): log1p of it, -1: not known.
    mark
        How far the topic was applied; whoever applies records sets it, and lists carry it.
    unknown
        Records of items that the epoch does not know.
    """

    def __init__(self, source: Bundle | ItemIndex) -> None:
        self.index = source if isinstance(source, ItemIndex) else source.items
        self.bundle_sha256 = "" if isinstance(source, ItemIndex) else source.manifest_sha256
        n = len(self.index)
        self.in_stock = np.ones(n, np.bool_)
        self.blocked = np.zeros(n, np.bool_)
        self.allowed = np.ones(n, np.bool_)
        self.price = np.array(self.index.prices, np.float32)
        known = ~np.isnan(self.price)
        self.price_log = np.full(n, UNKNOWN_PRICE, np.float32)
        self.price_log[known] = [log1p(price) for price in self.price[known].tolist()]
        self.mark = 0
        self.unknown = 0

    def apply(self, item: Item) -> bool:
        """Take one item record: the whole state of the item.

        A price that is absent, negative, not finite or above `MAX_PRICE` is not known.

        Returns
        -------
        bool
            Whether the epoch knows the item.
        """
        row = self.index.row(item_hash(item.item_id))
        if row < 0:
            self.unknown += 1
            return False
        self.in_stock[row] = item.in_stock
        self.blocked[row] = item.blocked
        self.allowed[row] = item.in_stock and not item.blocked
        price = item.price
        known = price is not None and 0.0 <= price <= MAX_PRICE
        self.price[row] = price if known else np.nan
        self.price_log[row] = log1p(self.price[row]) if known else UNKNOWN_PRICE
        return True
