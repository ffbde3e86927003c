"""The items of one epoch, arranged for ranking: look-up by hash, orders, logarithms, neighbours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.item_factors import ItemFactors
from udfs.kernel_cache import kernel
from udfs.model.items import ItemArrays
from udfs.model.manifest import NEIGHBOURS_PER_ITEM, ModelSettings
from udfs.ranking.content_table import ContentTable, ItemContent
from udfs.ranking.inner_product import padded_columns
from udfs.ranking.inverted_lists import InvertedLists, ListColumns, list_columns
from udfs.ranking.item_links import ItemLinks
from udfs.ranking.sequence_network import SequenceNetwork

EXACT_UP_TO_ITEMS = 8_000  # beyond it, inverted lists cost less than reading every factor


class ItemColumns(NamedTuple):
    """Arrays the kernels read, n items of d dimensions, row-aligned unless said otherwise.

    The rows of a bundle ascend by hash; behind them may stand items that came after it, ascending too
    (`udfs.ranking.arrivals`).
    `prefix` int32 (2**b + 1,) gives for the top b bits of a hash the first row of `hashes`; `transposed`
    float32 (d, padded n) is empty for an index with inverted lists; `category_price` is the mean log1p
    price of the item's category, NaN without one.
    """

    hashes: NDArray[np.uint64]
    prefix: NDArray[np.int32]
    prefix_shift: int
    factors: NDArray[np.float32]
    transposed: NDArray[np.float32]
    factor_norm: NDArray[np.float32]
    category: NDArray[np.uint32]
    category_price: NDArray[np.float32]
    popularity: NDArray[np.float32]  # log1p
    trending: NDArray[np.float32]  # log1p
    popularity_rank: NDArray[np.float32]  # log2(1 + rank)
    popular_order: NDArray[np.int32]
    trending_order: NDArray[np.int32]
    neighbour_offsets: NDArray[np.int64]
    neighbour_rows: NDArray[np.int32]
    neighbour_scores: NDArray[np.float32]
    rebuy_days: NDArray[np.float32]
    rebuy_log: NDArray[np.float32]  # log1p, -1: not known
    repeat_rate: NDArray[np.float32]


@dataclass(frozen=True)
class ItemIndex:
    """What retrieval and features know of the items.

    Parameters
    ----------
    item_ids
        n ids in row order.
    category_names
        Category hash to name.
    columns
        See `ItemColumns`.
    prices
        float32 (n,), NaN: not known. What a `CatalogueView` starts from.
    factors
        The same vectors as the user logic knows them, for folding users in.
    settings
        How this model retrieves and blends.
    lists
        Inverted lists over the factors, empty where all items are scored.
    devices
        What devices have learnt; None: there is no such source.
    content
        What is said of the items; None: there is no such source, and no items come behind those of the bundle.
    sequence
        A network that reads what users did last; None: there is no such source.
    rules
        What followed each item; None: there is no such source.
    """

    item_ids: Sequence[str]
    category_names: Mapping[int, str]
    columns: ItemColumns
    prices: NDArray[np.float32]
    factors: ItemFactors
    settings: ModelSettings
    lists: ListColumns
    devices: ItemLinks | None = None
    content: ItemContent | None = None
    sequence: SequenceNetwork | None = None
    rules: ItemLinks | None = None

    @classmethod
    def build(
        cls,
        items: ItemArrays,
        settings: ModelSettings | None = None,
        *,
        item_hashes: NDArray[np.uint64] | None = None,
        gram: NDArray[np.float32] | None = None,
        ivf: InvertedLists | None = None,
        devices: ItemLinks | None = None,
        content: ItemContent | None = None,
        sequence: SequenceNetwork | None = None,
        rules: ItemLinks | None = None,
    ) -> "ItemIndex":
        """Derive the index from a bundle's arrays.

        Parameters
        ----------
        items
            In ascending order of item hash.
        settings
            None takes the defaults.
        item_hashes, gram
            Where they are known already; else they are computed.
        ivf
            Inverted lists over the factors; None scores every item.
        devices, content, rules
            Row-aligned with the items.
        sequence
            Of these items.

        Raises
        ------
        ValueError
            If the items are not in order.
        """
        settings = settings or ModelSettings()
        hashes = items.item_hashes if item_hashes is None else item_hashes
        if (hashes[1:] <= hashes[:-1]).any():
            raise ValueError("items must be in ascending order of their hashes: call in_hash_order() first")
        if len(items.neighbour_rows) and np.diff(items.neighbour_offsets).max() > NEIGHBOURS_PER_ITEM:
            raise ValueError(f"at most {NEIGHBOURS_PER_ITEM} neighbours an item")
        n = len(hashes)
        if ivf is not None and (len(ivf.rows) != n or ivf.centroids.shape[1] != items.factors.shape[1]):
            got = (len(ivf.rows), ivf.centroids.shape[1])
            raise ValueError(f"inverted lists: wanted {n} items of {items.factors.shape[1]}, got {got}")
        bits = max(1, (n - 1).bit_length())
        starts = np.arange(1 << bits, dtype=np.uint64) << np.uint64(64 - bits)
        prefix = np.append(np.searchsorted(hashes, starts), n).astype(np.int32)
        popular_order = np.argsort(-items.popularity, kind="stable").astype(np.int32)
        rank = np.empty(n, np.float32)
        rank[popular_order] = np.log2(1.0 + np.arange(1, n + 1))
        factors = np.ascontiguousarray(items.factors)
        columns = ItemColumns(
            hashes=hashes,
            prefix=prefix,
            prefix_shift=64 - bits,
            factors=factors,
            transposed=padded_columns(factors if ivf is None else factors[:0]),
            factor_norm=np.sqrt((factors.astype(np.float64) ** 2).sum(axis=1)).astype(np.float32),
            category=items.categories,
            category_price=_category_price(items.categories, items.prices),
            popularity=np.log1p(items.popularity.astype(np.float64)).astype(np.float32),
            trending=np.log1p(items.trending.astype(np.float64)).astype(np.float32),
            popularity_rank=rank,
            popular_order=popular_order,
            trending_order=np.argsort(-items.trending, kind="stable").astype(np.int32),
            neighbour_offsets=items.neighbour_offsets,
            neighbour_rows=items.neighbour_rows,
            neighbour_scores=items.neighbour_scores,
            rebuy_days=items.rebuy_days,
            rebuy_log=_log_or(items.rebuy_days, -1.0),
            repeat_rate=items.repeat_rate,
        )
        return cls(
            item_ids=items.item_ids,
            category_names=items.category_names,
            columns=ItemColumns(*(frozen(value) for value in columns)),
            prices=frozen(items.prices),
            factors=ItemFactors(
                hashes,
                factors,
                items.gram if gram is None else gram,
                items.categories,
                settings.fold_in_alpha,
                settings.fold_in_regularization,
            ),
            settings=settings,
            lists=ListColumns(*(frozen(value) for value in list_columns(ivf, factors))),
            devices=None if devices is None else ItemLinks(*(frozen(value) for value in devices)),
            content=None
            if content is None
            else content._replace(
                vectors=frozen(content.vectors),
                table=ContentTable(*(frozen(value) for value in content.table)),
            ),
            sequence=sequence,
            rules=None if rules is None else ItemLinks(*(frozen(value) for value in rules)),
        )

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def gram(self) -> NDArray[np.float32]:
        """float32 (d, d): factors' transpose times factors."""
        return self.factors.gram

    def row(self, item_hash: int) -> int:
        """Return the row of an item, -1 for one this epoch does not know."""
        columns = self.columns
        return int(row_of(columns.hashes, columns.prefix, columns.prefix_shift, np.uint64(item_hash)))


