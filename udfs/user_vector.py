"""The user's vector in the state: made for one model epoch from the last interactions."""

import numpy as np
from numpy.typing import NDArray

from udfs.item_factors import FOLD_IN_FROM, INTERACTION_WEIGHTS, ItemFactors
from udfs.user_state import FOLDED_IN, UserState

_F16_MAX = 65504.0


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
    flags, vector = _vector(state, factors)
    packed = np.clip(vector, -_F16_MAX, _F16_MAX).astype("<f2").tobytes()
    return state._replace(flags=state.flags & ~FOLDED_IN | flags, embedding_epoch=epoch, embedding=packed)


def _vector(state: UserState, factors: ItemFactors) -> tuple[int, NDArray[np.float32]]:
    rows = factors.rows_of(np.frombuffer(state.item_hashes, "<u8"))
    weights = INTERACTION_WEIGHTS[np.frombuffer(state.item_types, np.uint8)]
    known = rows[(rows >= 0) & (weights > 0)]
    if len(known) >= FOLD_IN_FROM:
        return FOLDED_IN, factors.fold_in(rows, weights)
    if len(known):
        return 0, np.asarray(factors.factors[known].mean(axis=0))
    return 0, np.empty(0, np.float32)
