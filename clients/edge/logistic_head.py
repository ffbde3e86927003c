"""Trains a small head on the device, with NumPy alone."""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from clients.edge.examples import Examples

MAX_DIMENSION: Final = 256


class Trainer(Protocol):
    """What learns from a device's examples."""

    protects: str
    """What training alone protects, for people."""

    def delta(self, weights: NDArray[np.float64], examples: Examples) -> NDArray[np.float64]:
        """Change of the weights (d,) after training on the examples; nothing of it may leave without noise."""


class LogisticHead:
    """Logistic regression by gradient descent over all examples: p = sigmoid(x · w).

    A constant feature is an intercept. The same weights and examples give the same delta.

    Parameters
    ----------
    epochs
        Steps over all examples.
    learning_rate
        Of each step.
    l2
        Pull toward the weights that training started from, so that few examples do not carry a model away.
    """

    protects = (
        "Nothing by itself: the delta is a function of the user's examples. The whole delta is clipped and gets "
        "noise afterwards, which protects the user, not single examples."
    )

    def __init__(self, epochs: int = 5, learning_rate: float = 0.5, l2: float = 0.01) -> None:
        self._epochs = epochs
        self._learning_rate = learning_rate
        self._l2 = l2

    def delta(self, weights: NDArray[np.float64], examples: Examples) -> NDArray[np.float64]:
        """Change of the weights after training.

        Parameters
        ----------
        weights
            float64 (d,), d at most `MAX_DIMENSION`.

        Raises
        ------
        ValueError
            For another dimension than the examples', or none of them.
        """
        count, dimension = examples.features.shape
        if weights.shape != (dimension,) or dimension > MAX_DIMENSION or count == 0:
            raise ValueError(
                f"wanted examples of {weights.shape[0]} features, at most {MAX_DIMENSION}; "
                f"got {count} of {dimension}"
            )
        features = examples.features.astype(np.float64)
        moved = np.zeros(dimension)
        for _ in range(self._epochs):
            errors = sigmoid(features @ (weights + moved)) - examples.labels
            moved -= self._learning_rate * (errors @ features / count + self._l2 * moved)
        return moved


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)) without overflow, (n,)."""
    probabilities: NDArray[np.float64] = 0.5 * (1.0 + np.tanh(0.5 * x))
    return probabilities
