"""What a device has seen, on its own disk: examples are appended, and read on from where the last training ended."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Examples(NamedTuple):
    """Some examples.

    Attributes
    ----------
    features
        float32 (n, d).
    labels
        float32 (n,): 0 or 1.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.float32]


class ExampleSource(Protocol):
    """Whatever holds a device's examples in the order in which they came."""

    def since(self, place: int) -> tuple[Examples, int]:
        """Examples from a place on, and the place behind the last."""


class ExampleLog:
    """Examples in one file: d features and a label each, float32, little endian.

    Parameters
    ----------
    path
        Made on the first `append`. A half-written example at the end, as a power cut leaves it, is cut off.
    dimension
        d.
    """

    def __init__(self, path: Path, dimension: int) -> None:
        self._path = path
        self._dimension = dimension

    def append(self, features: NDArray[np.float32], labels: NDArray[np.float32]) -> None:
        """Keep examples (n, d) with labels (n,).

        Raises
        ------
        ValueError
            For another d, or numbers that are not finite.
        """
        rows = np.column_stack([features, labels]).astype("<f4")
        if rows.shape[1] != self._dimension + 1 or not np.isfinite(rows).all():
            raise ValueError(
                f"examples: wanted {self._dimension} finite features a row, got {features.shape}"
            )
        with self._path.open("ab") as file:
            file.truncate(self._count() * self._row_bytes)
            file.write(rows.tobytes())
            file.flush()
            os.fsync(file.fileno())

    def since(self, place: int) -> tuple[Examples, int]:
        """Examples from a place on, and the place behind the last."""
        count = self._count()
        if place >= count:
            return Examples(np.zeros((0, self._dimension), np.float32), np.zeros(0, np.float32)), count
        rows = np.fromfile(
            self._path, "<f4", (count - place) * (self._dimension + 1), offset=place * self._row_bytes
        ).reshape(-1, self._dimension + 1)
        return Examples(rows[:, :-1], rows[:, -1]), count

    @property
    def _row_bytes(self) -> int:
        return 4 * (self._dimension + 1)

    def _count(self) -> int:
        return self._path.stat().st_size // self._row_bytes if self._path.exists() else 0
