"""Whom the demo shows and what that customer clicks: the same choice on every machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from schemas.records import Event

MIN_VISITS = 3
ITEMS = (20, 45)
CLICKS = 3
MIN_CATEGORY_ITEMS = 8
CATCH_ALL = "other"
"""A category that says nothing."""


class Customer(NamedTuple):
    """A customer of the shop.

    Parameters
    ----------
    visits
        Invoices.
    items
        What was bought, each once, the latest last.
    """

    user_id: str
    visits: int
    items: tuple[str, ...]


def choose_customer(events: Iterable[Event]) -> Customer:
    """Give the customer with the most visits among those whose list says something.

    Wanted: at least `MIN_VISITS` invoices, and as many different items as a person can look over (`ITEMS`).
    Where nobody has that, the one with the most items. Ties go to the lowest id.
    """
    visits: dict[str, set[str]] = defaultdict(set)
    items: dict[str, dict[str, None]] = defaultdict(dict)
    for event in events:
        if event.item_id is not None:
            visits[event.user_id].add(event.session_id or "")
            items[event.user_id].pop(event.item_id, None)
            items[event.user_id][event.item_id] = None
    if not items:
        raise ValueError("no events with items: there is no customer to show")

    def rank(user: str) -> tuple[bool, int, int, str]:
        good = len(visits[user]) >= MIN_VISITS and ITEMS[0] <= len(items[user]) <= ITEMS[1]
        return (not good, -len(visits[user]) if good else 0, -len(items[user]), user)

    best = min(items, key=rank)
    return Customer(best, len(visits[best]), tuple(items[best]))


def choose_clicks(
    customer: Collection[str],
    categories: Mapping[str, str],
    popularity: Mapping[str, float],
    turn: int = 0,
    listed: Collection[str] = (),
) -> tuple[str, Sequence[str]]:
    """Give a category that is new to the customer, and its most popular items.

    Parameters
    ----------
    customer
        Items that the customer knows.
    categories, popularity
        Item to category, and to a number.
    turn
        Runs of the demo before this one: each takes another category.
    listed
        Items that stand in the list already.

    Returns
    -------
    category
        Name.
    items
        `CLICKS` of them, the most popular first.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for item_id, category in categories.items():
        if category not in ("", CATCH_ALL):
            members[category].append(item_id)
    known = {categories.get(item_id, "") for item_id in customer}
    taken = {*customer, *listed}
    choices = []
    for category, item_ids in members.items():
        free = [item_id for item_id in item_ids if item_id not in taken]
        if len(free) >= MIN_CATEGORY_ITEMS:
            free.sort(key=lambda item_id: (-popularity.get(item_id, 0.0), item_id))
            weight = sum(popularity.get(item_id, 0.0) for item_id in item_ids)
            choices.append((category in known, -weight, category, free[:CLICKS]))
    if not choices:
        raise ValueError("no category has enough items that the customer does not know")
    choices.sort()
    _, _, category, items = choices[turn % len(choices)]
    return category, items
