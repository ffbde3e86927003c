"""Which list an outcome is credited to, and what its slots have earned.

The rules, last touch by default:

1. An outcome that names a list belongs to it, if the list was shown, held the item and showed it, and the outcome
   lies in its window. Otherwise it is credited to nobody, and the reason says why.
2. One that names none belongs to the list shown last, among those that showed the item before it and in whose
   window it lies.
3. The window counts from the first time that the list was shown. An outcome may lie up to `skew_ms` before.
4. One outcome is credited once. Of a slot's outcomes the greatest reward counts.
5. A removal undoes what was put into the cart before it, whichever lists the two belong to, if it comes within the
   list's window. What was bought stays bought.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from udfs.feedback.feedback_state import KeptList
from udfs.feedback.outcome import NO_LIST, Outcome
from udfs.feedback.rules import (
    ADD_TO_CART,
    CLICK,
    DWELL,
    KINDS,
    PURCHASE,
    REMOVE_FROM_CART,
    FeedbackRules,
)
from udfs.feedback.showing import Showing, first_shown


class Earned(NamedTuple):
    """What one slot has earned: the last seven fields of an `ExampleItem`."""

    label: str
    reward: float
    clicked: bool
    carted: bool
    bought: bool
    dwell_s: float
    revenue: float


def list_of(
    outcome: Outcome,
    lists: Iterable[KeptList],
    showings: Mapping[int, Showing],
    rules: FeedbackRules,
) -> tuple[int, str]:
    """Return the hash of the list that an outcome is credited to, or `NO_LIST` and why.

    Parameters
    ----------
    lists
        All that are kept.
    showings
        By the hash of their list.
    """
    if outcome.rec != NO_LIST:
        named = next((one for one in lists if one.rec == outcome.rec), None)
        if named is None:
            return NO_LIST, "unknown_rec_id"
        reason = why_not(outcome, named, showings.get(named.rec), rules)
        return (NO_LIST, reason) if reason else (named.rec, "")
    touched = [
        (showings[one.rec].first_ms, one.rec)
        for one in lists
        if outcome.item in one.items
        and one.rec in showings
        and not why_not(outcome, one, showings[one.rec], rules)
    ]
    return (max(touched)[1], "") if touched else (NO_LIST, "organic")


def why_not(outcome: Outcome, kept: KeptList, showing: Showing | None, rules: FeedbackRules) -> str:
    """Return why an outcome cannot be credited to a list; empty if it can."""
    if showing is None:
        return "never_shown"
    if outcome.item not in kept.items:
        return "item_not_in_list"
    first = first_shown(showing, outcome.item, 0)
    if first is None:
        return "item_not_shown"
    if outcome.at_ms + rules.skew_ms < first[0]:
        return "before_shown"
    if outcome.at_ms > showing.first_ms + rules.windows_ms[outcome.kind]:
        return "outside_window"
    return ""


def earned(
    outcomes: Iterable[Outcome], removals: Iterable[Outcome], until_ms: int, rules: FeedbackRules
) -> Earned:
    """Return what a slot has earned.

    Parameters
    ----------
    outcomes
        Those credited to it.
    removals
        All of its item, of any list.
    until_ms
        What comes later does not count.

    Examples
    --------
    >>> added, removed = Outcome(10, 1, 7, 0, ADD_TO_CART, 0.0), Outcome(11, 2, 7, 0, REMOVE_FROM_CART, 0.0)
    >>> rules = FeedbackRules()
    >>> earned([added], [], 20, rules).label, earned([added], [removed], 20, rules).label
    ('add_to_cart', 'none')
    """
    undone_ms = [one.at_ms for one in removals if one.at_ms <= until_ms]
    clicked = carted = bought = False
    dwell_s, revenue = 0.0, []
    for outcome in outcomes:
        if outcome.at_ms > until_ms:
            continue
        if outcome.kind == CLICK:
            clicked = True
        elif outcome.kind == DWELL:
            dwell_s = max(dwell_s, outcome.value)
        elif outcome.kind == ADD_TO_CART:
            carted = carted or not any(at_ms >= outcome.at_ms for at_ms in undone_ms)
        elif outcome.kind == PURCHASE:
            bought = True
            revenue.append(outcome.value)
    happened = (clicked, 0.0 < dwell_s >= rules.dwell_from_s, carted, bought)
    best = max(
        (kind for kind, it_did in enumerate(happened) if it_did),
        key=lambda kind: (rules.rewards[kind], kind),
        default=None,
    )
    label, reward = ("none", 0.0) if best is None else (KINDS[best], rules.rewards[best])
    return Earned(label, reward, clicked, carted, bought, dwell_s, sum(sorted(revenue)))


def is_removal(outcome: Outcome) -> bool:
    """Whether an outcome only undoes."""
    return outcome.kind == REMOVE_FROM_CART
