"""What becomes of a user's feedback as the event-time clock passes: credits, examples, and what is forgotten.

Everything has a moment at which it is certain, because a record is only taken within `lateness_ms` of its own time:

| what | its moment |
|---|---|
| an outcome's list | its time + skew + lateness; one without a list goes then, with a reason |
| an impression of an unknown list | its time + lateness |
| a list's credits | first shown + `credit_ms` + skew + lateness |
| a list's example | first shown + the longest window + skew + lateness |
| a list not shown | `superseded_ms` + lateness after the next newer one, else `list_ttl_ms` after its own time |

`settle` runs in the order of these moments up to the clock. So it does not matter whether it is called at each of
them, or once at the end.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final, NamedTuple, cast

from xxhash import xxh3_64_hexdigest

from schemas.codec import decode
from schemas.records import Credit, Example, ExampleItem, ServedList
from udfs.bandits.user_context import context_units
from udfs.feedback.attribution import earned, is_removal, list_of
from udfs.feedback.feedback_state import MAX_SETTLED, FeedbackState, KeptList, Settled
from udfs.feedback.outcome import NO_LIST, Outcome
from udfs.feedback.rules import KINDS, FeedbackRules
from udfs.feedback.showing import Showing, first_shown
from udfs.user_state import LIST_POLICY, StateError, UserState

# In this order what is due at one moment.
_CHECK: Final = 0
_UNKNOWN: Final = 1
_CREDIT: Final = 2
_CLOSE: Final = 3
_FORGET_LIST: Final = 4
_FORGET_OUTCOME: Final = 5
_FORGET_SETTLED: Final = 6


Due = tuple[int, int, tuple[int, ...]]
"""A moment, what is to be done then, and for whom: the list's hash, or event and item of an outcome."""


class Settlement(NamedTuple):
    """What `settle` made."""

    state: FeedbackState
    examples: tuple[Example, ...] = ()
    credits: tuple[Credit, ...] = ()
    counts: tuple[str, ...] = ()

    def then(self, other: Settlement) -> Settlement:
        """Return both, one after the other."""
        return Settlement(
            other.state,
            self.examples + other.examples,
            self.credits + other.credits,
            self.counts + other.counts,
        )


def dues(state: FeedbackState, rules: FeedbackRules) -> list[Due]:
    """Return everything that awaits its moment, in no order."""
    late_ms, longest_ms = rules.lateness_ms, rules.longest_ms
    certain_ms = rules.skew_ms + late_ms
    first_of = {showing.rec: showing.first_ms for showing in state.showings}
    by_time = sorted((one.at_ms, one.rec) for one in state.lists)
    next_ms = {rec: later[0] for (_, rec), later in pairwise(by_time)}
    result: list[Due] = []
    for rec, at_ms, credited, _, _ in state.lists:
        first_ms = first_of.pop(rec, None)
        if first_ms is not None:
            if not credited:
                result.append((first_ms + rules.credit_ms + certain_ms, _CREDIT, (rec,)))
            result.append((first_ms + longest_ms + certain_ms, _CLOSE, (rec,)))
        else:
            stale_ms = at_ms + rules.list_ttl_ms
            if rec in next_ms:
                stale_ms = min(stale_ms, next_ms[rec] + rules.superseded_ms)
            result.append((stale_ms + late_ms, _FORGET_LIST, (rec,)))
    result += [(first_ms + late_ms, _UNKNOWN, (rec,)) for rec, first_ms in first_of.items()]
    for outcome in state.outcomes:
        key = (outcome.event, outcome.item)
        if not outcome.checked and not is_removal(outcome):
            result.append((outcome.at_ms + certain_ms, _CHECK, key))
        result.append((outcome.at_ms + longest_ms + rules.skew_ms + certain_ms, _FORGET_OUTCOME, key))
    result += [(one.at_ms + rules.list_ttl_ms, _FORGET_SETTLED, (one.rec,)) for one in state.settled]
    return result


