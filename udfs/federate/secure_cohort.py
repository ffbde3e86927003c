"""A cohort of devices whose numbers the job adds up under masks: who is in it, what it is told, when it is opened.

Five messages a member, each answered by what the job tells all (`schemas.records.EdgeCohort`)::

    join     public keys of this cohort         roster   all members and keys: the cohort is full or its time over
    shares   a sealed share for each other      shares   the same, passed on; then mask: who has shared
    masked   numbers under all masks: added     open     who remains
    echo     who remains, for each other        agreed   the same, passed on, of those who said so
    opening  shares of seeds and of mask keys   (a version, from the sum and nothing smaller), or over: given up

The job keeps the running sum of masked numbers, never one member's. What protects whom from whom stands in
`secure_sum`; on top of it, the job hands the keys out, so it must follow the protocol, or devices must know each
other's keys from elsewhere (`clients.edge.secure_contribution` asks).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from schemas.ids import user_key
from schemas.records import EdgeCohort, EdgeUpdate
from schemas.refusal import Refused
from udfs.federate.line import LineLogic, user_name
from udfs.federate.line_state import LineState
from udfs.federate.secret_shares import FIELD_BYTES
from udfs.federate.secure_cohort_state import SecureCohort, SecureStep
from udfs.federate.secure_message import ECHO, JOIN, MASKED, OPENING, SHARES, cohort_label, public_keys_of
from udfs.federate.secure_sum import SEALED_BYTES, TAG_BYTES, Opened, SecureSumError, unmask_sum
from udfs.federate.update_check import update_digest
from udfs.privacy.fixed_point import UNIT, FixedPointSum, empty_sum

ROSTER, MASK, OPEN, AGREED, OVER = "roster", "mask", "open", "agreed", "over"
_SIGMAS: Final = 8.3


class SecureLogic:
    """The keyed logic of one line whose cohorts are added under masks.

    **State** `SecureCohort`, and of the line its head, model and one running sum.

    **Forgets** all of a cohort when it is opened or given up.

    **Order** A phase ends when all have spoken, or after `timeout_ms` of the clock if enough have; so who is in
    depends on what came first. Told in transactions: what a replay takes back, no device that reads committed records
    has seen.
    """

    def __init__(self, logic: LineLogic) -> None:
        self._logic = logic
        self._line = logic.line

    def on_message(
        self, cohort: SecureCohort, state: LineState, update: EdgeUpdate, at_ms: int
    ) -> SecureStep:
        """Take one message that `check_update` let through, and go on where a phase is over.

        Parameters
        ----------
        state
            With the running sum of the version; weights are read at a release alone.
        """
        step = SecureStep(cohort, state)
        name = user_key(update.tenant, update.user_id)
        is_late = update.base_version < state.head.version or cohort.awaits == JOIN
        if update.secure == OPENING and is_late:
            return step._replace(counts=("secure_late_opening",))  # enough others had opened
        try:
            if update.base_version != state.head.version:
                raise Refused(
                    "stale_update", f"base_version: wanted {state.head.version}, got {update.base_version}"
                )
            if update.secure != cohort.awaits:
                raise Refused("cohort_closed", f"the cohort awaits {cohort.awaits}, got {update.secure}")
            taken = self._take(cohort, state, update, name, at_ms)
        except Refused as refused:
            return step._replace(refused=refused, counts=(refused.reason,))
        if taken is None:
            return step._replace(counts=("duplicate",))
        after = self._advance(taken.cohort, taken.state, at_ms, self._is_complete(taken.cohort))
        return SecureStep(
            after.cohort,
            after.state,
            (*taken.told, *after.told),
            after.released,
            None,
            (f"secure_{update.secure}", *after.counts),
        )

    def on_time(self, cohort: SecureCohort, state: LineState, clock_ms: int) -> SecureStep:
        """End a phase whose time is over: with those who have spoken, or not at all."""
        if cohort.since_ms is None or clock_ms < cohort.since_ms + self._line.timeout_ms:
            return SecureStep(cohort, state)
        return self._advance(cohort, state, clock_ms, True)

    def _take(
        self, cohort: SecureCohort, state: LineState, update: EdgeUpdate, name: str, at_ms: int
    ) -> SecureStep | None:
        """Take a message of the phase; None: a repeat."""
        if update.secure == JOIN:
            if name in cohort.members:
                return None
            since_ms = at_ms if cohort.since_ms is None else cohort.since_ms
            joined = cohort._replace(
                since_ms=since_ms, members=(*cohort.members, name), keys=(*cohort.keys, update.payload)
            )
            return SecureStep(joined, state)
        if name not in cohort.members:
            raise Refused("cohort_closed", "the user is not in this cohort")
        number = cohort.members.index(name)
        if update.secure == SHARES:
            if number in cohort.shared:
                return None
            self._want_length(update, SEALED_BYTES * len(cohort.members))
            passed_on = self._tell(cohort, "shares", (name,), update.payload, at_ms)
            return SecureStep(cohort._replace(shared=(*cohort.shared, number)), state, (passed_on,))
        if update.secure == MASKED:
            if number not in cohort.shared:
                raise Refused("cohort_closed", "the member has not shared")
            if number in cohort.masked:
                return None
            if state.head.contributions != len(cohort.masked):
                raise ValueError(
                    f"line {self._line.name!r}: its open cohort has numbers without masks; masks are chosen with the "
                    "line: give the line another name"
                )
            masked = cohort._replace(masked=(*cohort.masked, number))
            return SecureStep(masked, self._added(state, update, at_ms))
        if number not in cohort.masked:
            raise Refused("cohort_closed", "the member's numbers are not in the sum")
        if update.secure == ECHO:
            if any(number == other for other, _ in cohort.echoes):
                return None
            self._want_length(update, TAG_BYTES * len(cohort.members))
            return SecureStep(cohort._replace(echoes=(*cohort.echoes, (number, update.payload))), state)
        if any(number == other for other, _ in cohort.openings):
            return None
        self._want_length(update, FIELD_BYTES * len(cohort.members))
        return SecureStep(cohort._replace(openings=(*cohort.openings, (number, update.payload))), state)

    def _added(self, state: LineState, update: EdgeUpdate, at_ms: int) -> LineState:
        """Add masked numbers, modulo 2^64, and note who and what."""
        head, base = state.head, state.head.version
        before = state.sums.get(base, empty_sum(self._line.dimension))
        total = before.total.view(np.uint64) + np.frombuffer(update.payload, "<u8")
        sums = {base: FixedPointSum(before.contributions + 1, total.view(np.int64))}
        return state._replace(
            head=head.joined(base, at_ms, user_name(update), update_digest(update)), sums=sums
        )

    def _is_complete(self, cohort: SecureCohort) -> bool:
        if cohort.awaits == JOIN:
            return len(cohort.members) >= self._line.cohort_size
        if cohort.awaits == SHARES:
            return len(cohort.shared) == len(cohort.members)
        if cohort.awaits == MASKED:
            return len(cohort.masked) == len(cohort.shared)
        if cohort.awaits == ECHO:
            return len(cohort.echoes) == len(cohort.masked)
        return len(cohort.openings) >= self._threshold(cohort)

    def _threshold(self, cohort: SecureCohort) -> int:
        return max(self._line.cohort_min, cohort.threshold_of_members)

    def _advance(self, cohort: SecureCohort, state: LineState, at_ms: int, is_due: bool) -> SecureStep:
        """Go to the next phase, or give the cohort up, if the phase is over."""
        if not is_due:
            return SecureStep(cohort, state)
        there = {
            JOIN: len(cohort.members),
            SHARES: len(cohort.shared),
            MASKED: len(cohort.masked),
            ECHO: len(cohort.echoes),
            OPENING: len(cohort.openings),
        }[cohort.awaits]
        wanted = self._line.cohort_min if cohort.awaits == JOIN else self._threshold(cohort)
        if there < wanted:
            if cohort.awaits == JOIN:
                return SecureStep(cohort, state)  # goes on waiting: nobody has sent anything of the user's
            return self._over(cohort, state, at_ms, "secure_too_few")
        following = cohort._replace(since_ms=at_ms)
        if cohort.awaits == JOIN:
            told = self._tell(cohort, ROSTER, cohort.members, b"".join(cohort.keys), at_ms)
            return SecureStep(following._replace(awaits=SHARES), state, (told,))
        if cohort.awaits == SHARES:
            told = self._tell(cohort, MASK, self._names(cohort, cohort.shared), b"", at_ms)
            return SecureStep(following._replace(awaits=MASKED), state, (told,))
        if cohort.awaits == MASKED:
            told = self._tell(cohort, OPEN, self._names(cohort, cohort.masked), b"", at_ms)
            return SecureStep(following._replace(awaits=ECHO), state, (told,))
        if cohort.awaits == ECHO:
            echoes = sorted(cohort.echoes)
            names = self._names(cohort, tuple(number for number, _ in echoes))
            told = self._tell(cohort, AGREED, names, b"".join(tags for _, tags in echoes), at_ms)
            return SecureStep(following._replace(awaits=OPENING), state, (told,))
        return self._opened(cohort, state, at_ms)

    def _opened(self, cohort: SecureCohort, state: LineState, at_ms: int) -> SecureStep:
        """Take the masks off the sum, and make a version of it."""
        base = state.head.version
        try:
            total = unmask_sum(
                state.sums[base].total.view(np.uint64),
                cohort.masked,
                {number: self._opening(cohort, blob) for number, blob in cohort.openings},
                {number: public_keys_of(cohort.keys[number]) for number in cohort.shared},
                self._threshold(cohort),
                cohort_label(self._line.name, base),
            )
        except SecureSumError:
            return self._over(cohort, state, at_ms, "secure_not_opened")
        if int(np.abs(total).max(initial=0)) > self._reach(len(cohort.masked)):
            return self._over(cohort, state, at_ms, "secure_out_of_range")
        sums = {base: FixedPointSum(len(cohort.masked), total)}
        trigger = "full" if len(cohort.masked) >= self._line.cohort_size else "timeout"
        made, record = self._logic.release(state._replace(sums=sums), trigger)
        return SecureStep(
            SecureCohort(cohort.number + 1), made, (), record, None, ("contributed", "released")
        )

    def _over(self, cohort: SecureCohort, state: LineState, at_ms: int, why: str) -> SecureStep:
        """Give a cohort up: its sum is thrown away, still under masks; what was charged stays charged."""
        head = state.head._replace(opened_ms=None, newest_ms=0, bases=(), users=b"", digests=b"")
        told = self._tell(cohort, OVER, (), b"", at_ms)
        return SecureStep(
            SecureCohort(cohort.number + 1), LineState(head, state.weights, {}), (told,), counts=(why,)
        )

    def _opening(self, cohort: SecureCohort, blob: bytes) -> Opened:
        parts = [
            int.from_bytes(blob[at : at + FIELD_BYTES], "big") for at in range(0, len(blob), FIELD_BYTES)
        ]
        gone = set(cohort.shared) - set(cohort.masked)
        return Opened({n: parts[n] for n in cohort.masked}, {n: parts[n] for n in gone})

    def _reach(self, count: int) -> int:
        terms = self._line.terms(self._line.first_clip_norm)
        return int(count * (terms.clip_norm + (_SIGMAS + 1.0) * terms.device_sigma) / UNIT)

    def _tell(
        self, cohort: SecureCohort, phase: str, members: tuple[str, ...], payload: bytes, at_ms: int
    ) -> EdgeCohort:
        return EdgeCohort(
            self._line.name, cohort.number, phase, members, self._threshold(cohort), payload, at_ms
        )

    @staticmethod
    def _names(cohort: SecureCohort, numbers: tuple[int, ...]) -> tuple[str, ...]:
        return tuple(cohort.members[number] for number in sorted(numbers))

    @staticmethod
    def _want_length(update: EdgeUpdate, wanted: int) -> None:
        if len(update.payload) != wanted:
            raise Refused("wrong_shape", f"payload: wanted {wanted} bytes, got {len(update.payload)}")
