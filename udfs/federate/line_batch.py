"""Many contributions to one line at once: what `LineLogic` says of one after the other, at the cost of a sum.

A contribution is judged alone, by the line's head; its numbers stay where they are. They are added when a version is
due and at the end: one sum over the rows of a packet, in whole numbers, so that neither order nor batches change a
bit. State is read and written once a batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.records import EdgeModel
from schemas.refusal import Refused
from udfs.federate.batch_step import BatchStep, LineNumbers
from udfs.federate.contribution import Contribution, Packet
from udfs.federate.line import LineLogic
from udfs.federate.line_state import KeptRows, LineHead, LineState
from udfs.federate.robust import Rule, bounded_units
from udfs.federate.row_sum import rows_sum
from udfs.privacy.fixed_point import MAX_COUNT, FixedPointSum, empty_sum
from udfs.privacy.quantise import WIDTHS
from udfs.recency_set import find


def on_batch(
    logic: LineLogic,
    head: LineHead,
    numbers: LineNumbers,
    packets: Sequence[Packet],
    clock_ms: int | None = None,
) -> BatchStep:
    """Take contributions in the order of (time, partition, offset), then let time pass.

    Parameters
    ----------
    packets
        Of this line; their contributions were checked by `check_update`.
    clock_ms
        For the timeout of the cohort, see `LineLogic.on_wake`; None: no time passes.
    """
    cohort = _Cohort(logic, head, numbers, packets)
    cohort.take_all()
    if clock_ms is not None and cohort.may_be_overdue(clock_ms) and logic.is_overdue(cohort.head(), clock_ms):
        cohort.release("timeout")
    return cohort.step()


class _Cohort:
    """The open cohort of a line while a batch is taken: its head, and what is not in the head yet.

    A user is looked for by 8 of the 16 bytes of the name, and by all of them where these are there.
    """

    def __init__(
        self, logic: LineLogic, head: LineHead, numbers: LineNumbers, packets: Sequence[Packet]
    ) -> None:
        self._logic = logic
        self._numbers = numbers
        self._packets = packets
        self._stored = tuple(base for base, _ in head.bases)
        self._sums: dict[int, FixedPointSum] = {}
        self._kept: KeptRows | None = None
        self._n_stored = head.contributions
        self._weights: NDArray[np.float64] | None = None
        self._released: list[EdgeModel] = []
        self._refused: list[tuple[Contribution, Refused]] = []
        self._counts: Counter[str] = Counter()
        self._fixed = np.concatenate([packet.fixed for packet in packets]) if packets else None
        self._open(head)

    def take_all(self) -> None:
        """Judge each contribution in order, and release what is due before and after."""
        if self._fixed is None:
            return
        fixed = self._fixed
        order = np.lexsort((fixed["offset"], fixed["partition"], fixed["at_ms"]))
        if self._take_together(fixed, order):
            return
        names = ("base", "clip", "at_ms", "within", "user")
        in_order = fixed[order]
        for number, *column in zip(order.tolist(), *(in_order[name].tolist() for name in names), strict=True):
            self._take(number, *column)

    def may_be_overdue(self, clock_ms: int) -> bool:
        """Whether the time of the cohort is over: most often not, and then its head need not be made."""
        return clock_ms >= self._due_ms

    def head(self) -> LineHead:
        """The head as it is now, with what was taken."""
        if not self._new or self._fixed is None:
            return self._head
        counts = dict(self._head.bases)
        for base, numbers in self._taken.items():
            counts[base] = counts.get(base, 0) + len(numbers)
        fixed = self._fixed[self._new]
        return self._head._replace(
            opened_ms=self._opened_ms,
            newest_ms=self._newest_ms,
            within=self._within,
            bases=tuple(sorted(counts.items())),
            users=self._head.users + fixed["user"].tobytes(),
            digests=self._head.digests + fixed["digest"].tobytes(),
        )

    def release(self, trigger: str) -> None:
        """Make the next version, and open an empty cohort."""
        head = self._add()
        weights = self._numbers.weights() if self._weights is None else self._weights
        votes = self._logic.line.robust_rule.keeps_contributions
        sums = {} if votes else {base: self._sum(base) for base, _ in head.bases}
        kept = self._all_kept() if votes else None
        state, record = self._logic.release(LineState(head, weights, sums, kept), trigger)
        self._weights = state.weights
        self._released.append(record)
        self._counts["released"] += 1
        self._sums, self._kept = {}, None
        self._open(state.head)

    def step(self) -> BatchStep:
        """What all of it made."""
        return BatchStep(
            self._add(),
            self._sums,
            self._weights,
            self._stored if self._released else (),
            tuple(self._released),
            tuple(self._refused),
            dict(self._counts),
            self._kept,
        )

    def _open(self, head: LineHead) -> None:
        line = self._logic.line
        self._head = head
        self._size = head.contributions
        self._within = head.within
        self._opened_ms, self._newest_ms = head.opened_ms, head.newest_ms
        self._due_ms = inf if head.opened_ms is None else head.opened_ms + line.timeout_ms
        self._known = set(np.frombuffer(head.users, "<u8")[::2].tolist())
        self._clips = {
            head.version - behind: clip
            for behind, clip in enumerate(reversed(head.clips))
            if behind <= line.max_staleness
        }
        self._new: list[int] = []  # contributions that are not in the head yet, as they were taken
        self._taken: dict[int, list[int]] = {}  # the same by base version

    def _take_together(self, fixed: NDArray[Any], order: NDArray[np.int64]) -> bool:
        """Take all at once where `_take` would take each and release nothing; whether it was so."""
        line, base, size = self._logic.line, int(fixed["base"][0]), self._size + len(fixed)
        begin_ms, end_ms = int(fixed["at_ms"].min()), int(fixed["at_ms"].max())
        due_ms = min(self._due_ms, begin_ms + line.timeout_ms)
        marks = set(fixed["user"].copy().view("<u8")[::2].tolist())
        if (
            size >= line.cohort_size
            or (end_ms >= due_ms and size >= line.cohort_min)
            or len(marks) < len(fixed)
            or not marks.isdisjoint(self._known)
            or not (fixed["base"] == base).all()
            or not (fixed["clip"] == self._clips.get(base)).all()
        ):
            return False
        self._new = order.tolist()
        self._taken[base] = list(range(len(fixed)))
        self._known |= marks
        self._within += int((fixed["within"] == 1).sum())
        self._size = size
        self._newest_ms = end_ms if self._opened_ms is None else max(self._newest_ms, end_ms)
        self._opened_ms = begin_ms if self._opened_ms is None else min(self._opened_ms, begin_ms)
        self._due_ms = due_ms
        return True

    def _take(self, number: int, base: int, clip: float, at_ms: int, within: int, user: bytes) -> None:
        line = self._logic.line
        is_over = at_ms >= self._due_ms and self._size >= line.cohort_min
        if is_over and self._logic.is_overdue(self.head(), at_ms):
            self.release("timeout")
        mark = int.from_bytes(user[:8], "little")
        is_doubtful = mark in self._known or self._clips.get(base) != clip or self._size >= MAX_COUNT
        if is_doubtful and not self._is_allowed(number, base, clip, user):
            return
        self._known.add(mark)
        self._new.append(number)
        if base in self._taken:
            self._taken[base].append(number)
        else:
            self._taken[base] = [number]
        self._within += within == 1
        self._size += 1
        if at_ms > self._newest_ms or self._opened_ms is None:
            self._newest_ms = at_ms
        if self._opened_ms is None or at_ms < self._opened_ms:
            self._opened_ms, self._due_ms = at_ms, at_ms + line.timeout_ms
        if self._size >= line.cohort_size or (at_ms >= self._due_ms and self._size >= line.cohort_min):
            trigger = self._logic.trigger(self.head(), at_ms)
            if trigger is not None:
                self.release(trigger)

    def _is_allowed(self, number: int, base: int, clip: float, user: bytes) -> bool:
        """Look closely, and note why not."""
        head, one = self.head(), self._contribution(number)
        if find(head.digests, one.digest) >= 0:
            self._counts["duplicate"] += 1
            return False
        refused = self._logic.refusal(head, base, clip, self._size, find(head.users, user) >= 0)
        if refused is None:
            return True
        self._refused.append((one, refused))
        self._counts[refused.reason] += 1
        return False

    def _add(self) -> LineHead:
        """Add the numbers that were taken, and return the head with them."""
        head = self.head()
        if self._logic.line.robust_rule is not Rule.NONE:
            self._add_singly()
        edges = np.cumsum([0, *(len(packet.fixed) for packet in self._packets)])
        for base, numbers in self._taken.items():
            taken = np.sort(numbers)
            self._counts["contributed"] += len(numbers)
            total = np.zeros(self._logic.line.dimension, np.int64)
            places = np.searchsorted(taken, edges)
            for packet, first, begin, end in zip(
                self._packets, edges[:-1], places[:-1], places[1:], strict=True
            ):
                if begin < end:
                    total += rows_sum(packet, taken[begin:end] - first)
            self._sums[base] = self._sum(base).add_many(len(numbers), total)
        self._new, self._taken = [], {}
        self._head = head
        return head

    def _add_singly(self) -> None:
        """Keep or bound the contributions that were taken, one by one and in that order."""
        line, new = self._logic.line, [self._contribution(number) for number in self._new]
        self._counts["contributed"] += len(new)
        self._taken, self._new = {}, []
        if not new:
            return
        bases = np.array([one.base_version for one in new])
        units = np.stack(
            [np.frombuffer(one.payload, WIDTHS[one.bits]).astype(np.int64) * one.step for one in new]
        )
        if line.robust_rule.keeps_contributions:
            more = KeptRows(bases, units)
            self._kept = more if self._kept is None else self._kept.added(more)
            return
        for place, one in enumerate(new):
            bound = line.robust_bound_clips * one.clip_norm
            bounded = bounded_units(units[place : place + 1], bound)[0]
            self._sums[one.base_version] = self._sum(one.base_version).add(bounded)

    def _all_kept(self) -> KeptRows:
        found = KeptRows.empty(self._logic.line.dimension)
        if not self._released and self._n_stored:
            found = self._numbers.kept(self._n_stored)
        return found if self._kept is None else found.added(self._kept)

    def _sum(self, base: int) -> FixedPointSum:
        line = self._logic.line
        found = self._sums.get(base)
        if found is None and not self._released:
            found = self._numbers.sum_of(base)
            if found is None and base in self._stored and not line.robust_rule.keeps_contributions:
                raise ValueError(
                    f"line {line.name!r}: the sum of version {base} is not in the state; a cohort that was opened "
                    "under a rule that votes cannot be added up: give the line another name"
                )
        return empty_sum(line.dimension) if found is None else found

    def _contribution(self, number: int) -> Contribution:
        for packet in self._packets:
            if number < len(packet.fixed):
                return packet.contribution(number)
            number -= len(packet.fixed)
        raise IndexError(number)
