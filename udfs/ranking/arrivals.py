"""Items that came after the model's cut: ranked at once, by what is said of them, behind the rows of the epoch.

An arrival takes the mean factors of the items that are most like it and is linked with them, so that the content
source, and every source that goes by factors or by what users did, can bring it. What only history can tell, it has
not: no popularity, no repeats, no neighbours. Training ranks the items that came within its stretches in this way
too, and so learns what that is worth.
"""

from collections.abc import Sequence
from math import log2
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.ids import category_hash, item_hash
from schemas.records import Item
from udfs.model.manifest import NEIGHBOURS_PER_ITEM
from udfs.ranking.content_table import (
    ALIKE_DECIMALS,
    LEAST_ALIKE,
    LINKS_PER_ITEM,
    ContentTable,
    ItemContent,
)
from udfs.ranking.inner_product import padded_columns, score_all
from udfs.ranking.item_index import ItemIndex, frozen
from udfs.ranking.item_links import ItemLinks

REACHES = 100
"""Known items whose users may meet an arrival; each item has at most `NEIGHBOURS_PER_ITEM` arrivals."""
FACTORS_OF = 10


class Arrival(NamedTuple):
    """One new item, placed among those of an epoch.

    `near_rows` int32 (k,), `near_scores` float32 (k,): the items most like it, best first.
    """

    item: Item
    hashed: int
    factors: NDArray[np.float32]  # (d,)
    near_rows: NDArray[np.int32]
    near_scores: NDArray[np.float32]


def place_arrivals(base: ItemIndex, items: Sequence[Item]) -> list[Arrival]:
    """Find what new items are like; an item of which nothing known is said is like nothing.

    Raises
    ------
    ValueError
        For a bundle without a vocabulary.
    """
    if base.content is None:
        raise ValueError("this bundle knows nothing of what is said of items: it has no vocabulary")
    transposed = padded_columns(base.content.vectors)
    bias, alike = np.zeros(transposed.shape[1], np.float32), np.empty(transposed.shape[1], np.float32)
    placed = []
    for item in items:
        score_all(base.content.vocabulary.vector(item), transposed, bias, alike)
        placed.append(_place(base, item, np.round(alike[: len(base)], ALIKE_DECIMALS)))
    return placed


def _place(base: ItemIndex, item: Item, alike: NDArray[np.float32]) -> Arrival:
    near = np.flatnonzero(alike >= np.float32(LEAST_ALIKE))
    order = np.lexsort((near, -base.columns.popularity[near], -alike[near]))[:REACHES]
    rows = near[order].astype(np.int32)
    weights = alike[rows[:FACTORS_OF]].astype(np.float64)
    factors = np.zeros(base.columns.factors.shape[1], np.float32)
    if len(weights):
        nearest = base.columns.factors[rows[:FACTORS_OF]].astype(np.float64)
        factors = ((weights[:, None] * nearest).sum(axis=0) / weights.sum()).astype(np.float32)
    return Arrival(item, item_hash(item.item_id), factors, rows, alike[rows])


