"""Nearest items by inner product in catalogues too large to score whole: inverted lists over k-means cells.

The lists are plain arrays of the bundle, searched by our own kernel: 16 lists of some 100 items cost less
than one call of a library, a query's result cannot depend on the queries beside it, and no native parser reads
a file. FAISS makes the cells, once, where the model is trained.

Source: Sivic and Zisserman, ICCV 2003 (inverted files); Douze et al., "The Faiss library", 2024 (IVF-Flat).
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.model.manifest import NPROBE
from udfs.ranking.inner_product import GROUPS, best_scores, padded_columns, reaching, score_all
from udfs.ranking.top_k import order_key, row_of_key, sort_top

RECALL_AT = 80
RECALL_QUERIES = 500
MEAN_OF = 3  # items whose mean is a query when recall is measured: user vectors lie between items


class InvertedLists(NamedTuple):
    """Cells of n items: m centroids float32 (m, d), and list c is ``rows[offsets[c]:offsets[c + 1]]``."""

    centroids: NDArray[np.float32]
    offsets: NDArray[np.int64]  # (m + 1,)
    rows: NDArray[np.int32]  # (n,), each once


class ListColumns(NamedTuple):
    """Inverted lists as the kernel reads them; all empty for a catalogue that is scored whole.

    `centroids` float32 (d, padded m); `factors` float32 (n * d,) holds each list's factors as (d, its length).
    """

    centroids: NDArray[np.float32]
    bias: NDArray[np.float32]  # (padded m,): 0, padding -inf
    offsets: NDArray[np.int64]
    rows: NDArray[np.int32]
    factors: NDArray[np.float32]


def build_ivf(
    factors: NDArray[np.float32], nlist: int | None = None, nprobe: int = NPROBE, seed: int = 0
) -> tuple[InvertedLists, float]:
    """Cut items into cells, and measure what searching some of them finds.

    Parameters
    ----------
    factors
        float32 (n, d)
    nlist
        Cells; None takes 2 * sqrt(n).
    nprobe
        Cells searched when measuring; the manifest's settings must name the same.
    seed
        Of k-means and of the queries.

    Returns
    -------
    tuple
        The lists, and recall at 80: of the true 80 best the share found, over 500 means of three items.
    """
    import faiss  # of the training extra; serving needs only the arrays

    n, dimension = factors.shape
    cells = nlist or max(1, int(2 * n**0.5))
    means: Any = faiss.Kmeans(
        dimension, cells, niter=15, seed=seed + 1, spherical=True, min_points_per_centroid=1
    )
    means.train(factors)
    of_item = np.argmax(factors @ means.centroids.T, axis=1)
    rows = np.argsort(of_item, kind="stable").astype(np.int32)
    sizes = np.bincount(of_item, minlength=cells)
    lists = InvertedLists(means.centroids.copy(), np.append(0, np.cumsum(sizes)).astype(np.int64), rows)
    return lists, measure_recall(factors, lists, nprobe, seed)


def measure_recall(factors: NDArray[np.float32], lists: InvertedLists, nprobe: int, seed: int) -> float:
    """Return of the true 80 best items the share that `nprobe` lists hold."""
    rng = np.random.default_rng(seed)
    columns, n = list_columns(lists, factors), len(factors)
    allowed, excluded = np.ones(n, np.bool_), np.zeros(n, np.int32)
    keys = np.empty(n + columns.centroids.shape[1] + 1, np.uint64)
    buffer = np.empty(columns.centroids.shape[1] + n + GROUPS, np.float32)
    count, found = min(RECALL_AT, n), 0
    for _ in range(RECALL_QUERIES):
        query = factors[rng.choice(n, min(MEAN_OF, n), replace=False)].mean(axis=0)
        search_lists(query, columns, len(lists.centroids), count, allowed, excluded, 1, buffer, keys)
        best = keys[:count].copy()
        got = search_lists(query, columns, nprobe, count, allowed, excluded, 1, buffer, keys)
        found += len(np.intersect1d(best, keys[:got]))
    return found / (count * RECALL_QUERIES)


def list_columns(lists: InvertedLists | None, factors: NDArray[np.float32]) -> ListColumns:
    """Arrange lists for `search_lists`; None gives empty columns."""
    dimension = factors.shape[1]
    if lists is None:
        return ListColumns(
            np.zeros((dimension, 0), np.float32),
            np.zeros(0, np.float32),
            np.zeros(1, np.int64),
            np.zeros(0, np.int32),
            np.zeros(0, np.float32),
        )
    centroids = padded_columns(lists.centroids)
    bias = np.full(centroids.shape[1], -np.inf, np.float32)
    bias[: len(lists.centroids)] = 0.0
    parts = [
        factors[lists.rows[start:stop]].T.ravel()
        for start, stop in zip(lists.offsets[:-1], lists.offsets[1:], strict=True)
    ]
    return ListColumns(centroids, bias, lists.offsets, lists.rows, np.concatenate(parts))


@kernel(fastmath={"contract"})
def _score_list(
    vector: NDArray[np.float32], factors: NDArray[np.float32], size: int, scores: NDArray[np.float32]
) -> None:
    """Score one list's items in the order of `score_one`: factors float32 (d * size,), a row a dimension."""
    out = scores[:size]
    for at in range(size):
        out[at] = np.float32(0.0)
    for j in range(len(factors) // size):
        weight = vector[j]
        row = factors[j * size : (j + 1) * size]
        for at in range(size):
            out[at] += weight * row[at]


@kernel
def search_lists(
    vector: NDArray[np.float32],
    lists: ListColumns,
    nprobe: int,
    k: int,
    allowed: NDArray[np.bool_],
    excluded: NDArray[np.int32],
    stamp: int,
    scores: NDArray[np.float32],
    keys: NDArray[np.uint64],
) -> int:
    """Put the keys of the `k` best allowed items of the `nprobe` best lists first in `keys`; return how many.

    Parameters
    ----------
    vector
        float32 (d,) or longer
    allowed, excluded, stamp
        bool (n,), int32 (n,): an item is left out where ``excluded[row] == stamp``.
    scores
        float32 (at least padded m, and n + `GROUPS`): room
    keys
        uint64 (at least n + padded m + 1,): room
    """
    score_all(vector, lists.centroids, lists.bias, scores)
    probed = best_scores(scores[: lists.centroids.shape[1]], nprobe, keys)
    dimension = lists.centroids.shape[0]
    cells = np.empty(probed, np.int64)
    total = 0
    for probe in range(probed):
        cells[probe] = row_of_key(keys[probe])
        total += lists.offsets[cells[probe] + 1] - lists.offsets[cells[probe]]
    rows = np.empty(total, np.int32)
    end = 0
    for cell in cells:
        start, stop = lists.offsets[cell], lists.offsets[cell + 1]
        if start == stop:
            continue
        _score_list(vector, lists.factors[start * dimension : stop * dimension], stop - start, scores[end:])
        for at in range(start, stop):
            row = lists.rows[at]
            rows[end] = row
            if not allowed[row] or excluded[row] == stamp:
                scores[end] = -np.inf
            end += 1
    padded = -(-end // GROUPS) * GROUPS
    scores[end:padded] = -np.inf
    found = reaching(scores[:padded], k, keys)
    for at in range(found):
        place = int(keys[at])
        keys[at] = order_key(scores[place], rows[place])
    sort_top(keys, found, k)
    return min(found, k)
