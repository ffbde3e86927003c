"""What one contribution, or the passing of time, does to a model line: pure steps from a state to the next."""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.ids import user_key
from schemas.records import EdgeModel, EdgeUpdate
from schemas.refusal import Refused
from udfs.federate.line_settings import LineSettings
from udfs.federate.line_state import USER_BYTES, KeptRows, LineHead, LineState
from udfs.federate.release import Seed, noise_shares, release
from udfs.federate.robust import Rule, bounded_units
from udfs.federate.update_check import update_digest
from udfs.privacy.fixed_point import MAX_COUNT, empty_sum
from udfs.privacy.terms import Mode
from udfs.recency_set import find


class LineStep(NamedTuple):
    """What a step made.

    Attributes
    ----------
    state
        The next one.
    released
        Versions to publish, in order; at most two.
    refused
        Why the contribution is not in a sum; None if it is, or if it was a repeat.
    wake_at_ms
        When to call `on_wake`; None: a wake is set, or none is needed.
    counts
        Names of counters to raise by one.
    """

    state: LineState
    released: tuple[EdgeModel, ...] = ()
    refused: Refused | None = None
    wake_at_ms: int | None = None
    counts: tuple[str, ...] = ()


class LineLogic:
    """The keyed logic of one model line, fed by what `BudgetLogic` accepted.

    **State** `LineState`: 8 bytes a number for the model and for each base version that the cohort has, 48 a
    contribution. For models of some thousand numbers; a large table wants its sums split by block of rows, on
    which sums and noise do not depend.

    **Forgets** the cohort at each release, and clips of versions older than `max_staleness`.

    **Order** Sums are of whole numbers: the same contributions give the same bits in any order. A version is
    released as soon as the cohort is full; or, once its timeout has passed, with `cohort_min`, before the next
    contribution is taken. So, of contributions in the order of time, it is the same version whether the timer
    fires on time or late. Which contributions a cohort has depends on what came first, and a replay may see
    another order: noise depends on the cohort, so no two cohorts share it.

    **One contribution a user and cohort**: the sum's sensitivity is one clip. Checked here again, because
    two versions of one user, each allowed by the ledger, may meet in one cohort.

    Parameters
    ----------
    line
        Checked by `LineSettings.checked`.
    budget_epsilon
        Of the ledger, for the records.
    seed
        What the job's noise is made with.
    """

    def __init__(self, line: LineSettings, budget_epsilon: float, seed: Seed) -> None:
        self._line = line.checked()
        self._budget_epsilon = budget_epsilon
        self._seed = seed

    def on_contribution(
        self, state: LineState, update: EdgeUpdate, units: NDArray[np.int64], at_ms: int
    ) -> LineStep:
        """Take one contribution into its sum, and release what is due before and after.

        Parameters
        ----------
        units
            int64 (d,): what `check_update` read from it.
        at_ms
            Event time.
        """
        woken = self.on_wake(state, at_ms)
        state, released = woken.state, woken.released
        head = state.head
        digest = update_digest(update)
        if find(head.digests, digest) >= 0:
            return LineStep(state, released, counts=("duplicate",))
        user = user_name(update)
        known = find(head.users, user) >= 0
        refused = self.refusal(head, update.base_version, update.clip_norm, head.contributions, known)
        if refused is not None:
            return LineStep(state, released, refused, counts=(refused.reason,))
        base = update.base_version
        if self._line.robust_rule is Rule.NORM_BOUND:
            units = bounded_units(units[None, :], self._line.robust_bound_clips * update.clip_norm)[0]
        sums, kept = state.sums, state.kept
        try:
            partial = sums.get(base, empty_sum(self._line.dimension)).add(units)
        except Refused as over:
            return LineStep(state, released, over, counts=(over.reason,))
        if self._line.robust_rule.keeps_contributions:
            one = KeptRows(np.array([base]), units[None, :])
            kept = one if kept is None else kept.added(one)
        else:
            sums = {**sums, base: partial}
        head = head.joined(base, at_ms, user, digest)
        head = head._replace(within=head.within + bool(update.within_clip))
        state = LineState(head, state.weights, sums, kept)
        trigger = self.trigger(head, at_ms)
        if trigger is not None:
            state, record = self.release(state, trigger)
            return LineStep(state, (*released, record), counts=("contributed", "released"))
        wake_at_ms = at_ms + self._line.timeout_ms if head.contributions == 1 else None
        return LineStep(state, released, wake_at_ms=wake_at_ms, counts=("contributed",))

    def on_wake(self, state: LineState, clock_ms: int) -> LineStep:
        """Release a cohort whose time is over, if it is large enough; else the contribution that fills it does."""
        if not self.is_overdue(state.head, clock_ms):
            return LineStep(state)
        state, record = self.release(state, "timeout")
        return LineStep(state, (record,), counts=("released",))

    @property
    def line(self) -> LineSettings:
        """What is fixed for the line."""
        return self._line

    @property
    def budget_epsilon(self) -> float:
        """Of the ledger, for the records."""
        return self._budget_epsilon

    def release(self, state: LineState, trigger: str) -> tuple[LineState, EdgeModel]:
        """Make the next version of the cohort."""
        return release(state, self._line, self._budget_epsilon, self._seed, trigger)

    def is_overdue(self, head: LineHead, clock_ms: int) -> bool:
        """Whether the cohort is large enough and its time over."""
        return self._is_over(head, clock_ms) and self._is_enough(head, self._line.cohort_min)

    def trigger(self, head: LineHead, at_ms: int) -> str | None:
        """Why a cohort is to be released, as a contribution at `at_ms` left it; None: it is not."""
        if self._is_enough(head, self._line.cohort_size):
            return "full"
        return "timeout" if self.is_overdue(head, at_ms) else None

    def refusal(
        self, head: LineHead, base_version: int, clip_norm: float, contributions: int, known: bool
    ) -> Refused | None:
        """Why a contribution cannot be taken; None: it can.

        Parameters
        ----------
        contributions
            How many the cohort has.
        known
            Whether the user is in the cohort.
        """
        if base_version > head.version:
            return Refused("unknown_base", f"base_version: wanted at most {head.version}, got {base_version}")
        clip = head.clip_of(base_version)
        if clip is None or head.version - base_version > self._line.max_staleness:
            return Refused(
                "stale_update",
                f"base_version: wanted at most {self._line.max_staleness} behind {head.version}",
            )
        if clip_norm != clip:
            return Refused("wrong_terms", f"clip_norm: wanted {clip!r} of version {base_version}")
        if known:
            return Refused("already_contributed", "the user is in this cohort already")
        if contributions >= MAX_COUNT:
            return Refused("bad_value", f"wanted at most {MAX_COUNT} contributions in one cohort")
        return None

    def _is_over(self, head: LineHead, at_ms: int) -> bool:
        return head.opened_ms is not None and at_ms >= head.opened_ms + self._line.timeout_ms

    def _is_enough(self, head: LineHead, wanted: int) -> bool:
        if head.contributions < wanted:
            return False
        # Stale shares are weighted down with their signal: the sum must still hold the whole noise.
        return self._line.mode is not Mode.DISTRIBUTED or noise_shares(head) >= self._line.cohort_min


def user_name(update: EdgeUpdate) -> bytes:
    """Sixteen bytes that name the user within a cohort."""
    return sha256(user_key(update.tenant, update.user_id).encode()).digest()[:USER_BYTES]
