"""Histories cut into pieces that a sequential network learns from, and the items that it gets to know."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_export.interactions import Interactions
from udfs.ranking.sequence_network import LENGTH

MAX_EVENTS = 1_000
"""Newest of a user that are learnt from: a wholesaler or a bot does not decide."""


class Pieces(NamedTuple):
    """Runs of users' interactions.

    Attributes
    ----------
    tokens
        int32 (p, 21): places of the items plus 1, in order of time, 0 behind the last. Each but the first is
        predicted from those before it; the pieces of one user overlap by that one.
    rows
        int32 (v,): the items' rows, ascending.
    """

    tokens: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int32]


def cut_pieces(data: Interactions, most_items: int, least_events: int) -> Pieces:
    """Cut every user's history, known items alone.

    Parameters
    ----------
    data
        Interactions before the cut.
    most_items
        That become known: those with the most interactions.
    least_events
        Interactions of a known item.

    Examples
    --------
    >>> ones = np.ones(4, np.float32)
    >>> numbers = np.zeros(4, np.int32)
    >>> data = Interactions(numbers, np.array([5, 3, 5, 1], np.int32), np.arange(4), ones, numbers, 1, 6)
    >>> pieces = cut_pieces(data, most_items=2, least_events=1)
    >>> pieces.rows.tolist(), pieces.tokens[0, :4].tolist()
    ([1, 5], [2, 2, 1, 0])
    """
    counts = np.bincount(data.items, minlength=data.n_items)
    best = np.argsort(-counts, kind="stable")[:most_items]
    rows = np.sort(best[counts[best] >= max(least_events, 1)]).astype(np.int32)
    tokens = np.zeros(data.n_items, np.int32)
    tokens[rows] = np.arange(1, len(rows) + 1)
    order = np.lexsort((np.arange(len(data)), data.times_ms, data.users))
    order = order[tokens[data.items[order]] > 0]
    users, items = data.users[order], tokens[data.items[order]]
    return Pieces(pieces_of(users, items), rows)


def pieces_of(users: npt.NDArray[np.int64], tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return int32 (p, 21), as in `Pieces`, of interactions (n,) that stand by user and time."""
    if not len(users):
        return np.zeros((0, LENGTH + 1), np.int32)
    edges = np.flatnonzero(np.diff(users)) + 1
    starts, ends = np.concatenate([[0], edges]), np.concatenate([edges, [len(users)]])
    starts = np.maximum(starts, ends - MAX_EVENTS)
    counts = np.maximum(-(-(ends - starts - 1) // LENGTH), 0)  # none of a user with a single interaction
    of = np.repeat(np.arange(len(starts)), counts)
    first = np.cumsum(counts) - counts
    begin = starts[of] + LENGTH * (np.arange(len(of)) - first[of])
    place = begin[:, None] + np.arange(LENGTH + 1)
    inside = place < ends[of][:, None]
    return np.where(inside, tokens[np.minimum(place, len(tokens) - 1)], 0).astype(np.int32)
