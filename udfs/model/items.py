"""The items of a bundle as row-aligned arrays, sorted by item hash."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.ids import item_hash


@dataclass(frozen=True)
class ItemArrays:
    """What training knows of each of n items.

    Parameters
    ----------
    item_ids
        n ids. Rows of a bundle are in ascending order of `schemas.ids.item_hash`; `in_hash_order` sorts.
    factors
        float32 (n, d), d at most 64.
    categories
        uint32 (n,), `schemas.ids.category_hash`; 0: none.
    category_names
        Hash to name.
    prices
        float32 (n,), NaN: not known.
    popularity, trending
        float32 (n,), zero or more: weights of all interactions, and decayed by 7 days at the cut.
    neighbour_offsets, neighbour_rows, neighbour_scores
        Compressed rows: int64 (n + 1,), int32 (z,), float32 (z,). At most 50 an item, scores above 0 and
        descending, no item its own neighbour.
    rebuy_days
        float32 (n,): median days between repeat purchases, NaN: none seen.
    repeat_rate
        float32 (n,) in [0, 1]: share of buyers who bought it again.
    """

    item_ids: Sequence[str]
    factors: NDArray[np.float32]
    categories: NDArray[np.uint32]
    category_names: Mapping[int, str]
    prices: NDArray[np.float32]
    popularity: NDArray[np.float32]
    trending: NDArray[np.float32]
    neighbour_offsets: NDArray[np.int64]
    neighbour_rows: NDArray[np.int32]
    neighbour_scores: NDArray[np.float32]
    rebuy_days: NDArray[np.float32]
    repeat_rate: NDArray[np.float32]

    @property
    def item_hashes(self) -> NDArray[np.uint64]:
        """uint64 (n,), in row order."""
        return np.fromiter((item_hash(item_id) for item_id in self.item_ids), np.uint64, len(self.item_ids))

    @property
    def gram(self) -> NDArray[np.float32]:
        """float32 (d, d): factors' transpose times factors, summed in float64."""
        wide = self.factors.astype(np.float64)
        return (wide.T @ wide).astype(np.float32)

    def in_hash_order(self) -> "ItemArrays":
        """Return the same items sorted by hash, neighbours renumbered."""
        order = np.argsort(self.item_hashes, kind="stable")
        row_of = np.empty(len(order), np.int32)
        row_of[order] = np.arange(len(order), dtype=np.int32)
        counts = np.diff(self.neighbour_offsets)[order]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
        first = np.repeat(self.neighbour_offsets[:-1][order] - offsets[:-1], counts)
        taken = first + np.arange(offsets[-1])
        return dataclasses.replace(
            self,
            item_ids=[self.item_ids[row] for row in order],
            factors=self.factors[order],
            categories=self.categories[order],
            prices=self.prices[order],
            popularity=self.popularity[order],
            trending=self.trending[order],
            neighbour_offsets=offsets,
            neighbour_rows=row_of[self.neighbour_rows[taken]],
            neighbour_scores=self.neighbour_scores[taken],
            rebuy_days=self.rebuy_days[order],
            repeat_rate=self.repeat_rate[order],
        )
