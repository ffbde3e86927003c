"""Sequential rules of a bundle: what users took soon after an item."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class RuleTable(NamedTuple):
    """What followed an item, as compressed rows of n items.

    Attributes
    ----------
    offsets
        int64 (n + 1,)
    rows
        int32 (r,): at most 50 an item, never itself.
    scores
        float32 (r,): share of all that followed, above 0, descending within an item.
    """

    offsets: NDArray[np.int64]
    rows: NDArray[np.int32]
    scores: NDArray[np.float32]
