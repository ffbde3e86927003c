"""Lines of the federate job whose devices encrypt: ciphertexts in, sealed sums out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from pyflink.common import Row

from flink_jobs.federate_numbers import StoredNumbers
from flink_jobs.federate_secure import count_step, in_order, refusal_row, told_row
from udfs.federate.contribution import SecurePacket
from udfs.federate.encrypted_line import EncryptedLogic, EncryptedState, EncryptedStep
from udfs.federate.line import LineLogic
from udfs.federate.line_settings import LineSettings
from udfs.federate.line_state import LineHead
from udfs.privacy.fixed_point import FixedPointSum

_BASE = 0
"""Where the one running sum stands among sums by base version."""


class StoredEncryption:
    """What a line whose heads are encrypted has in Flink's state.

    Parameters
    ----------
    line
        Its settings.
    heads, cohorts
        Map states: line to `LineHead`; line to which key it was begun under.
    numbers
        Has the running sum.
    """

    def __init__(self, line: LineSettings, heads: Any, cohorts: Any, numbers: StoredNumbers) -> None:
        self._line = line
        self._heads = heads
        self._cohorts = cohorts
        self._numbers = numbers

    def head(self) -> LineHead:
        """What is known of the line without its sum.

        Raises
        ------
        ValueError
            Where the line was begun in the clear, under masks or under another key.
        """
        head = LineHead.decode(self._heads.get(self._line.name))
        blob = self._cohorts.get(self._line.name)
        begun = None if blob is None else json.loads(blob).get("encryption")
        has_begun = blob is not None or head.version > 0 or head.contributions > 0
        if has_begun and begun != self._line.encryption_key:
            raise ValueError(
                f"line {self._line.name!r}: was begun under {begun or 'no encryption'}; a key is chosen with "
                "the line: give the line another name"
            )
        return head

    def read(self, head: LineHead) -> EncryptedState:
        """The line with its sum."""
        total = self._numbers.sum_of(_BASE) if head.contributions else None
        return EncryptedState(head, None if total is None else total.total.view(np.uint64))

    def write(self, after: EncryptedState) -> None:
        """Store what updates made."""
        name = self._line.name
        self._cohorts.put(name, json.dumps({"encryption": self._line.encryption_key}).encode())
        self._heads.put(name, after.head.encode())
        if after.total is None:
            self._numbers.put_sums({}, (_BASE,))
        else:
            total = FixedPointSum(after.head.contributions, after.total.view(np.int64))
            self._numbers.put_sums({_BASE: total}, ())


def encrypted_rows(
    logic: LineLogic,
    stored: StoredEncryption,
    packets: list[SecurePacket],
    clock_ms: int,
    counts: dict[str, int],
) -> Iterator[Row]:
    """Add ciphertexts in the order of (time, partition, offset), then let time pass.

    Parameters
    ----------
    counts
        Counters of the shard, which are raised.
    """
    encrypted, head = EncryptedLogic(logic), stored.head()
    if not packets and not encrypted.is_overdue(head, clock_ms):
        return
    state = stored.read(head)
    for packet, update in in_order(packets):
        step = encrypted.on_update(state, update, packet.at_ms)
        state = step.state
        if step.refused is not None:
            yield refusal_row(packet, update, step.refused)
        yield from _rows(step, counts)
    step = encrypted.on_time(state, clock_ms)
    yield from _rows(step, counts)
    stored.write(step.state)


def _rows(step: EncryptedStep, counts: dict[str, int]) -> Iterator[Row]:
    for told in step.sealed:
        yield told_row(told)
    count_step(step.counts, step.refused, counts)
