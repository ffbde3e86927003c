"""What a batch of contributions makes of a model line, and where the line's numbers come from."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.records import EdgeModel
from schemas.refusal import Refused
from udfs.federate.contribution import Contribution
from udfs.federate.line_state import KeptRows, LineHead
from udfs.privacy.fixed_point import FixedPointSum


class LineNumbers(Protocol):
    """Where the numbers of a line are, read only when they are needed."""

    def weights(self) -> NDArray[np.float64]:
        """The newest model, float64 (d,)."""

    def sum_of(self, base_version: int) -> FixedPointSum | None:
        """The sum of what started from a version; None: there is none."""

    def kept(self, count: int) -> KeptRows:
        """The single contributions of the open cohort, `count` of them, for a rule that votes."""


class BatchStep(NamedTuple):
    """What a batch made.

    Attributes
    ----------
    head
        The next one.
    sums
        Base version to sums that changed, of the open cohort.
    weights
        The newest model; None: no version was released.
    dropped
        Base versions whose stored sums are over: their cohort is released.
    released
        Versions to publish, in order.
    refused
        Contributions that are in no sum, and why.
    counts
        Names of counters and by how much to raise them.
    kept
        Single contributions to keep with those of the open cohort, after those that are stored, or after none where a
        version was released.
    """

    head: LineHead
    sums: dict[int, FixedPointSum]
    weights: NDArray[np.float64] | None
    dropped: tuple[int, ...]
    released: tuple[EdgeModel, ...]
    refused: tuple[tuple[Contribution, Refused], ...]
    counts: dict[str, int]
    kept: KeptRows | None = None
