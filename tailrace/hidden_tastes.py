"""A simulated shop: users whose tastes nobody is told, who look at lists and click on what they like.

Everything is drawn from hashes of a seed, the user and the moment, so one policy's luck is not another's: two lists
that hold the same item at the same place are answered alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from xxhash import xxh3_64_intdigest

from udfs.model.bundle import Bundle

LIKED_CATEGORIES: Final = 2
LIKES: Final = 0.35
OTHERWISE: Final = 0.03
"""Probability of a click on an item that is looked at: of a liked category, and of another."""
PATIENCE: Final = 0.85
"""Each place is looked at if the one before was, with this probability."""
LEAST_ITEMS: Final = 20


class Taste(NamedTuple):
    """What one user likes: hashes of categories."""

    user_id: str
    categories: frozenset[int]


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
    """

    def __init__(self, bundle: Bundle, users: int, seed: int) -> None:
        columns, names = bundle.items.columns, bundle.items.category_names
        known, counts = np.unique(columns.category, return_counts=True)
        large = [
            int(one) for one, count in zip(known, counts, strict=True)
            if count >= LEAST_ITEMS and one and names.get(int(one), "other") != "other"
        ]  # fmt: skip
        if len(large) <= LIKED_CATEGORIES:
            wanted = f"more than {LIKED_CATEGORIES} categories of {LEAST_ITEMS} items"
            raise ValueError(f"catalogue: wanted {wanted}, got {len(large)}")
        self._seed = seed
        self._ids = bundle.items.item_ids
        self._row = {item: row for row, item in enumerate(self._ids)}
        self._category = columns.category
        rng = np.random.default_rng(seed)
        self.users = [
            Taste(f"guest-{number}", frozenset(rng.choice(large, LIKED_CATEGORIES, replace=False).tolist()))
            for number in range(users)
        ]
        self._of_category = {one: np.flatnonzero(columns.category == one) for one in large}

    def browsed_before(self, user: Taste) -> list[str]:
        """Return what the user looked at before the hour: one thing of a liked category, and two of any."""
        rng = np.random.default_rng([self._seed, xxh3_64_intdigest(user.user_id)])
        liked = self._of_category[min(user.categories)]
        rows = [int(rng.choice(liked)), *rng.integers(len(self._ids), size=2).tolist()]
        return [self._ids[row] for row in rows]

    def comes(self, user: Taste, minute: int, share: float) -> bool:
        """Tell whether the user comes in this minute."""
        return self._draw("comes", user.user_id, minute) < share

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
            liked = int(self._category[self._row[item]]) in user.categories
            if self._draw("clicks", user.user_id, minute, item) < (LIKES if liked else OTHERWISE):
                found.append(place)
        return found

    def _draw(self, *what: object) -> float:
        return (xxh3_64_intdigest("\0".join(map(str, (self._seed, *what)))) >> 11) * 2.0**-53
