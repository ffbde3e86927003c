"""The numbers of one model line in Flink's state: model, partial sums and kept contributions, by block.

Each value has at most 256 KiB and some bytes, whatever the model's size: RocksDB reads and writes values whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udfs.federate.batch_step import BatchStep
from udfs.federate.line_state import KeptRows, decode_sum, encode_sum
from udfs.privacy.fixed_point import FixedPointSum

BLOCK_NUMBERS = 32_768
"""Numbers in a state value, 256 KiB."""

FORMAT = 1
_BLOCK = Struct("<BxxxI")
"""Format; numbers in the whole model."""


class StoredNumbers:
    """The numbers of one line.

    Parameters
    ----------
    name, dimension
        Of the line.
    weights, sums, kept
        Map states: `NAME/START` to a block of the model; `NAME/BASE/START` to one of a partial sum; `NAME/NUMBER` to
        some single contributions of the open cohort, for a rule that votes on them; None: the line has no such rule.
    """

    def __init__(self, name: str, dimension: int, weights: Any, sums: Any, kept: Any = None) -> None:
        self._name = name
        self._dimension = dimension
        self._weights = weights
        self._sums = sums
        self._kept = kept
        self._starts = range(0, dimension, BLOCK_NUMBERS)
        self._rows_a_value = max(BLOCK_NUMBERS // (dimension + 1), 1)

    def weights(self) -> NDArray[np.float64]:
        """The newest model, float64 (d,)."""
        blocks = []
        for start in self._starts:
            block = self._weights.get(f"{self._name}/{start}") or bytes(_BLOCK.size)
            form, dimension = _BLOCK.unpack_from(block)
            if (form, dimension) != (FORMAT, self._dimension):
                raise ValueError(
                    f"line {self._name!r}: the state has a model of format {form} and {dimension} numbers, wanted "
                    f"format {FORMAT} and {self._dimension}; give the line another name"
                )
            blocks.append(np.frombuffer(block, "<f8", offset=_BLOCK.size))
        return np.concatenate(blocks)

    def put_weights(self, weights: NDArray[np.float64]) -> None:
        """Store a model."""
        head = _BLOCK.pack(FORMAT, self._dimension)
        for start in self._starts:
            block = weights[start : start + BLOCK_NUMBERS].astype("<f8").tobytes()
            self._weights.put(f"{self._name}/{start}", head + block)

    def sum_of(self, base_version: int) -> FixedPointSum | None:
        """The sum of what started from a version; None: there is none."""
        parts = []
        for start in self._starts:
            block = self._sums.get(f"{self._name}/{base_version}/{start}")
            if block is None:
                return None
            parts.append(decode_sum(block))
        return FixedPointSum(parts[0].contributions, np.concatenate([part.total for part in parts]))

    def put_sums(self, sums: Mapping[int, FixedPointSum], dropped: Iterable[int]) -> None:
        """Store sums by base version, and forget those of other versions, which are over."""
        for base in dropped:
            for start in self._starts:
                self._sums.remove(f"{self._name}/{base}/{start}")
        for base, partial in sums.items():
            for start in self._starts:
                part = FixedPointSum(partial.contributions, partial.total[start : start + BLOCK_NUMBERS])
                self._sums.put(f"{self._name}/{base}/{start}", encode_sum(part))

    def kept(self, count: int) -> KeptRows:
        """The single contributions of the open cohort, `count` of them.

        Raises
        ------
        ValueError
            Where they are not there: the line's rule was another one when its cohort was opened.
        """
        found = KeptRows.empty(self._dimension)
        for number in range(-(-count // self._rows_a_value)):
            blob = self._kept.get(f"{self._name}/{number}")
            if blob is not None:
                found = found.added(KeptRows.decode(blob))
        if len(found.bases) != count:
            raise ValueError(
                f"line {self._name!r}: wanted {count} single contributions, the state has {len(found.bases)}; a rule "
                "that votes cannot be chosen for a line whose cohort is open: give the line another name"
            )
        return found

    def keep(self, step: BatchStep, stored: int) -> None:
        """Store what a batch made.

        Parameters
        ----------
        stored
            Contributions of the cohort that was open before.
        """
        self.put_sums(step.sums, step.dropped)
        if step.weights is not None:
            self.put_weights(step.weights)
        if step.released and self._kept is not None:
            for number in range(-(-stored // self._rows_a_value)):
                self._kept.remove(f"{self._name}/{number}")
        if step.kept is not None:
            self._append(step.kept, 0 if step.released else stored)

    def _append(self, more: KeptRows, stored: int) -> None:
        """Store single contributions behind those that are stored; only the last value is written again."""
        size = self._rows_a_value
        first, within = divmod(stored, size)
        if within:
            before = KeptRows.decode(self._kept.get(f"{self._name}/{first}"))
            more = before.added(more)
        for place in range(0, len(more.bases), size):
            part = KeptRows(more.bases[place : place + size], more.units[place : place + size])
            self._kept.put(f"{self._name}/{first + place // size}", part.encode())