def next_due_ms(state: FeedbackState, rules: FeedbackRules) -> int | None:
    """Return the next moment at which there is something to do."""
    return min((due[0] for due in dues(state, rules)), default=None)


def settle(state: FeedbackState, clock_ms: int, rules: FeedbackRules) -> Settlement:
    """Do all that is due.

    Parameters
    ----------
    clock_ms
        The event-time clock: every record before it less the lateness has come.
    """
    result = Settlement(state)
    if state.due_ms > clock_ms:
        return result
    while ready := sorted(due for due in dues(result.state, rules) if due[0] <= clock_ms):
        for due in ready:
            result = result.then(_do(result.state, due, rules))
    return result


def close(state: FeedbackState, rec: int, at_ms: int, rules: FeedbackRules) -> Settlement:
    """Make up a shown list's credits, if they are not out, and its example; remember that it is settled.

    Parameters
    ----------
    rec
        Hash of a list that is kept and was shown.
    at_ms
        What the example gives as its time of settlement.
    """
    result = Settlement(state)
    kept = _find(state, rec)
    if not kept.credited:
        result = _credit(state, kept, rules)
        state = result.state
    showing = _showing(state, rec)
    served = cast(ServedList, decode("ServedList", kept.served))
    slots = _slots(state, kept, showing, showing.first_ms + rules.longest_ms, rules)
    claimed = _claimed(state, kept, rules)
    counts = ["impression_joined"] if slots else ["impression_of_other_items"]
    counts += [f"{KINDS[one.kind]}_joined" for one in claimed]
    items = tuple(
        ExampleItem(
            served.items[slot].item_id,
            slot,
            position,
            served.items[slot].source,
            served.items[slot].score,
            served.items[slot].propensity,
            *earned(outcomes, removals, showing.first_ms + rules.longest_ms, rules),
        )
        for slot, position, outcomes, removals in slots
    )
    example = Example(
        served.rec_id,
        served.tenant,
        served.user_id,
        served.version,
        served.event_time,
        showing.first_ms,
        at_ms,
        served.epoch,
        served.model_version,
        served.variant,
        served.index_mark,
        items,
        served.snapshot,
        served.source_probabilities,
        served.list_policy,
        served.list_shares,
    )
    after = FeedbackState(  # what is due next is not known
        tuple(one for one in state.lists if one.rec != rec),
        tuple(one for one in state.showings if one.rec != rec),
        tuple(one for one in state.outcomes if one not in claimed),
        (*state.settled, Settled(rec, at_ms))[-MAX_SETTLED:],
    )
    return result.then(Settlement(after, (example,) if items else (), (), tuple(counts)))


def _do(state: FeedbackState, due: Due, rules: FeedbackRules) -> Settlement:
    at_ms, what, key = due
    rec = key[0]
    if what == _CHECK:
        return _check(state, key, rules)
    if what == _UNKNOWN:
        return Settlement(
            state._replace(showings=tuple(one for one in state.showings if one.rec != rec)),
            counts=("impression_unknown_rec_id",),
        )
    if what == _CREDIT:
        return _credit(state, _find(state, rec), rules)
    if what == _CLOSE:
        return close(state, rec, at_ms, rules)
    if what == _FORGET_LIST:
        return Settlement(
            state._replace(lists=tuple(one for one in state.lists if one.rec != rec)),
            counts=("list_never_shown",),
        )
    if what == _FORGET_OUTCOME:
        left = tuple(one for one in state.outcomes if (one.event, one.item) != key)
        return Settlement(state._replace(outcomes=left))
    return Settlement(state._replace(settled=tuple(one for one in state.settled if one.rec != rec)))


