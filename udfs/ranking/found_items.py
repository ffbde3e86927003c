"""What one source found for users, before retrieval makes candidates of it."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class FoundItems(NamedTuple):
    """Items for U users, best first, at most S each.

    `rows` are those of one epoch; behind `counts` they are 0. What `score` means is the source's to say.
    """

    counts: NDArray[np.int32]  # (U,)
    rows: NDArray[np.int32]  # (U, S)
    score: NDArray[np.float32]  # (U, S)


def no_items(users: int, limit: int = 0) -> FoundItems:
    """Return that nothing is found yet, with room for `limit` items a user."""
    return FoundItems(
        np.zeros(users, np.int32), np.zeros((users, limit), np.int32), np.zeros((users, limit), np.float32)
    )
