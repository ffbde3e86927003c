"""What is said of a catalogue's items: a vocabulary by TF-IDF, short vectors, and who is like whom.

The vectors are the first components of a truncated singular value decomposition, by a randomized range finder; the
vocabulary is what a worker places new items with (`udfs.ranking.content_vocabulary`).

Source: Halko, Martinsson, Tropp, "Finding Structure with Randomness", SIAM Review 2011, algorithms 4.4 and 5.1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import scipy.sparse
from threadpoolctl import threadpool_limits

from schemas.records import Item
from udfs.model.items import ItemArrays
from udfs.ranking.content_table import (
    ALIKE_DECIMALS,
    LEAST_ALIKE,
    LINKS_PER_ITEM,
    ContentTable,
    ItemContent,
)
from udfs.ranking.content_vocabulary import ContentVocabulary, unit_vectors, words_of
from udfs.ranking.item_links import ItemLinks

_OVERSAMPLED = 10
_POWER_STEPS = 3
_BLOCK = 1_024


@dataclass(frozen=True)
class ContentSettings:
    """How the vocabulary is fitted; a dimension of 0 leaves it out."""

    dimension: int = 64
    least_items: int = 2  # that a term must be said of
    most_terms: int = 8_192
    linked_weight: float = 0.0  # items whose interactions weigh no more are linked to: those nobody touched

    def __post_init__(self) -> None:
        if not 0 <= self.dimension <= 256 or self.least_items < 1 or self.most_terms < 1:
            raise ValueError(f"dimension 0 to 256, least_items and most_terms at least 1, got {self}")
        if self.linked_weight < 0:
            raise ValueError(f"linked_weight: wanted 0 or more, got {self.linked_weight}")


def fit_content(
    items: ItemArrays, catalogue: Sequence[Item], settings: ContentSettings, rng: np.random.Generator
) -> ItemContent | None:
    """Learn from a catalogue what is said of items.

    Parameters
    ----------
    items
        n, in the order of the bundle; those that the catalogue does not have are like nothing.
    catalogue
        As known before the cut.
    settings
        How.
    rng
        Of the range finder.

    Returns
    -------
    None where the catalogue says too little: fewer terms than dimensions.
    """
    known = {item.item_id: item for item in catalogue}
    words = [words_of(known[name]) if name in known else [] for name in items.item_ids]
    said_of = Counter(chain.from_iterable(map(set, words)))
    common = sorted((-count, term) for term, count in said_of.items() if count >= settings.least_items)
    terms = sorted(term for _, term in common[: settings.most_terms])
    if not settings.dimension or len(terms) <= settings.dimension or len(words) <= settings.dimension:
        return None
    counts = np.array([said_of[term] for term in terms], np.float64)
    idf = (np.log((1.0 + len(words)) / (1.0 + counts)) + 1.0).astype(np.float32)
    empty = np.zeros((len(terms), settings.dimension), np.float32)
    weights = _matrix(ContentVocabulary.of(terms, idf, empty), words)
    with threadpool_limits(limits=1):  # so that sums have one order, and equal data give equal files
        components = _components(weights, settings.dimension, rng).astype(np.float32)
        vectors = unit_vectors(np.asarray(weights @ components.astype(np.float64)))
        links = _links(vectors, items.popularity, settings.linked_weight)
    return ItemContent(ContentVocabulary.of(terms, idf, components), vectors, ContentTable.of(links))


def _matrix(vocabulary: ContentVocabulary, words: Sequence[Sequence[str]]) -> scipy.sparse.csr_matrix:
    """Return each item's weights, float64 (n, v)."""
    rows = [vocabulary.weights(said) for said in words]
    starts = np.append(0, np.cumsum([len(row) for row in rows]))
    pairs = list(chain.from_iterable(rows))
    columns = np.array([column for column, _ in pairs], np.int32)
    values = np.array([value for _, value in pairs], np.float64)
    return scipy.sparse.csr_matrix((values, columns, starts), shape=(len(words), len(vocabulary.terms)))


def _components(
    weights: scipy.sparse.csr_matrix, dimension: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Return the first right singular vectors, float64 (v, e), each with its largest entry above 0."""
    sample = weights @ rng.standard_normal((weights.shape[1], dimension + _OVERSAMPLED))
    for _ in range(_POWER_STEPS):
        basis, _ = np.linalg.qr(sample)
        sample = weights @ (weights.T @ basis)
    basis, _ = np.linalg.qr(sample)
    _, _, right = np.linalg.svd(np.asarray(weights.T @ basis).T, full_matrices=False)
    right = right[:dimension]
    signs = np.sign(right[np.arange(dimension), np.abs(right).argmax(axis=1)])
    result: npt.NDArray[np.float64] = (right * np.where(signs == 0, 1.0, signs)[:, None]).T
    return np.ascontiguousarray(result)


def _links(
    vectors: npt.NDArray[np.float32], popularity: npt.NDArray[np.float32], linked_weight: float
) -> ItemLinks:
    """Link each item with the little known ones most like it; of equally alike ones the popular come first.

    What users did says more of the others than their words do: links to all cost Online Retail's lists a little.
    """
    targets = np.flatnonzero(popularity <= linked_weight).astype(np.int32)
    if not len(targets):
        nothing = np.zeros(len(vectors) + 1, np.int64)
        return ItemLinks(nothing, np.empty(0, np.int32), np.empty(0, np.float32))
    # Below the last decimal that counts, so it decides among equals alone.
    order = np.argsort(np.argsort(popularity[targets], kind="stable"))
    favour = order / max(len(targets), 1) * 0.5 * 10.0**-ALIKE_DECIMALS
    rows, scores, lengths = [], [], []
    for start in range(0, len(vectors), _BLOCK):
        alike = np.round(
            (vectors[start : start + _BLOCK] @ vectors[targets].T).astype(np.float64), ALIKE_DECIMALS
        )
        own = np.searchsorted(targets, np.arange(start, start + len(alike)))
        own = np.minimum(own, len(targets) - 1)
        is_target = targets[own] == np.arange(start, start + len(alike))
        alike[np.flatnonzero(is_target), own[is_target]] = 0.0
        ranked = alike + favour
        width = min(LINKS_PER_ITEM, len(targets))
        best = np.argpartition(-ranked, width - 1, axis=1)[:, :width]
        places = np.take_along_axis(
            best, np.argsort(-np.take_along_axis(ranked, best, 1), axis=1, kind="stable"), 1
        )
        found = np.take_along_axis(alike, places, axis=1)
        kept = found >= LEAST_ALIKE
        rows.append(targets[places[kept]])
        scores.append(found[kept])
        lengths.append(kept.sum(axis=1))
    offsets = np.append(0, np.cumsum(np.concatenate(lengths))).astype(np.int64)
    return ItemLinks(
        offsets, np.concatenate(rows).astype(np.int32), np.concatenate(scores).astype(np.float32)
    )