def _check(state: FeedbackState, key: tuple[int, ...], rules: FeedbackRules) -> Settlement:
    """Mark an outcome that has its list; count one that has none, and let it go."""
    outcome = next(one for one in state.outcomes if (one.event, one.item) == key)
    others = tuple(one for one in state.outcomes if one is not outcome)
    rec, reason = list_of(outcome, state.lists, _by_rec(state), rules)
    if rec != NO_LIST:
        kept = tuple(sorted((*others, outcome._replace(checked=True))))
        return Settlement(state._replace(outcomes=kept))
    if reason == "unknown_rec_id" and any(one.rec == outcome.rec for one in state.settled):
        reason = "outside_window"
    return Settlement(state._replace(outcomes=others), counts=(f"{KINDS[outcome.kind]}_{reason}",))


def _credit(state: FeedbackState, kept: KeptList, rules: FeedbackRules) -> Settlement:
    """Give each source of a list the mean reward of its slots that were shown, and its list policy their sum."""
    showing = _showing(state, kept.rec)
    until_ms = showing.first_ms + rules.credit_ms
    served = cast(ServedList, decode("ServedList", kept.served))
    rewards: dict[str, list[float]] = {}
    earned_by_list: list[float] = []
    for slot, _, outcomes, removals in _slots(state, kept, showing, until_ms, rules):
        reward = earned(outcomes, removals, until_ms, rules).reward
        rewards.setdefault(served.items[slot].source, []).append(reward)
        earned_by_list.append(reward)
    arms = {source: sum(found) / len(found) for source, found in rewards.items()}
    if served.list_policy and earned_by_list:
        arms[LIST_POLICY + served.list_policy] = min(1.0, sum(earned_by_list))
    context = _context(served.snapshot)
    credits = tuple(
        Credit(
            served.tenant,
            served.user_id,
            served.rec_id,
            arm,
            reward,
            until_ms,
            xxh3_64_hexdigest(f"{served.tenant}\0{served.user_id}\0{served.rec_id}\0{arm}"),
            context,
        )
        for arm, reward in sorted(arms.items())
    )
    lists = tuple(one._replace(credited=True) if one.rec == kept.rec else one for one in state.lists)
    return Settlement(state._replace(lists=lists), (), credits)


def _context(snapshot: bytes) -> tuple[int, ...]:
    try:
        state = UserState.decode(snapshot)
    except StateError:  # of a release to come; the credit counts all the same
        return ()
    return tuple(context_units(state.n_events, state.n_purchases).tolist())


_Slot = tuple[int, int, list[Outcome], list[Outcome]]


def _slots(
    state: FeedbackState, kept: KeptList, showing: Showing, until_ms: int, rules: FeedbackRules
) -> list[_Slot]:
    """Return slot, position, outcomes and removals of each slot that was shown until then."""
    outcomes: dict[int, list[Outcome]] = {}
    for one in _claimed(state, kept, rules):
        outcomes.setdefault(one.item, []).append(one)
    removals: dict[int, list[Outcome]] = {}
    for one in state.outcomes:
        if is_removal(one) and one.at_ms <= showing.first_ms + rules.windows_ms[one.kind]:
            removals.setdefault(one.item, []).append(one)
    result = []
    for slot, item in enumerate(kept.items):
        first = first_shown(showing, item, slot)
        if first is not None and first[0] <= until_ms:
            result.append((slot, first[1], outcomes.get(item, []), removals.get(item, [])))
    return result


def _claimed(state: FeedbackState, kept: KeptList, rules: FeedbackRules) -> list[Outcome]:
    """Return the outcomes that are credited to a list."""
    by_rec = _by_rec(state)
    return [
        one
        for one in state.outcomes
        if one.item in kept.items
        and not is_removal(one)
        and list_of(one, state.lists, by_rec, rules)[0] == kept.rec
    ]


def _find(state: FeedbackState, rec: int) -> KeptList:
    return next(one for one in state.lists if one.rec == rec)


def _showing(state: FeedbackState, rec: int) -> Showing:
    return next(one for one in state.showings if one.rec == rec)


def _by_rec(state: FeedbackState) -> dict[int, Showing]:
    return {showing.rec: showing for showing in state.showings}
