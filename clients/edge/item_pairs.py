"""What a device tells of items that go together: all pairs of the line's items among what its user took lately."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clients.edge.examples import Examples
from udfs.federate.pair_table import numbers_of, pair_vectors


class ItemPairs:
    """A trainer for a line of item pairs (`udfs.federate.pair_table`).

    An example is one thing that the user did: how much it counts for each of the line's items, float32 (M,). The
    delta does not depend on the model: versions add up what devices tell.

    Examples
    --------
    >>> seen = Examples(np.array([[3, 0], [0, 4]], np.float32), np.ones(2, np.float32))
    >>> ItemPairs().delta(np.zeros(3), seen).round(3).tolist()
    [0.36, 0.679, 0.64]
    """

    protects = (
        "Nothing by itself: the delta says what the user took. It has length one, so the clip changes nothing; the "
        "noise that follows protects the user."
    )

    def delta(self, weights: NDArray[np.float64], examples: Examples) -> NDArray[np.float64]:
        """Vector of length one, or of zeros where the user took none of the items.

        Raises
        ------
        ValueError
            For examples of other items than the model has numbers for.
        """
        items = examples.features.shape[1]
        if weights.shape != (numbers_of(items),):
            raise ValueError(f"wanted {numbers_of(items)} numbers for {items} items, got {weights.shape}")
        vector: NDArray[np.float64] = pair_vectors(examples.features.sum(axis=0, dtype=np.float64)[None, :])[
            0
        ]
        return vector
