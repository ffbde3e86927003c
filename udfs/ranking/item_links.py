"""What goes with an item, as tables of a bundle hold it: by content, by rules, by what devices have learnt."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class ItemLinks(NamedTuple):
    """Links of n items to others, as compressed rows.

    Attributes
    ----------
    offsets
        int64 (n + 1,)
    rows
        int32 (z,): at most 50 an item, never itself.
    scores
        float32 (z,): above 0, descending within an item.
    """

    offsets: NDArray[np.int64]
    rows: NDArray[np.int32]
    scores: NDArray[np.float32]
