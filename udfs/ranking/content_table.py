"""Which items are alike by what is said of them, arranged for the items of one epoch."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.ranking.content_vocabulary import ContentVocabulary
from udfs.ranking.item_links import ItemLinks

LEAST_ALIKE = 0.5
"""Cosine below which two items have nothing to say of each other."""
ALIKE_DECIMALS = 2
"""Of the cosine: items as good as equally alike stand in the order of their popularity."""
LINKS_PER_ITEM = 20


class ContentTable(NamedTuple):
    """The links as the kernel reads them; those with items that arrived later stand apart.

    `late_offsets` is int64 (1,) where nothing arrived, else (n + m + 1,): to each of n items those of the m
    arrivals that are like it, to each arrival the items that it is like.
    """

    offsets: NDArray[np.int64]
    rows: NDArray[np.int32]
    scores: NDArray[np.float32]
    late_offsets: NDArray[np.int64]
    late_rows: NDArray[np.int32]
    late_scores: NDArray[np.float32]

    @staticmethod
    def of(links: ItemLinks) -> "ContentTable":
        """Return a table to which nothing arrived."""
        return ContentTable(*links, np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))

    def has_links(self) -> bool:
        """Whether there is anything to find."""
        return len(self.rows) > 0 or len(self.late_rows) > 0


class ItemContent(NamedTuple):
    """What a bundle knows of what is said of its items.

    Attributes
    ----------
    vocabulary
        Places a new item among the others.
    vectors
        float32 (n, e), of length 1 or 0.
    table
        Who is like whom.
    """

    vocabulary: ContentVocabulary
    vectors: NDArray[np.float32]
    table: ContentTable
