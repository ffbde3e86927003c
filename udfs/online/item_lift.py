"""How much oftener an item is clicked than the ranker expected, where it was a candidate."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.online.fast_logs import to_logs

LIFT_FEATURES = ("log_lift", "log_expected")


@kernel
def _write(
    clicks: NDArray[np.float64],
    expected: NDArray[np.float64],
    unit: float,
    prior: float,
    rows: NDArray[np.int32],
    counts: NDArray[np.int32],
    out: NDArray[np.float32],
) -> None:
    logs = np.empty(2 * rows.shape[1], np.float32)
    for q in range(len(counts)):
        for j in range(counts[q]):
            row = rows[q, j]
            wanted = expected[row] / unit
            logs[2 * j] = (clicks[row] / unit + prior) / (wanted + prior)
            logs[2 * j + 1] = 1.0 + wanted
        to_logs(logs[: 2 * counts[q]])
        for j in range(counts[q]):
            out[q, j, 0] = logs[2 * j]
            out[q, j, 1] = logs[2 * j + 1] / 4.0


@kernel
def _learn(
    clicks: NDArray[np.float64],
    expected: NDArray[np.float64],
    unit: float,
    rows: NDArray[np.int32],
    counts: NDArray[np.int32],
    probabilities: NDArray[np.float32],
    places: NDArray[np.int32],
) -> None:
    for q in range(len(counts)):
        if places[q] < 0:
            continue
        clicks[rows[q, places[q]]] += unit
        for j in range(counts[q]):
            expected[rows[q, j]] += unit * probabilities[q, j]


class ItemLift:
    """Decayed clicks of each item, and decayed sums of the probabilities that the ranker gave it.

    An item that the ranker takes for worse than it is gets clicked oftener than expected; the ratio is a feature.

    Parameters
    ----------
    items
        Rows to make room for at once.
    prior
        Clicks, expected and seen, that every item starts with.
    half_life
        Lists after which a click counts half.

    Notes
    -----
    **State**: 16 bytes an item.
    """

    def __init__(self, items: int, prior: float = 2.0, half_life: float = 220_000.0) -> None:
        self._prior, self._growth = prior, 2.0 ** (1.0 / half_life)
        self._unit = 1.0  # what a click counts now; it grows, instead of all older ones shrinking
        self._clicks, self._expected = np.zeros((2, items), np.float64)

    def make_room(self, items: int) -> None:
        """Make room for at least so many item rows."""
        have = len(self._clicks)
        if items > have:
            more = np.zeros(max(items, have + have // 2) - have)
            self._clicks = np.concatenate([self._clicks, more])
            self._expected = np.concatenate([self._expected, more])

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all that it has counted, the arrays themselves."""
        return {"clicks": self._clicks, "expected": self._expected, "unit": np.array([self._unit])}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what `state` gave; the arrays become its own."""
        self._clicks, self._expected = state["clicks"], state["expected"]
        self._unit = float(state["unit"][0])

    def features(self, rows: NDArray[np.int32], counts: NDArray[np.int32], out: NDArray[np.float32]) -> None:
        """Write `LIFT_FEATURES` of candidates.

        Parameters
        ----------
        rows, counts
            int32 (Q, N) and (Q,): candidates.
        out
            float32 (Q, N, 2).
        """
        self.make_room(int(rows.max(initial=0)) + 1)
        _write(self._clicks, self._expected, self._unit, self._prior, rows, counts, out)

    def learn(
        self,
        rows: NDArray[np.int32],
        counts: NDArray[np.int32],
        probabilities: NDArray[np.float32],
        places: NDArray[np.int32],
    ) -> None:
        """Count what was expected and what was clicked.

        Parameters
        ----------
        rows, counts
            int32 (Q, N) and (Q,): candidates of Q lists.
        probabilities
            float32 (Q, N): of a click, as the ranker had it.
        places
            int32 (Q,): which was clicked, -1: none of them; such a list teaches nothing.
        """
        self.make_room(int(rows.max(initial=0)) + 1)
        self._unit *= self._growth ** len(counts)
        if self._unit > _LARGEST_UNIT:
            self._clicks /= self._unit
            self._expected /= self._unit
            self._unit = 1.0
        _learn(self._clicks, self._expected, self._unit, rows, counts, probabilities, places)


_LARGEST_UNIT = 1e9
