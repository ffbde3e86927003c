"""What may be recommended today: stock, blocks and prices of the items of one epoch."""

from __future__ import annotations

from dataclasses import replace
from math import log1p
from typing import TYPE_CHECKING

import numpy as np

from schemas.ids import item_hash
from schemas.records import Item
from udfs.ranking.arrivals import Arrival, place_arrivals, with_arrivals
from udfs.ranking.item_index import ItemIndex

if TYPE_CHECKING:
    from udfs.model.bundle import Bundle

UNKNOWN_PRICE = -1.0  # what the feature `price` says where none is known
MAX_PRICE = 1e12


class CatalogueView:
    """Row-aligned with one epoch's items; starts with everything in stock at the bundle's prices.

    Records are applied in the order of their topic, which has one partition. Of the items that the epoch does not
    know, the newest join it by what is said of them (`udfs.ranking.arrivals`), where it has a vocabulary; the
    others are counted and wait for the next model.

    Parameters
    ----------
    source
        The bundle, or in training the items alone.
    arrivals
        Items unknown to the epoch that may join it at most; those whose record is oldest give way.

    Attributes
    ----------
    base
        The items of the bundle, n of them.
    index
        These, and behind them the m arrivals as of the last `settle`: what this view is row-aligned with.
    bundle_sha256
        The bundle's manifest; empty for items alone.
    in_stock, blocked
        bool (n + m,)
    allowed
        bool (n + m,): in stock and not blocked.
    price
        float32 (n + m,), NaN: not known.
    price_log
        float32 (n + m,): log1p of it, -1: not known.
    mark
        How far the topic was applied; whoever applies records sets it, and lists carry it.
    unknown
        Records of items that the epoch does not know and that could not join it.
    """

    def __init__(self, source: Bundle | ItemIndex, arrivals: int = 0) -> None:
        self.base = source if isinstance(source, ItemIndex) else source.items
        self.index = self.base
        self.bundle_sha256 = "" if isinstance(source, ItemIndex) else source.manifest_sha256
        self._most = arrivals if self.base.content is not None else 0
        self._arrivals: dict[int, Item] = {}  # by hash, the oldest record first
        self._placed: dict[int, Arrival] = {}
        self._settled = True
        self._grown: Bundle | None = None
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
            Whether the epoch knows the item, or will after `settle`.
        """
        hashed = item_hash(item.item_id)
        row = self.base.row(hashed)
        if row < 0:
            return self._arrive(hashed, item)
        self._set(row, item)
        return True

    def settle(self) -> None:
        """Let the items that arrived since join the index: rows behind those of the bundle change."""
        if self._settled:
            return
        self._settled = True
        self._grown = None
        placed = {hashed: one for hashed, one in self._placed.items() if hashed in self._arrivals}
        wanted = [item for hashed, item in self._arrivals.items() if hashed not in placed]
        self._placed = placed | {one.hashed: one for one in place_arrivals(self.base, wanted)}
        self.index = with_arrivals(self.base, list(self._placed.values()))
        n, m = len(self.base), len(self._arrivals)
        self.in_stock = np.append(self.in_stock[:n], np.ones(m, np.bool_))
        self.blocked = np.append(self.blocked[:n], np.zeros(m, np.bool_))
        self.allowed = np.append(self.allowed[:n], np.ones(m, np.bool_))
        self.price = np.append(self.price[:n], np.full(m, np.nan, np.float32))
        self.price_log = np.append(self.price_log[:n], np.full(m, UNKNOWN_PRICE, np.float32))
        for hashed, item in self._arrivals.items():
            self._set(self.index.row(hashed), item)

    def grown(self, bundle: Bundle) -> Bundle:
        """Return the bundle with the arrivals among its items; the bundle itself where nothing arrived.

        Raises
        ------
        ValueError
            If this is a view of another bundle.
        """
        if self.base is not bundle.items:
            raise ValueError(
                "the catalogue view belongs to another bundle; make one with CatalogueView(bundle)"
            )
        self.settle()
        if self.index is self.base:
            return bundle
        if self._grown is None:
            self._grown = replace(bundle, items=self.index)
        return self._grown

    def _arrive(self, hashed: int, item: Item) -> bool:
        if not self._most:
            self.unknown += 1
            return False
        known = self._arrivals.pop(hashed, None)
        self._arrivals[hashed] = item
        if known is not None and _says_the_same(known, item):
            if self._settled:
                self._set(self.index.row(hashed), item)
            return True
        self._placed.pop(hashed, None)
        if len(self._arrivals) > self._most:
            del self._arrivals[next(iter(self._arrivals))]
            self.unknown += 1
        self._settled = False
        return True

    def _set(self, row: int, item: Item) -> None:
        self.in_stock[row] = item.in_stock
        self.blocked[row] = item.blocked
        self.allowed[row] = item.in_stock and not item.blocked
        price = item.price
        known = price is not None and 0.0 <= price <= MAX_PRICE
        self.price[row] = price if known else np.nan
        self.price_log[row] = log1p(self.price[row]) if known else UNKNOWN_PRICE


def _says_the_same(one: Item, other: Item) -> bool:
    return (one.title, one.category, one.brand, one.attributes) == (
        other.title,
        other.category,
        other.brand,
        other.attributes,
    )
