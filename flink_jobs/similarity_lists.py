"""The best neighbours of many items, as the store's function takes them, written by compiled code.

`udfs.similarity.scores` says what a score is, in NumPy; a test compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flink_jobs.text_kernel import MAX_NUMBER_BYTES, Bytes, Texts, put_int, put_text
from udfs.kernel_cache import kernel
from udfs.similarity.item_counts import ItemCounts

_COUNTS: Final = Struct("<HHH")
_DOUBLE_BYTES: Final = 8
_C, _D = 99, 100


class Known(NamedTuple):
    """What the store knows of neighbours, as columns; an id of 64 bits finds the row by binary search.

    Attributes
    ----------
    keys
        uint64 (n,), ascending: item keys asked for.
    alone
        float64 (n,): `timeless` of their sessions, inf where the store does not know the item.
    ids
        Ids, empty where the store does not know the item.
    """

    keys: NDArray[np.uint64]
    alone: NDArray[np.float64]
    ids: Texts


class EncodedLists(NamedTuple):
    """What the function takes for each of n items.

    Attributes
    ----------
    shapes, pieces
        See `similarity.lua`.
    incomplete
        bool (n,): a neighbour is not known to the store.
    """

    shapes: list[bytes]
    pieces: list[bytes]
    incomplete: NDArray[np.bool_]


def encode_lists(
    items: Sequence[ItemCounts], known: Known, half_life_ms: float, list_size: int
) -> EncodedLists:
    """Choose each item's neighbours: by cosine those seen with it, by P(i|j) those bought with it.

    Parameters
    ----------
    known
        All neighbours of the items.
    half_life_ms
        Of sessions.
    list_size
        Neighbours of each kind at most.
    """
    tables = [table for counts in items for table in (counts.viewed_with, counts.bought_with)]
    ends = np.cumsum([len(table.hashes) for table in tables])
    alone = np.array([value for counts in items for value in (counts.viewed, counts.bought)])
    rows = np.searchsorted(known.keys, np.concatenate([table.hashes for table in tables]))
    best = np.zeros((len(tables), list_size), np.int64)
    scores = np.zeros((len(tables), list_size))
    sizes = np.zeros(len(tables), np.int64)
    incomplete = np.zeros(len(items), np.bool_)
    _choose(
        rows,
        np.concatenate([table.weights for table in tables]),
        np.concatenate([table.errors for table in tables]),
        ends,
        alone,
        np.array([counts.as_of_ms for counts in items]) / half_life_ms,
        known.alone,
        best,
        scores,
        sizes,
        incomplete,
    )
    longest = known.ids.longest() + _DOUBLE_BYTES
    pieces = np.empty(int(sizes.sum()) * longest, np.uint8)
    shapes = np.empty(int(sizes.sum()) * (2 + MAX_NUMBER_BYTES), np.uint8)
    piece_ends = np.zeros(len(items), np.int64)
    shape_ends = np.zeros(len(items), np.int64)
    score_bytes = scores.view(np.uint8).reshape(len(tables), list_size, _DOUBLE_BYTES)
    _write(best, score_bytes, sizes, known.ids, pieces, piece_ends, shapes, shape_ends)
    encoded = EncodedLists([], [], incomplete)
    piece_data, shape_data = pieces.tobytes(), shapes.tobytes()
    piece_at = shape_at = 0
    for number, (counts, piece_end, shape_end) in enumerate(
        zip(items, piece_ends.tolist(), shape_ends.tolist(), strict=True)
    ):
        fields = _fields(counts)
        head = _COUNTS.pack(2 * int(sizes[2 * number]), 2 * int(sizes[2 * number + 1]), len(fields))
        encoded.pieces.append(b"".join((head, piece_data[piece_at:piece_end], *fields)))
        shape = "".join([f"c{len(text)}" for text in fields]).encode()
        encoded.shapes.append(b"<HHH" + shape_data[shape_at:shape_end] + shape)
        piece_at, shape_at = piece_end, shape_end
    return encoded


def _fields(counts: ItemCounts) -> list[bytes]:
    """Give the fields of item_features: counts as of `_sim_wm`."""
    named = (
        (b"viewed", counts.viewed),
        (b"bought", counts.bought),
        (b"trend", counts.trend),
        (b"_sim_wm", counts.as_of_ms),
    )
    return [text for name, value in named for text in (name, repr(value).encode())]


@kernel
def _choose(
    rows: NDArray[np.int64],
    weights: NDArray[np.float64],
    errors: NDArray[np.float64],
    ends: NDArray[np.int64],
    alone: NDArray[np.float64],
    halved: NDArray[np.float64],
    others: NDArray[np.float64],
    best: NDArray[np.int64],
    scores: NDArray[np.float64],
    sizes: NDArray[np.int64],
    incomplete: NDArray[np.bool_],
) -> None:
    """Put the best rows of each list and their scores into `best` and `scores`, the first of equals first.

    Lists come by item: seen with it, then bought with it. `halved` is in how many half-lives since 1970.
    """
    start = 0
    for number in range(len(ends)):
        item, size = number // 2, 0
        for n in range(start, ends[number]):
            other = others[rows[n]]
            if np.isinf(other):
                incomplete[item] = True
                continue
            score = max(weights[n] - errors[n], 0.0)
            if number % 2 == 0:
                score /= np.sqrt(alone[number] * 2.0 ** (other - halved[item]))
            elif alone[number] > 0.0:
                score /= alone[number]
            else:
                score = 0.0
            if not 0.0 < score < np.inf:
                continue
            at = size
            while at > 0 and scores[number, at - 1] < score:
                at -= 1
            if at == best.shape[1]:
                continue
            size = min(size + 1, best.shape[1])
            for k in range(size - 1, at, -1):
                best[number, k], scores[number, k] = best[number, k - 1], scores[number, k - 1]
            best[number, at], scores[number, at] = rows[n], score
        sizes[number] = size
        start = ends[number]


@kernel
def _write(
    best: NDArray[np.int64],
    scores: NDArray[np.uint8],
    sizes: NDArray[np.int64],
    ids: Texts,
    pieces: Bytes,
    piece_ends: NDArray[np.int64],
    shapes: Bytes,
    shape_ends: NDArray[np.int64],
) -> None:
    """Write scores and ids in turn, and their shape: a double, and as many bytes as the id has."""
    piece, shape = 0, 0
    for number in range(len(sizes)):
        for place in range(sizes[number]):
            for k in range(_DOUBLE_BYTES):
                pieces[piece + k] = scores[number, place, k]
            row = best[number, place]
            piece = put_text(pieces, piece + _DOUBLE_BYTES, ids, row)
            shapes[shape], shapes[shape + 1] = _D, _C
            shape = put_int(shapes, shape + 2, ids.offsets[row + 1] - ids.offsets[row])
        piece_ends[number // 2], shape_ends[number // 2] = piece, shape
