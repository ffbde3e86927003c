"""Nearest items by inner product through FAISS inverted lists, for catalogues too large to score whole.

FAISS is asked one user at a time: from about 20 queries it switches to a matrix product whose sums depend on
the number of queries. Its scores are used to choose items only; every candidate is scored again by our own
kernel, so that a list is the same whoever was ranked with it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

RECALL_AT = 80
RECALL_QUERIES = 500


class IvfIndex:
    """A loaded index.

    Parameters
    ----------
    serialised
        What `build_ivf` returned.
    items, dimension
        What it must hold.
    nprobe
        Lists searched a query.

    Raises
    ------
    ValueError
        For an index of another size.
    """

    def __init__(self, serialised: bytes, items: int, dimension: int, nprobe: int) -> None:
        faiss = _faiss()
        self._index: Any = faiss.deserialize_index(np.frombuffer(serialised, np.uint8))
        if self._index.ntotal != items or self._index.d != dimension:
            got = (self._index.ntotal, self._index.d)
            raise ValueError(f"IVF index: wanted {items} items of {dimension}, got {got[0]} of {got[1]}")
        self._parameters: Any = faiss.SearchParametersIVF(nprobe=nprobe)

    def search(self, vector: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """Return the rows nearest to one vector.

        Parameters
        ----------
        vector
            float32 (d,)
        count
            Rows wanted.

        Returns
        -------
        int64 (count,), best first; -1 where the searched lists hold fewer.
        """
        rows: NDArray[np.int64] = self._index.search(vector[None, :], count, params=self._parameters)[1][0]
        return rows


def build_ivf(
    factors: NDArray[np.float32], nlist: int | None = None, nprobe: int = 8, seed: int = 0
) -> tuple[bytes, float]:
    """Build an index and measure it.

    Parameters
    ----------
    factors
        float32 (n, d)
    nlist
        Lists; None takes 4 * sqrt(n).
    nprobe
        Lists searched when measuring; the manifest must name the same.
    seed
        Of k-means and of the queries.

    Returns
    -------
    tuple
        The serialised index, and recall at 80: of the true 80 best, the share found, over 500 items'
        own factors as queries.
    """
    faiss = _faiss()
    n, dimension = factors.shape
    lists = nlist or max(1, int(4 * n**0.5))
    quantizer = faiss.IndexFlatIP(dimension)
    index = faiss.IndexIVFFlat(quantizer, dimension, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = seed + 1
    index.cp.min_points_per_centroid = 1
    index.train(factors)
    index.add(factors)
    content = faiss.serialize_index(index).tobytes()
    loaded = IvfIndex(content, n, dimension, nprobe)
    queries = np.random.default_rng(seed).choice(n, min(RECALL_QUERIES, n), replace=False)
    count = min(RECALL_AT, n)
    found = 0
    for query in queries:
        scores = factors @ factors[query]
        best = np.argpartition(-scores, count - 1)[:count]
        found += len(np.intersect1d(best, loaded.search(factors[query], count)))
    return content, found / (count * len(queries))


def _faiss() -> Any:
    """Import FAISS where it is used: a catalogue that is scored whole needs none."""
    import faiss

    return faiss
