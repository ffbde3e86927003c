"""The user's vector in the state: made for one model epoch from the last interactions."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from udfs.item_factors import FOLD_IN_FROM, INTERACTION_WEIGHTS, ItemFactors, fold_in_rows
from udfs.kernel_cache import kernel
from udfs.user_state import FOLDED_IN, UserState

_F16_MAX = 65504.0
_new = tuple.__new__
_FLAGS, _EPOCH, _EMBEDDING = (
    UserState._fields.index(name) for name in ("flags", "embedding_epoch", "embedding")
)


def refresh_embedding(state: UserState, factors: ItemFactors, epoch: int) -> UserState:
    """Return the state with the vector of its interactions under `factors`, tagged with `epoch`.

    From `FOLD_IN_FROM` interactions with known items on it is their fold-in; fewer give the mean of the last
    five of those items' vectors; none gives no vector.

    Parameters
    ----------
    state
        Stays as it is.
    factors
        The item side of the model of `epoch`.
    epoch
        Number of the model bundle.
    """
    return refresh_embeddings([state], factors, epoch)[0]


def refresh_embeddings(states: Sequence[UserState], factors: ItemFactors, epoch: int) -> list[UserState]:
    """Return `refresh_embedding` of each state, made together: the same bits at a fraction of the calls.

    Parameters
    ----------
    states
        Users in any order.
    factors, epoch
        As in `refresh_embedding`.
    """
    hashes = np.frombuffer(b"".join([state.item_hashes for state in states]), "<u8")
    types = np.frombuffer(b"".join([state.item_types for state in states]), np.uint8)
    offsets = np.zeros(len(states) + 1, np.int64)
    np.cumsum([len(state.item_types) for state in states], out=offsets[1:])
    rows, weights = factors.rows_of(hashes), INTERACTION_WEIGHTS[types]
    known, vectors = _vectors(
        factors.factors, factors.gram, rows, weights, offsets, factors.alpha, factors.regularization
    )
    packed = np.clip(vectors, -_F16_MAX, _F16_MAX).astype("<f2").tobytes()
    size = 2 * factors.dim
    refreshed = []
    for place, (state, count) in enumerate(zip(states, known.tolist(), strict=True)):
        fields = list(state)
        fields[_FLAGS] = state.flags & ~FOLDED_IN | (FOLDED_IN if count >= FOLD_IN_FROM else 0)
        fields[_EPOCH] = epoch
        fields[_EMBEDDING] = packed[size * place : size * (place + 1)] if count else b""
        refreshed.append(_new(UserState, fields))
    return refreshed


@kernel
def _vectors(
    factors: NDArray[np.float32],
    gram: NDArray[np.float32],
    rows: NDArray[np.int64],
    weights: NDArray[np.float32],
    offsets: NDArray[np.int64],
    alpha: float,
    regularization: float,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return how many interactions of each user say something of a known item, (B,), and the vectors, (B, d)."""
    users = len(offsets) - 1
    known = np.zeros(users, np.int64)
    folded = rows.copy()
    for user in range(users):
        start, stop = offsets[user], offsets[user + 1]
        for at in range(start, stop):
            if rows[at] >= 0 and weights[at] > 0.0:
                known[user] += 1
        if known[user] < FOLD_IN_FROM:
            folded[start:stop] = -1
    vectors = fold_in_rows(factors, gram, folded, weights, offsets, alpha, regularization)
    for user in range(users):
        if not 0 < known[user] < FOLD_IN_FROM:
            continue
        vector = vectors[user]
        for at in range(offsets[user], offsets[user + 1]):
            if rows[at] >= 0 and weights[at] > 0.0:
                for j in range(len(vector)):
                    vector[j] += factors[rows[at], j]
        for j in range(len(vector)):
            vector[j] /= np.float32(known[user])
    return known, vectors
