"""A simulated shop: users whose tastes nobody is told, who look at lists and click on what they like.

Everything is drawn from hashes of a seed, the user and the moment, so one policy's luck is not another's: two lists
that hold the same item at the same place are answered alike.

Who reads the lists and sends the events is another's: clients of a stack (`tailrace.live_shop`), or a test that calls
the jobs' logic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from xxhash import xxh3_64_intdigest

from schemas.records import Event, EventItem
from udfs.model.bundle import Bundle

LIKED_CATEGORIES: Final = 2
LIKES: Final = 0.35
OTHERWISE: Final = 0.03
"""Probability of a click on an item that is looked at: of a liked category, and of another."""
FINDS: Final = 0.3
"""Probability that a visitor finds something of a liked category without the list."""
PATIENCE: Final = 0.85
"""Each place is looked at if the one before was, with this probability."""
LEAST_ITEMS: Final = 20
VISITS: Final = 0.2
"""Share of the users that come in a minute."""
SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60_000
BEFORE_MS: Final = 10 * MINUTE_MS
"""So long before the first minute everybody has looked around."""


class Taste(NamedTuple):
    """What one user likes: hashes of categories."""

    user_id: str
    categories: frozenset[int]


class Visit(NamedTuple):
    """A user who comes, and when."""

    user: Taste
    at_ms: int


class HiddenTastes:
    """The users of the shop.

    Parameters
    ----------
    bundle
        Its items are the shop's.
    users
        How many.
    seed
        Of everything drawn.
    start_ms
        Event time of minute 0.
    """

    def __init__(self, bundle: Bundle, users: int, seed: int, start_ms: int = 1_700_000_000_000) -> None:
        columns, names = bundle.items.columns, bundle.items.category_names
        known, counts = np.unique(columns.category, return_counts=True)
        large = [
            int(one) for one, count in zip(known, counts, strict=True)
            if count >= LEAST_ITEMS and one and names.get(int(one), "other") != "other"
        ]  # fmt: skip
        if len(large) <= LIKED_CATEGORIES:
            wanted = f"more than {LIKED_CATEGORIES} categories of {LEAST_ITEMS} items"
            raise ValueError(f"catalogue: wanted {wanted}, got {len(large)}")
        self.start_ms = start_ms
        self._seed = seed
        self._ids = bundle.items.item_ids
        self._row = {item: row for row, item in enumerate(self._ids)}
        self._category = columns.category
        rng = np.random.default_rng(seed)
        self.users = [
            Taste(f"guest-{number}", frozenset(rng.choice(large, LIKED_CATEGORIES, replace=False).tolist()))
            for number in range(users)
        ]
        self._liked = {
            user: np.flatnonzero(np.isin(columns.category, [*user.categories])) for user in self.users
        }

    def browsed_before(self, user: Taste) -> list[Event]:
        """Return what the user did before minute 0, which tells of no taste: saw three things, and searched."""
        rng = np.random.default_rng([self._seed, xxh3_64_intdigest(user.user_id)])
        rows = rng.integers(len(self._ids), size=3).tolist()
        at_ms = [self.start_ms - BEFORE_MS + number * MINUTE_MS for number in range(len(rows) + 1)]
        views = [
            _event(user, f"before-{number}", "view", at_ms[number], self._ids[row])
            for number, row in enumerate(rows)
        ]
        return [*views, _event(user, "before", "search", at_ms[-1])]

    def visits(self, minute: int) -> list[Visit]:
        """Return who comes in this minute, the first first."""
        came = [user for user in self.users if self._draw("comes", user.user_id, minute) < VISITS]
        first_ms = self.start_ms + minute * MINUTE_MS
        found = [
            Visit(user, first_ms + int(MINUTE_MS * self._draw("when", user.user_id, minute))) for user in came
        ]
        return sorted(found, key=lambda visit: (visit.at_ms, visit.user.user_id))

    def answer(self, visit: Visit, rec_id: str, items: Sequence[str]) -> list[Event]:
        """Return what the user does with a list: sees it, clicks, searches on, so that the next visit finds another.

        Parameters
        ----------
        rec_id, items
            The list, from the top.
        """
        user, at_ms = visit
        minute = (at_ms - self.start_ms) // MINUTE_MS
        shown = tuple(EventItem(item, place) for place, item in enumerate(items))
        made = [_event(user, f"{minute}-shown", "impression", at_ms, None, rec_id, shown)]
        for place in self.clicks(user, minute, items):
            clicked_ms = at_ms + (place + 1) * SECOND_MS
            made.append(_event(user, f"{minute}-{place}", "click", clicked_ms, items[place], rec_id))
        on_ms = at_ms + (len(items) + 1) * SECOND_MS
        if self._draw("finds", user.user_id, minute) < FINDS:
            liked = self._liked[user]
            row = liked[int(len(liked) * self._draw("which", user.user_id, minute))]
            return [*made, _event(user, f"{minute}-found", "view", on_ms, self._ids[row])]
        return [*made, _event(user, f"{minute}-on", "search", on_ms)]

    def categories(self, items: Sequence[str]) -> int:
        """Return of how many categories items are."""
        return len({int(self._category[self._row[item]]) for item in items})

    def clicks(self, user: Taste, minute: int, items: Sequence[str]) -> list[int]:
        """Return the places that the user clicks on.

        Parameters
        ----------
        items
            Of the list, from the top.
        """
        found = []
        for place, item in enumerate(items):
            if place and self._draw("looks", user.user_id, minute, str(place)) > PATIENCE:
                break
            likes = LIKES if self._likes(user, item) else OTHERWISE
            if self._draw("clicks", user.user_id, minute, item) < likes:
                found.append(place)
        return found

    def _likes(self, user: Taste, item: str) -> bool:
        return int(self._category[self._row[item]]) in user.categories

    def _draw(self, *what: object) -> float:
        return (xxh3_64_intdigest("\0".join(map(str, (self._seed, *what)))) >> 11) * 2.0**-53


def _event(
    user: Taste,
    name: str,
    kind: str,
    at_ms: int,
    item: str | None = None,
    rec_id: str | None = None,
    items: tuple[EventItem, ...] = (),
) -> Event:
    return Event(
        f"{user.user_id}-{name}", kind, "default", user.user_id, None, item, at_ms, at_ms, rec_id, items, None, None,
        {}, "personalization",
    )  # fmt: skip