def with_arrivals(base: ItemIndex, arrivals: Sequence[Arrival]) -> ItemIndex:
    """Return the index of an epoch with m new items behind its n rows, in the order of their hashes.

    Parameters
    ----------
    base
        Of the bundle; its arrays are copied where they grow.
    arrivals
        Of this base, each item once.

    Raises
    ------
    ValueError
        For a base without a vocabulary, or one that has arrivals already.
    """
    content = base.content
    if content is None or len(content.table.late_rows):
        raise ValueError("arrivals go behind the rows of a bundle that has a vocabulary and no arrivals yet")
    if not arrivals:
        return base
    new = sorted(arrivals, key=lambda one: one.hashed)
    columns, n, m = base.columns, len(base), len(arrivals)
    items = [one.item for one in new]
    factors = np.concatenate([columns.factors, np.stack([one.factors for one in new])])
    categories = np.array([category_hash(item.category) if item.category else 0 for item in items], np.uint32)
    behind = np.arange(n, n + m, dtype=np.int32)
    prices = np.array([np.nan if item.price is None else item.price for item in items], np.float32)
    grown = columns._replace(
        hashes=np.append(columns.hashes, np.array([one.hashed for one in new], np.uint64)),
        factors=factors,
        transposed=padded_columns(factors) if columns.transposed.shape[1] else columns.transposed,
        factor_norm=np.append(columns.factor_norm, _lengths(factors[n:])),
        category=np.append(columns.category, categories),
        category_price=np.append(columns.category_price, _usual_prices(base, categories)),
        popularity=_with(columns.popularity, 0.0, m),
        trending=_with(columns.trending, 0.0, m),
        popularity_rank=_with(columns.popularity_rank, log2(2.0 + n), m),
        popular_order=np.append(columns.popular_order, behind),
        trending_order=np.append(columns.trending_order, behind),
        neighbour_offsets=_closed(columns.neighbour_offsets, m),
        rebuy_days=_with(columns.rebuy_days, np.nan, m),
        rebuy_log=_with(columns.rebuy_log, -1.0, m),
        repeat_rate=_with(columns.repeat_rate, 0.0, m),
    )
    table = _linked(content.table, new, n)
    return ItemIndex(
        item_ids=[*base.item_ids, *(item.item_id for item in items)],
        category_names={
            **base.category_names,
            **{category_hash(item.category): item.category for item in items if item.category},
        },
        columns=grown._replace(**{name: frozen(value) for name, value in grown._asdict().items()}),
        prices=frozen(np.append(base.prices, prices)),
        factors=base.factors,  # what users are folded in with, in every worker alike
        settings=base.settings,
        lists=base.lists,
        devices=None if base.devices is None else _grown_table(base.devices, m),
        content=ItemContent(content.vocabulary, content.vectors, table),
        sequence=base.sequence,
        rules=None if base.rules is None else _grown_table(base.rules, m),
    )


def _linked(table: ContentTable, new: Sequence[Arrival], n: int) -> ContentTable:
    """Add the links between known items and arrivals, both ways."""
    counts = [len(one.near_rows) for one in new]
    arrived = np.repeat(np.arange(n, n + len(new), dtype=np.int32), counts)
    known = np.concatenate([one.near_rows for one in new]).astype(np.int32)
    scores = np.concatenate([one.near_scores for one in new]).astype(np.float32)
    place = np.concatenate([np.arange(count) for count in counts])
    few = place < LINKS_PER_ITEM  # an arrival speaks for as many items as others do
    owners = np.concatenate([known, arrived[few]])
    others = np.concatenate([arrived, known[few]])
    both = np.concatenate([scores, scores[few]])
    order = np.lexsort((others, -both, owners))
    owners, others, both = owners[order], others[order], both[order]
    starts = np.searchsorted(owners, np.arange(n + len(new) + 1))
    kept = np.arange(len(owners)) - starts[owners] < NEIGHBOURS_PER_ITEM
    offsets = np.append(0, np.cumsum(np.bincount(owners[kept], minlength=n + len(new)))).astype(np.int64)
    return table._replace(
        late_offsets=frozen(offsets), late_rows=frozen(others[kept]), late_scores=frozen(both[kept])
    )


def _grown_table(table: ItemLinks, m: int) -> ItemLinks:
    """Return a table in which arrivals speak for nothing."""
    return table._replace(offsets=frozen(_closed(table.offsets, m)))


def _closed(offsets: NDArray[np.int64], m: int) -> NDArray[np.int64]:
    """Return compressed offsets with `m` empty rows behind."""
    return np.append(offsets, np.full(m, offsets[-1], np.int64))


def _with(values: NDArray[np.float32], value: float, m: int) -> NDArray[np.float32]:
    return np.append(values, np.full(m, value, np.float32))


def _lengths(factors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths: NDArray[np.float32] = np.sqrt((factors.astype(np.float64) ** 2).sum(axis=1)).astype(np.float32)
    return lengths


def _usual_prices(base: ItemIndex, categories: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Return the mean log price of each category as the epoch knows it, float32 (m,), NaN: of none."""
    names, first = np.unique(base.columns.category, return_index=True)
    at = np.minimum(np.searchsorted(names, categories), len(names) - 1)
    found: NDArray[np.float32] = base.columns.category_price[first[at]]
    return np.where((names[at] == categories) & (categories != 0), found, np.float32(np.nan)).astype(
        np.float32
    )
