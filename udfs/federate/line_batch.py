"""Many contributions to one line at once: what `LineLogic` says of one after the other, at the cost of a sum.

A contribution is judged alone, by the line's head; its numbers are only stacked. They are added when a version is
due and at the end: one sum over the rows of a base version, in whole numbers, so that neither order nor batches
change a bit. State is read and written once a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.records import EdgeModel
from schemas.refusal import Refused
from udfs.federate.contribution import Contribution
from udfs.federate.line import LineLogic
from udfs.federate.line_state import DIGEST_BYTES, USER_BYTES, LineHead, LineState
from udfs.privacy.fixed_point import FixedPointSum, empty_sum
from udfs.privacy.quantise import WIDTHS


class LineNumbers(Protocol):
    """Where the numbers of a line are, read only when they are needed."""

    def weights(self) -> NDArray[np.float64]:
        """The newest model, float64 (d,)."""

    def sum_of(self, base_version: int) -> FixedPointSum | None:
        """The sum of what started from a version; None: there is none."""


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
    """

    head: LineHead
    sums: dict[int, FixedPointSum]
    weights: NDArray[np.float64] | None
    dropped: tuple[int, ...]
    released: tuple[EdgeModel, ...]
    refused: tuple[tuple[Contribution, Refused], ...]
    counts: dict[str, int]


def on_batch(
    logic: LineLogic,
    head: LineHead,
    numbers: LineNumbers,
    contributions: Sequence[Contribution],
    clock_ms: int | None = None,
) -> BatchStep:
    """Take contributions in order, then let time pass.

    Parameters
    ----------
    contributions
        Checked by `check_update`, of this line.
    clock_ms
        For the timeout of the cohort, see `LineLogic.on_wake`; None: no time passes.
    """
    cohort = _Cohort(logic, head, numbers)
    for one in contributions:
        cohort.take(one)
    if clock_ms is not None and logic.is_overdue(cohort.head(), clock_ms):
        cohort.release("timeout")
    return cohort.step()


class _Cohort:
    """The open cohort of a line while a batch is taken: lists instead of the head's bytes."""

    def __init__(self, logic: LineLogic, head: LineHead, numbers: LineNumbers) -> None:
        self._logic = logic
        self._numbers = numbers
        self._base = head
        self._users = _names(head.users, USER_BYTES)
        self._digests = _names(head.digests, DIGEST_BYTES)
        self._stored = tuple(base for base, _ in head.bases)
        self._new: list[Contribution] = []
        self._known_users = set(self._users)
        self._known_digests = set(self._digests)
        self._sums: dict[int, FixedPointSum] = {}
        self._weights: NDArray[np.float64] | None = None
        self._is_restarted = False
        self._released: list[EdgeModel] = []
        self._refused: list[tuple[Contribution, Refused]] = []
        self._counts: dict[str, int] = {}

    def take(self, one: Contribution) -> None:
        """Judge a contribution, and release what is due before and after."""
        line, base = self._logic.line, self._base
        size = len(self._digests)
        opened_ms = base.opened_ms
        if opened_ms is not None and one.at_ms >= opened_ms + line.timeout_ms and size >= line.cohort_min:
            if self._logic.is_overdue(self.head(), one.at_ms):
                self.release("timeout")
            base = self._base
        if one.digest in self._known_digests:
            self._count("duplicate")
            return
        known = one.user in self._known_users
        refused = self._logic.refusal(base, one.base_version, one.clip_norm, len(self._digests), known)
        if refused is not None:
            self._refused.append((one, refused))
            self._count(refused.reason)
            return
        self._new.append(one)
        self._users.append(one.user)
        self._digests.append(one.digest)
        self._known_users.add(one.user)
        self._known_digests.add(one.digest)
        if base.opened_ms is None or one.at_ms < base.opened_ms or one.at_ms > base.newest_ms:
            is_first = base.opened_ms is None
            self._base = base._replace(
                opened_ms=one.at_ms if base.opened_ms is None else min(base.opened_ms, one.at_ms),
                newest_ms=one.at_ms if is_first else max(base.newest_ms, one.at_ms),
            )
        self._count("contributed")
        size += 1
        is_over = one.at_ms >= (self._base.opened_ms or 0) + line.timeout_ms
        if size >= line.cohort_size or (is_over and size >= line.cohort_min):
            trigger = self._logic.trigger(self.head(), one.at_ms)
            if trigger is not None:
                self.release(trigger)

    def head(self) -> LineHead:
        """The head as it is now, with what was taken but not yet added."""
        counts = dict(self._base.bases)
        within = self._base.within
        for one in self._new:
            counts[one.base_version] = counts.get(one.base_version, 0) + 1
            within += bool(one.within_clip)
        return self._base._replace(
            within=within,
            bases=tuple(sorted(counts.items())),
            users=b"".join(self._users),
            digests=b"".join(self._digests),
        )

    def release(self, trigger: str) -> None:
        """Make the next version, and open an empty cohort."""
        head = self._add()
        weights = self._numbers.weights() if self._weights is None else self._weights
        sums = {base: self._sum(base) for base, _ in head.bases}
        state, record = self._logic.release(LineState(head, weights, sums), trigger)
        self._base, self._weights, self._is_restarted = state.head, state.weights, True
        self._sums = {}
        self._users, self._digests = [], []
        self._known_users, self._known_digests = set(), set()
        self._released.append(record)
        self._count("released")

    def step(self) -> BatchStep:
        """What all of it made."""
        head = self._add()
        dropped = self._stored if self._is_restarted else ()
        return BatchStep(
            head,
            self._sums,
            self._weights,
            dropped,
            tuple(self._released),
            tuple(self._refused),
            self._counts,
        )

    def _add(self) -> LineHead:
        """Add up what was taken."""
        self._base = head = self.head()
        rows: dict[tuple[int, int, int], list[bytes]] = {}
        for one in self._new:
            rows.setdefault((one.base_version, one.bits, one.step), []).append(one.payload)
        for (base, bits, step), payloads in rows.items():
            total = stacked_sum(payloads, bits, self._logic.line.dimension)
            self._sums[base] = self._sum(base).add_many(len(payloads), total * step)
        self._new = []
        return head

    def _sum(self, base: int) -> FixedPointSum:
        found = self._sums.get(base)
        if found is None and not self._is_restarted:
            found = self._numbers.sum_of(base)
        return empty_sum(self._logic.line.dimension) if found is None else found

    def _count(self, name: str) -> None:
        self._counts[name] = self._counts.get(name, 0) + 1


def stacked_sum(payloads: Sequence[bytes], bits: int, dimension: int) -> NDArray[np.int64]:
    r"""Sum packed numbers of several contributions, int64 (d,), in the steps of their quantiser.

    Examples
    --------
    >>> stacked_sum([b"\x01\x00", b"\xff\x7f"], 8, 2).tolist()
    [0, 127]
    """
    rows = np.frombuffer(b"".join(payloads), WIDTHS[bits]).reshape(len(payloads), dimension)
    total: NDArray[np.int64] = rows.sum(axis=0, dtype=np.int64)
    return total


def _names(joined: bytes, size: int) -> list[bytes]:
    return [joined[at : at + size] for at in range(0, len(joined), size)]
