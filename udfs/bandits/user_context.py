"""What policies with contexts know of a user when a list is made: how much was seen of them, and how much bought.

In whole numbers, so that sums of contexts are the same in any order.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

LENGTH: Final = 3
UNITS: Final = 256
"""A context of 1 is so many units."""
_FULL_LOG: Final = 8.0  # log1p of 2,980: more events or purchases tell nothing more


def context_units(n_events: npt.ArrayLike, n_purchases: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return (1, log of events, log of purchases), each from 0 to 1, in units of 1 / `UNITS`.

    Parameters
    ----------
    n_events, n_purchases
        (...): counts of the user's state.

    Returns
    -------
    units
        int64 (..., 3).

    Examples
    --------
    >>> context_units([0, 50], [0, 2]).tolist()
    [[256, 0, 0], [256, 126, 35]]
    """
    counts = np.stack([np.asarray(n_events, np.float64), np.asarray(n_purchases, np.float64)], axis=-1)
    logs = np.minimum(np.log1p(counts) / _FULL_LOG, 1.0)
    units = np.rint(logs * UNITS).astype(np.int64)
    return np.concatenate([np.full((*units.shape[:-1], 1), UNITS, np.int64), units], axis=-1)