@kernel
def row_of(hashes: NDArray[np.uint64], prefix: NDArray[np.int32], shift: int, wanted: np.uint64) -> int:
    """Return the row of `wanted` in `hashes`, or -1.

    Hashes are spread evenly, so the rows that share a prefix of log2(n) bits are one or two: half the cost of
    a hash table's probe and a tenth of a binary search, which is left for the few that came after the bundle.
    """
    bucket = np.int64(wanted >> np.uint64(shift))
    for row in range(prefix[bucket], prefix[bucket + 1]):
        if hashes[row] == wanted:
            return row
    low, high = np.int64(prefix[-1]), np.int64(len(hashes))
    while low < high:
        middle = (low + high) >> 1
        if hashes[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return int(low) if low < len(hashes) and hashes[low] == wanted else -1


def _category_price(categories: NDArray[np.uint32], prices: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (n,): mean log1p price of the known prices in each item's category."""
    names, of_item = np.unique(categories, return_inverse=True)
    known = ~np.isnan(prices)
    logs = np.log1p(prices[known].astype(np.float64))
    total = np.bincount(of_item[known], logs, len(names))
    count = np.bincount(of_item[known], minlength=len(names))
    mean = np.divide(total, count, out=np.full(len(names), np.nan), where=count > 0)
    result: NDArray[np.float32] = mean[of_item].astype(np.float32)
    return result


def _log_or(values: NDArray[np.float32], unknown: float) -> NDArray[np.float32]:
    """float32 (n,): log1p, or `unknown` in the place of NaN."""
    logs = np.log1p(values.astype(np.float64)).astype(np.float32)
    return np.where(np.isnan(logs), np.float32(unknown), logs)


def frozen(value: Any) -> Any:
    """Return a read-only plain array: one type for a mapped file and an array made here, so one kernel."""
    if not isinstance(value, np.ndarray):
        return value
    view = np.ascontiguousarray(value).view(np.ndarray)
    view.flags.writeable = False
    return view
