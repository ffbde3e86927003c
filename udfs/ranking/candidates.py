"""Candidates of users, the sources they come from, and what each may bring.

==========  ===========================================================================================
embedding   inner product of the user's vector and the item factors: all items, or inverted lists
neighbours  co-occurrence with the last 10 items, .85 a step back, summed
repeat      items the user had: repeat rate, how due they are, how much the user had to do with them
sessions    what others did in sessions like the user's last one, as of now (`live_sessions`)
trending    decayed popularity at the model's cut
popular     all-time popularity, which also fills what the others left
devices     what the last 10 items speak for, as devices have learnt it (`device_source`); only in bundles with
            such a table
content     what is like the last 10 items by what is said of it, new items among them (`content_source`); only in
            bundles with a vocabulary
sequence    what a network expects after the last 20 items (`sequence_source`); only in bundles with one
rules       what users took after items like the last 10 (`rule_source`); only in bundles with sequential rules
==========  ===========================================================================================
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.ranking.item_index import ItemIndex

RETRIEVERS = (
    "embedding",
    "neighbours",
    "repeat",
    "sessions",
    "trending",
    "popular",
    "devices",
    "content",
    "sequence",
    "rules",
)
N_RETRIEVERS = len(RETRIEVERS)
(
    EMBEDDING,
    NEIGHBOURS,
    REPEAT,
    SESSIONS,
    TRENDING,
    POPULAR,
    DEVICES,
    CONTENT,
    SEQUENCE,
    RULES,
) = range(N_RETRIEVERS)


class Candidates(NamedTuple):
    """What retrieval found for U users, at most C each, of R sources.

    `rank` counts from 1 within a source, 0: not brought by it.
    """

    counts: NDArray[np.int32]  # (U,)
    rows: NDArray[np.int32]  # (U, C)
    embedding_score: NDArray[np.float32]
    neighbour_score: NDArray[np.float32]
    neighbour_max: NDArray[np.float32]
    neighbour_hits: NDArray[np.int32]
    repeat_score: NDArray[np.float32]
    session_score: NDArray[np.float32]
    device_score: NDArray[np.float32]  # (U, 0) without a table of devices
    content_score: NDArray[np.float32]  # (U, C), zeros without a vocabulary
    sequence_score: NDArray[np.float32]  # (U, C), zeros without a network
    rule_score: NDArray[np.float32]  # (U, C), zeros without rules
    rank: NDArray[np.int16]  # (U, C, R)


def no_candidates(users: int, limit: int, with_devices: bool) -> Candidates:
    """Return room for `limit` candidates a user, none found yet."""
    shape = (users, limit)
    return Candidates(
        counts=np.zeros(users, np.int32),
        rows=np.zeros(shape, np.int32),
        embedding_score=np.zeros(shape, np.float32),
        neighbour_score=np.zeros(shape, np.float32),
        neighbour_max=np.zeros(shape, np.float32),
        neighbour_hits=np.zeros(shape, np.int32),
        repeat_score=np.zeros(shape, np.float32),
        session_score=np.zeros(shape, np.float32),
        device_score=np.zeros(shape if with_devices else (users, 0), np.float32),
        content_score=np.zeros(shape, np.float32),
        sequence_score=np.zeros(shape, np.float32),
        rule_score=np.zeros(shape, np.float32),
        rank=np.zeros((*shape, N_RETRIEVERS), np.int16),
    )


def quota(index: ItemIndex, source: int, candidates: int) -> int:
    """Return how many of a user's `candidates` a source may bring: its share; popular items fill what is left."""
    limit = min(candidates, len(index))
    return limit if source == POPULAR else int(limit * getattr(index.settings, f"share_{RETRIEVERS[source]}"))
