"""What a user did to one item, as the join keeps it."""

from __future__ import annotations

from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

from schemas.ids import item_hash
from schemas.records import Event
from udfs.feedback.rules import ADD_TO_CART, CLICK, DWELL, PURCHASE, REMOVE_FROM_CART

MAX_ORDER_ITEMS: Final = 50
NO_LIST: Final = 0

_KINDS: Final = {
    "click": CLICK,
    "view": CLICK,
    "dwell": DWELL,
    "add_to_cart": ADD_TO_CART,
    "purchase": PURCHASE,
    "remove_from_cart": REMOVE_FROM_CART,
}


class Outcome(NamedTuple):
    """One outcome, told by event and item.

    Attributes
    ----------
    at_ms
        Effective time.
    event, item, rec
        Hashes of event id, item and the list that it names; `NO_LIST`: none.
    kind
        Index in `udfs.feedback.rules.KINDS`.
    value
        Purchase: this item's share of the order's amount. Dwell: seconds. Else 0.
    checked
        Its list is certain: no impression that could change it can still come.
    """

    at_ms: int
    event: int
    item: int
    rec: int
    kind: int
    value: float
    checked: bool = False


def rec_hash(rec_id: str) -> int:
    """Hash by which the join names a list: uint64, never `NO_LIST`."""
    return xxh3_64_intdigest(rec_id) or 1


def is_outcome(event: Event) -> bool:
    """Whether an event answers a list: a view does only if it names one."""
    return event.event_type in _KINDS and (event.event_type != "view" or event.rec_id is not None)


def outcomes_of(event: Event, at_ms: int) -> tuple[Outcome, ...]:
    """Return the outcomes of an event, one an item; an order shares its value equally.

    Parameters
    ----------
    event
        One for which `is_outcome` holds.
    at_ms
        Its effective time.

    Examples
    --------
    >>> from schemas.records import EventItem
    >>> lines = (EventItem("b"),)
    >>> order = Event("e", "purchase", "default", "u", None, "a", 9, 9, None, lines, 30.0, None, {}, "none")
    >>> [(outcome.kind, outcome.value) for outcome in outcomes_of(order, 9)]
    [(3, 15.0), (3, 15.0)]
    """
    kind = _KINDS[event.event_type]
    item_ids = [] if event.item_id is None else [event.item_id]
    if kind == PURCHASE:
        item_ids = list(dict.fromkeys([*item_ids, *(item.item_id for item in event.items)]))[:MAX_ORDER_ITEMS]
    value = 0.0
    if event.value is not None and kind in (PURCHASE, DWELL):
        value = event.value / len(item_ids) if item_ids else 0.0
    rec = NO_LIST if event.rec_id is None else rec_hash(event.rec_id)
    name = xxh3_64_intdigest(event.event_id)
    return tuple(Outcome(at_ms, name, item_hash(item_id), rec, kind, value) for item_id in item_ids)
