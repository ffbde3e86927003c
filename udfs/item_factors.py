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

    Parameters
    ----------
    factors, gram, alpha, regularization
        See `ItemFactors`.
    rows, weights
        (total,): the users' items one user after the other; rows below 0 are unknown.
    offsets
        (B + 1,): user b has ``rows[offsets[b]:offsets[b + 1]]``.

    Returns
    -------
    vectors
        float32 (B, d); zeros for a user without a known item of positive weight.
    """
    users, dim = len(offsets) - 1, factors.shape[1]
    longest = 0
    for user in range(users):
        longest = max(longest, offsets[user + 1] - offsets[user])
    result = np.zeros((users, dim), np.float32)
    known = np.empty(longest, np.int64)
    beyond_one = np.empty(longest + 3)
    items = np.empty((longest + 3, dim))
    matrix = np.empty((dim, dim))
    vector = np.empty(dim)
    for user in range(users):
        start, stop = offsets[user], offsets[user + 1]
        count = _merge_repeats(rows[start:stop], weights[start:stop], known, beyond_one)
        if count == 0:
            continue
        vector[:] = 0.0
        for k in range(count):
            beyond_one[k] *= alpha
            for j in range(dim):
                items[k, j] = factors[known[k], j]
                vector[j] += (1.0 + beyond_one[k]) * items[k, j]
        padded = (count + 3) // 4 * 4
        beyond_one[count:padded] = 0.0
        items[count:padded] = 0.0
        _factorise(gram, items, beyond_one, padded, regularization, matrix)
        _solve(matrix, vector)
        for j in range(dim):
            result[user, j] = vector[j]
    return result


@kernel
def _merge_repeats(
    rows: NDArray[np.int64],
    weights: NDArray[np.float32],
    known: NDArray[np.int64],
    total: NDArray[np.float64],
) -> int:
    """Write each known item once with the sum of its weights, the positive ones first; return how many."""
    count = 0
    for at in range(len(rows)):
        if rows[at] < 0:
            continue
        place = 0
        while place < count and known[place] != rows[at]:
            place += 1
        if place == count:
            known[place] = rows[at]
            total[place] = 0.0
            count += 1
        total[place] += weights[at]
    kept = 0
    for place in range(count):
        if total[place] > 0.0:
            known[kept] = known[place]
            total[kept] = total[place]
            kept += 1
    return kept


@kernel
def _factorise(
    gram: NDArray[np.float32],
    items: NDArray[np.float64],
    beyond_one: NDArray[np.float64],
    padded: int,
    regularization: float,
    upper: NDArray[np.float64],
) -> None:
    """Write the Cholesky factor U of ``U^T U = gram + items^T diag(beyond_one) items + reg I``, row by row.

    Inner loops run along rows and take four terms at a time: vector instructions without regrouping a sum,
    and a third of the time of the plain triple loop (35 against 100 microseconds for 50 items, d = 64).
    """
    for i in range(len(upper)):
        row = upper[i, i:]
        for j in range(len(row)):
            row[j] = gram[i, i + j]
        row[0] += regularization
        for k in range(0, padded, 4):
            a, b = beyond_one[k] * items[k, i], beyond_one[k + 1] * items[k + 1, i]
            c, d = beyond_one[k + 2] * items[k + 2, i], beyond_one[k + 3] * items[k + 3, i]
            w, x, y, z = items[k, i:], items[k + 1, i:], items[k + 2, i:], items[k + 3, i:]
            for j in range(len(row)):
                row[j] += a * w[j] + b * x[j] + c * y[j] + d * z[j]
        fours = i // 4 * 4
        for k in range(0, fours, 4):
            a, b, c, d = upper[k, i], upper[k + 1, i], upper[k + 2, i], upper[k + 3, i]
            w, x, y, z = upper[k, i:], upper[k + 1, i:], upper[k + 2, i:], upper[k + 3, i:]
            for j in range(len(row)):
                row[j] -= a * w[j] + b * x[j] + c * y[j] + d * z[j]
        for k in range(fours, i):
            a, w = upper[k, i], upper[k, i:]
            for j in range(len(row)):
                row[j] -= a * w[j]
        scale = 1.0 / np.sqrt(row[0])
        for j in range(len(row)):
            row[j] *= scale


@kernel
def _solve(upper: NDArray[np.float64], vector: NDArray[np.float64]) -> None:
    """Replace b by x of ``U^T U x = b``."""
    dim = len(vector)
    for i in range(dim):
        row, rest = upper[i, i:], vector[i:]
        value = rest[0] / row[0]
        for j in range(len(row)):
            rest[j] -= value * row[j]
        rest[0] = value
    for back in range(dim):
        i = dim - 1 - back
        value = vector[i]
        for j in range(i + 1, dim):
            value -= upper[i, j] * vector[j]
        vector[i] = value / upper[i, i]


if MAX_INTERACTIONS < FOLD_IN_FROM:
    raise AssertionError("a state holds enough interactions to be folded in")
