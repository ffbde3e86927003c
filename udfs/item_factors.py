"""A model's item vectors, and the user vector that fits a user's recent items best.

A user's vector is not trained: it is the exact least-squares solution of implicit-feedback ALS for the items
of the last interactions, so a click changes it at once and a new model epoch only needs a refold.

Source: Hu, Koren, Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008, equation 4.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.user_state import MAX_DIM, MAX_INTERACTIONS

INTERACTION_WEIGHTS: Final = np.array([0, 1, 1, 3, 0, 5, 0, 0, 0, 0], np.float32)
"""Implicit weight by index in `EVENT_TYPES`; 0: says nothing for the item."""
FOLD_IN_FROM: Final = 5
"""Interactions with known items from which a user is folded in; fewer give the mean of the last five."""


class ItemFactors:
    """The item side of one model epoch, rows sorted by item hash. Arrays may be memory-mapped.

    Parameters
    ----------
    hashes
        uint64 (n,), ascending, each once.
    factors
        float32 (n, d), d at most 64.
    gram
        float32 (d, d): ``factors.T @ factors``.
    category
        uint32 (n,): category hashes, 0 for none.
    alpha
        Confidence of an item is ``1 + alpha * weight``.
    regularization
        Added to the diagonal.
    """

    def __init__(
        self,
        hashes: NDArray[np.uint64],
        factors: NDArray[np.float32],
        gram: NDArray[np.float32],
        category: NDArray[np.uint32],
        alpha: float = 1.0,
        regularization: float = 0.01,
    ) -> None:
        n, dim = factors.shape
        if dim > MAX_DIM or hashes.shape != (n,) or category.shape != (n,) or gram.shape != (dim, dim):
            raise ValueError(
                f"item factors: wanted hashes (n,), factors (n, d <= {MAX_DIM}), gram (d, d), category (n,); "
                f"got {hashes.shape}, {factors.shape}, {gram.shape}, {category.shape}"
            )
        if n > 1 and not bool(np.all(hashes[1:] > hashes[:-1])):
            raise ValueError("item factors: hashes must ascend, each once; sort the rows by item hash")
        self.hashes = np.ascontiguousarray(hashes, np.uint64)
        self.factors = np.ascontiguousarray(factors, np.float32)
        self.gram = np.ascontiguousarray(gram, np.float32)
        self.category = np.ascontiguousarray(category, np.uint32)
        self.alpha = alpha
        self.regularization = regularization
        # A Python int from a memoryview is 20 times cheaper than a NumPy scalar, and hashes are uniform:
        # their top bits tell where to look.
        bits = max(n.bit_length() - 1, 0)
        self._shift = 64 - bits
        edges = np.arange(1 << bits, dtype=np.uint64) << np.uint64(self._shift % 64)
        self._starts = _view(np.append(np.searchsorted(self.hashes, edges), n))
        self._hash_view = _view(self.hashes)
        self._category_view = _view(self.category)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.factors.shape[1])

    def row_of(self, item_hash: int) -> int:
        """Return the row of an item, -1 for an unknown one."""
        bucket = item_hash >> self._shift
        at = bisect_left(self._hash_view, item_hash, self._starts[bucket], self._starts[bucket + 1])
        if at < len(self._hash_view) and self._hash_view[at] == item_hash:
            return at
        return -1

    def category_of(self, item_hash: int) -> int | None:
        """Return the category hash of an item, 0 for none; None for an unknown item."""
        row = self.row_of(item_hash)
        return None if row < 0 else self._category_view[row]

    def rows_of(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the rows of many items, (m,), -1 for unknown ones."""
        if not len(self.hashes):
            return np.full(len(hashes), -1)
        rows = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[rows] == hashes, rows, -1)

    def fold_in(self, rows: NDArray[np.int64], weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the vector of one user, float32 (d,), see `fold_in_user`."""
        offsets = np.array([0, len(rows)])
        vectors = fold_in_rows(
            self.factors, self.gram, rows, weights, offsets, self.alpha, self.regularization
        )
        return np.asarray(vectors[0])


def _view(values: NDArray[Any]) -> memoryview:
    return memoryview(values)  # type: ignore[arg-type]  # NumPy declares no buffer on 3.11


def fold_in_user(
    factors: NDArray[np.float32],
    gram: NDArray[np.float32],
    rows: Sequence[int] | NDArray[np.int64],
    weights: Sequence[float] | NDArray[np.float32],
    alpha: float,
    regularization: float,
) -> NDArray[np.float32]:
    """Return the vector that minimises the implicit-feedback loss of one user: the readable reference.

    Weights of an item that comes several times are summed; an item whose sum is not positive is left out.

    Parameters
    ----------
    factors, gram
        float32 (n, d) and (d, d), see `ItemFactors`.
    rows, weights
        (m,): items by row, and what was done with them. Rows below 0 are unknown and left out.
    alpha, regularization
        See `ItemFactors`.

    Returns
    -------
    vector
        float32 (d,); zeros when nothing is left.

    Examples
    --------
    >>> factors = np.eye(2, dtype=np.float32)
    >>> fold_in_user(factors, factors.T @ factors, [0], [1.0], alpha=1.0, regularization=0.0)
    array([1., 0.], dtype=float32)
    """
    total: dict[int, float] = {}
    for row, weight in zip(rows, weights, strict=True):
        if row >= 0:
            total[int(row)] = total.get(int(row), 0.0) + float(weight)
    total = {row: weight for row, weight in total.items() if weight > 0}
    if not total:
        return np.zeros(factors.shape[1], np.float32)
    liked = factors[list(total)].astype(np.float64)
    beyond_one = alpha * np.array(list(total.values()))
    matrix = gram + liked.T @ (liked * beyond_one[:, None]) + regularization * np.eye(factors.shape[1])
    return np.linalg.solve(matrix, liked.T @ (1.0 + beyond_one)).astype(np.float32)


@kernel
def fold_in_rows(
    factors: NDArray[np.float32],
    gram: NDArray[np.float32],
    rows: NDArray[np.int64],
    weights: NDArray[np.float32],
    offsets: NDArray[np.int64],
    alpha: float,
    regularization: float,
) -> NDArray[np.float32]:
    """Return `fold_in_user` of many users. Each is solved alone: the grouping into batches changes no bit.

    Cholesky factorisation in float64, written so that inner loops run along rows: the compiler may then use
    vector instructions without regrouping a sum.

    Parameters
    ----------
    rows, weights
        (total,): the users' items one user after the other.
    offsets
        (B + 1,): user b has ``rows[offsets[b]:offsets[b + 1]]``.

    Returns
    -------
    vectors
        float32 (B, d).
    """
    users, dim = len(offsets) - 1, factors.shape[1]
    result = np.zeros((users, dim), np.float32)
    matrix = np.empty((dim, dim))
    vector = np.empty(dim)
    item = np.empty(dim)
    for user in range(users):
        start, stop = offsets[user], offsets[user + 1]
        for i in range(dim):
            vector[i] = 0.0
            for j in range(i, dim):
                matrix[i, j] = gram[i, j]
            matrix[i, i] += regularization
        some = False
        for at in range(start, stop):
            row = rows[at]
            weight = 0.0
            first = row >= 0
            for other in range(start, stop):
                if rows[other] == row:
                    weight += weights[other]
                    if other < at:
                        first = False
            if not first or weight <= 0.0:
                continue
            some = True
            beyond_one = alpha * weight
            for j in range(dim):
                item[j] = factors[row, j]
            for i in range(dim):
                vector[i] += (1.0 + beyond_one) * item[i]
                scaled = beyond_one * item[i]
                for j in range(i, dim):
                    matrix[i, j] += scaled * item[j]
        if not some:
            continue
        for k in range(dim):  # matrix = U^T U, and U^T z = vector on the way
            root = 1.0 / np.sqrt(matrix[k, k])
            for j in range(k, dim):
                matrix[k, j] *= root
            vector[k] *= root
            for i in range(k + 1, dim):
                scaled = matrix[k, i]
                vector[i] -= scaled * vector[k]
                for j in range(i, dim):
                    matrix[i, j] -= scaled * matrix[k, j]
        for back in range(dim):  # U x = z
            i = dim - 1 - back
            value = vector[i]
            for j in range(i + 1, dim):
                value -= matrix[i, j] * vector[j]
            vector[i] = value / matrix[i, i]
        for i in range(dim):
            result[user, i] = vector[i]
    return result


if MAX_INTERACTIONS < FOLD_IN_FROM:
    raise AssertionError("a state holds enough interactions to be folded in")
