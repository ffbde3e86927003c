"""A model line whose devices encrypt: the job adds ciphertexts, and tells the key holder the sum of a cohort.

The job can read no head and no sum. It checks what does not need reading, as of every update: form, size, terms, the
key's hash, base version, staleness, repeats, budget. A cohort is added up under the same rules as in the clear, and
told as a sealed sum (`schemas.records.EdgeCohort`) with the record of the version that it makes, complete but for its
numbers. The key holder opens it and publishes the version (`udfs.federate.opened_sum`).

Stale contributions count like others: a ciphertext is not weighted without growing. So `max_staleness` should be
small.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from schemas.codec import encode
from schemas.records import EdgeCohort, EdgeUpdate
from schemas.refusal import Refused
from udfs.federate.ciphertext import Ciphertext, add_ciphertexts, read_ciphertext
from udfs.federate.line import LineLogic, user_name
from udfs.federate.line_state import LineHead, LineState
from udfs.federate.update_check import update_digest
from udfs.privacy.fixed_point import empty_sum
from udfs.recency_set import find

SEALED: Final = "sealed"


class EncryptedState(NamedTuple):
    """What a line whose heads are encrypted has between two cohorts.

    Attributes
    ----------
    head
        As of every line; `version` is the newest that a sum was sealed for.
    total
        Sum of the open cohort's ciphertexts; None: it is empty.
    """

    head: LineHead
    total: Ciphertext | None = None


class EncryptedStep(NamedTuple):
    """What an update, or the passing of time, made.

    Attributes
    ----------
    state
        The next one.
    sealed
        Sums to tell the key holder, in order; at most two.
    refused
        Why the update is in no sum; None if it is, or if it was a repeat.
    counts
        Names of counters to raise by one.
    """

    state: EncryptedState
    sealed: tuple[EdgeCohort, ...] = ()
    refused: Refused | None = None
    counts: tuple[str, ...] = ()


class EncryptedLogic:
    """The keyed logic of one line whose heads are encrypted, fed by what `BudgetLogic` accepted.

    **State** `EncryptedState`: one ciphertext of 64 KiB, whatever the cohort, and 48 bytes a contribution.

    **Forgets** the cohort when it is sealed.

    **Order** As `LineLogic`: ciphertexts are whole numbers modulo one prime, so the same contributions give the same
    bytes in any order.
    """

    def __init__(self, logic: LineLogic) -> None:
        self._logic = logic
        self._line = logic.line

    def on_update(self, state: EncryptedState, update: EdgeUpdate, at_ms: int) -> EncryptedStep:
        """Add an update that `check_update` let through, and seal what is due before and after."""
        woken = self.on_time(state, at_ms)
        head, total = woken.state
        digest, user = update_digest(update), user_name(update)
        if find(head.digests, digest) >= 0:
            return woken._replace(counts=(*woken.counts, "duplicate"))
        known = find(head.users, user) >= 0
        refused = self._logic.refusal(head, update.base_version, update.clip_norm, head.contributions, known)
        if refused is not None:
            return woken._replace(refused=refused, counts=(*woken.counts, refused.reason))
        after = EncryptedState(
            head.joined(update.base_version, at_ms, user, digest),
            add_ciphertexts(total, read_ciphertext(update.payload)),
        )
        counts = (*woken.counts, "contributed")
        if after.head.contributions < self._line.cohort_size:
            return EncryptedStep(after, woken.sealed, None, counts)
        after, told = self._seal(after, "full")
        return EncryptedStep(after, (*woken.sealed, told), None, (*counts, "released"))

    def on_time(self, state: EncryptedState, clock_ms: int) -> EncryptedStep:
        """Seal a cohort whose time is over, if it is large enough."""
        if not self.is_overdue(state.head, clock_ms):
            return EncryptedStep(state)
        after, told = self._seal(state, "timeout")
        return EncryptedStep(after, (told,), None, ("released",))

    def is_overdue(self, head: LineHead, clock_ms: int) -> bool:
        """Whether the cohort is large enough and its time over."""
        is_over = head.opened_ms is not None and clock_ms >= head.opened_ms + self._line.timeout_ms
        return is_over and head.contributions >= self._line.cohort_min

    def _seal(self, state: EncryptedState, trigger: str) -> tuple[EncryptedState, EdgeCohort]:
        """Make the record of the next version, with a sealed sum instead of numbers."""
        line, head = self._line, state.head
        assert state.total is not None
        nothing = {base: empty_sum(line.dimension) for base, _ in head.bases}
        made, record = self._logic.release(LineState(head, np.zeros(line.dimension), nothing), trigger)
        record = record._replace(weights=b"", signal_to_noise=None)
        told = EdgeCohort(
            line.name, record.version, SEALED, (), line.cohort_min, state.total.astype("<u8").tobytes(),
            record.released_time, encode(record),
        )  # fmt: skip
        return EncryptedState(made.head), told
