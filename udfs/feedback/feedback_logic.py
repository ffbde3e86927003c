"""The keyed logic of the feedback loop: lists, impressions and outcomes of one user, to examples and credits.

No clock, no I/O, no engine: pure functions from a frozen state to the next.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from schemas.codec import encode
from schemas.ids import item_hash
from schemas.records import Control, Credit, Event, Example, ServedList
from udfs.feedback.feedback_state import (
    MAX_LISTS,
    MAX_LISTS_BYTES,
    MAX_OUTCOMES,
    MAX_SHOWINGS,
    MAX_SLOTS,
    FeedbackState,
    KeptList,
)
from udfs.feedback.outcome import is_outcome, outcomes_of, rec_hash
from udfs.feedback.rules import FeedbackRules
from udfs.feedback.settlement import Settlement, close, next_due_ms, settle
from udfs.feedback.showing import merge, showing_of

KEEP_UNSEEN: Final = 4
"""As many of the newest lists stay for their impressions, even if a shown one has to be settled early for it."""
_EMPTY: Final = FeedbackState()


class FeedbackStep(NamedTuple):
    """What a step made.

    Attributes
    ----------
    state
        The next state; None: nothing is kept of the user.
    examples, credits
        What goes to the topics.
    wake_at_ms
        When to call `on_wake`; None: a wake is set already, or none is needed.
    counts
        Names of counters to raise by one, once for each mention.
    """

    state: FeedbackState | None
    examples: tuple[Example, ...] = ()
    credits: tuple[Credit, ...] = ()
    wake_at_ms: int | None = None
    counts: tuple[str, ...] = ()


class FeedbackLogic:
    """Joins what was served, shown and done; `udfs.feedback.attribution` has the rules.

    **State** `FeedbackState`, at most `udfs.feedback.feedback_state.MAX_STATE_BYTES` bytes; about 1,000 a list.
    Beyond its bounds the oldest lists that were not shown go, but for `KEEP_UNSEEN`; then the oldest shown one is
    settled at once.

    **Forgets** a list with its example (it stays remembered as settled for `list_ttl_ms`), everything else by
    `udfs.feedback.settlement`; a user who may not be profiled, at once and without example or credit.

    **Order** A record whose time is `lateness_ms` or more behind the clock is counted and left out; of the others
    neither order nor repeats change an example or a credit, below the bounds of the state and while lists are
    shown at most `superseded_ms` after a newer one came. What is due by the clock happens before the record is
    applied, so it does not matter when `on_wake` runs.

    Parameters
    ----------
    rules
        Windows, rewards, lateness.

    Raises
    ------
    ValueError
        For rules that contradict themselves.
    """

    def __init__(self, rules: FeedbackRules | None = None) -> None:
        self.rules = FeedbackRules() if rules is None else rules
        self.rules.check()

    def on_list(self, state: FeedbackState | None, served: ServedList, clock_ms: int) -> FeedbackStep:
        """Keep a list that may be shown.

        Parameters
        ----------
        state
            What is known; None: nothing.
        served
            The list as logged; its time is the effective time of its newest event.
        clock_ms
            The event-time clock when it arrived. It never falls.
        """
        done = settle(_EMPTY if state is None else state, clock_ms, self.rules)
        rec, data = rec_hash(served.rec_id), encode(served)
        if any(one.rec == rec for one in done.state.settled):
            return self._step(state, done, "list_already_settled")
        if len(data) > MAX_LISTS_BYTES or len(served.items) > MAX_SLOTS:
            return self._step(state, done, "list_too_large")
        kept = KeptList(
            rec, served.event_time, False, tuple(item_hash(item.item_id) for item in served.items), data
        )
        known = next((one for one in done.state.lists if one.rec == rec), None)
        if known is not None:
            # Sent twice, written differently: the same one whichever came first, and rather one that tells more.
            if data > known.served:
                lists = tuple(one for one in done.state.lists if one is not known)
                kept = kept._replace(credited=known.credited)
                done = done._replace(state=done.state._replace(lists=tuple(sorted((*lists, kept)))))
            return self._step(state, done, "list_duplicate")
        done = done._replace(state=done.state._replace(lists=tuple(sorted((*done.state.lists, kept)))))
        return self._step(state, done.then(self._bounded(done.state, clock_ms)), "list_kept")

    def on_event(self, state: FeedbackState | None, event: Event, at_ms: int, clock_ms: int) -> FeedbackStep:
        """Note an impression or an outcome; other events change nothing.

        Parameters
        ----------
        event
            Validated (`schemas.validation.validate_event`).
        at_ms
            Its effective time.
        clock_ms
            The event-time clock when it arrived. It never falls.
        """
        if event.consent != "personalization":
            return FeedbackStep(None, counts=("no_consent",))
        done = settle(_EMPTY if state is None else state, clock_ms, self.rules)
        is_impression = event.event_type == "impression"
        if not is_impression and not is_outcome(event):
            return self._step(state, done)
        if at_ms + self.rules.lateness_ms <= clock_ms:
            return self._step(state, done, f"{event.event_type}_late")
        done = self._impression(done, event, at_ms) if is_impression else self._outcome(done, event, at_ms)
        return self._step(state, done.then(self._bounded(done.state, clock_ms)))

    def on_control(self, state: FeedbackState | None, control: Control, clock_ms: int) -> FeedbackStep:
        """Erase a user who asks for it, or who may no longer be profiled."""
        if control.kind == "erase_user":
            return FeedbackStep(None, counts=("erased",))
        if control.kind == "set_consent" and control.consent not in (None, "personalization"):
            return FeedbackStep(None, counts=("consent_withdrawn",))
        return self.on_wake(state, clock_ms)

    def on_wake(self, state: FeedbackState | None, clock_ms: int) -> FeedbackStep:
        """Do what is due, and say when to look again.

        Parameters
        ----------
        clock_ms
            The event-time clock.
        """
        if state is None:
            return FeedbackStep(None)
        done = settle(state, clock_ms, self.rules)
        return self._step(None, done)

    def _step(self, before: FeedbackState | None, done: Settlement, *counts: str) -> FeedbackStep:
        """Return the step, with a wake if one is needed earlier than the one that is set."""
        after, examples, credits, settled = done
        if after is before:
            return FeedbackStep(after, examples, credits, None, settled + counts)
        due_ms = next_due_ms(after, self.rules)
        if due_ms is None:
            return FeedbackStep(None, examples, credits, None, settled + counts)
        is_set = before is not None and 0 < before.due_ms <= due_ms
        after = after._replace(due_ms=due_ms)
        return FeedbackStep(after, examples, credits, None if is_set else due_ms, settled + counts)

    def _impression(self, done: Settlement, event: Event, at_ms: int) -> Settlement:
        if event.rec_id is None:
            return done._replace(counts=(*done.counts, "impression_without_rec_id"))
        state, rec = done.state, rec_hash(event.rec_id)
        if any(one.rec == rec for one in state.settled):
            return done._replace(counts=(*done.counts, "impression_already_settled"))
        showing = showing_of(event, rec, at_ms)
        known = next((one for one in state.showings if one.rec == rec), None)
        if known is not None:
            showing = merge(known, showing)
        others = tuple(one for one in state.showings if one.rec != rec)
        return done._replace(
            state=state._replace(showings=tuple(sorted((*others, showing)))),
            counts=(*done.counts, "impression_noted"),
        )

    def _outcome(self, done: Settlement, event: Event, at_ms: int) -> Settlement:
        if event.value is not None and event.value < 0:
            return done._replace(counts=(*done.counts, f"{event.event_type}_negative_value"))
        found = outcomes_of(event, at_ms)
        if not found:
            return done._replace(counts=(*done.counts, f"{event.event_type}_without_item"))
        known = {(one.event, one.item) for one in done.state.outcomes}
        new = [one for one in found if (one.event, one.item) not in known]
        outcomes = tuple(sorted((*done.state.outcomes, *new)))
        counted = f"{event.event_type}_noted" if new else f"{event.event_type}_duplicate"
        return done._replace(state=done.state._replace(outcomes=outcomes), counts=(*done.counts, counted))

    def _bounded(self, state: FeedbackState, clock_ms: int) -> Settlement:
        """Bring a state back within its bounds."""
        result = Settlement(state)
        if len(state.outcomes) > MAX_OUTCOMES:
            dropped = len(state.outcomes) - MAX_OUTCOMES
            state = state._replace(outcomes=state.outcomes[dropped:])
            result = result.then(Settlement(state, counts=("outcome_evicted",) * dropped))
        while len(result.state.lists) > MAX_LISTS or _size(result.state) > MAX_LISTS_BYTES:
            result = result.then(self._evict_list(result.state, clock_ms))
        if len(result.state.showings) > MAX_SHOWINGS:
            state, kept = result.state, {one.rec for one in result.state.lists}
            oldest = min((one for one in state.showings if one.rec not in kept), key=lambda one: one.first_ms)
            showings = tuple(one for one in state.showings if one is not oldest)
            result = result.then(
                Settlement(state._replace(showings=showings), counts=("impression_evicted",))
            )
        return result

    def _evict_list(self, state: FeedbackState, clock_ms: int) -> Settlement:
        first_of = {showing.rec: showing.first_ms for showing in state.showings}
        unseen = [(one.at_ms, one.rec) for one in state.lists if one.rec not in first_of]
        if len(unseen) > KEEP_UNSEEN or not first_of.keys() & {one.rec for one in state.lists}:
            rec = min(unseen)[1]
            lists = tuple(one for one in state.lists if one.rec != rec)
            return Settlement(state._replace(lists=lists), counts=("list_evicted",))
        _, rec = min((first_of[one.rec], one.rec) for one in state.lists if one.rec in first_of)
        return Settlement(state, counts=("list_settled_early",)).then(close(state, rec, clock_ms, self.rules))


def _size(state: FeedbackState) -> int:
    return sum(len(one.served) for one in state.lists)
