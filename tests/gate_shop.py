"""A small shop for the gate's tests: users who go on where they stopped, before and after a toy bundle's time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.bundles import NOW_MS, item_id

DAY_MS = 86_400_000
USERS = 120


def events_file(path: Path, items: int = 300, users: int = USERS, later: bool = True) -> Path:
    """Write events: each user walks along the items of one parity, three before the bundles' time, two after it.

    An item's neighbour in a toy bundle is the next of its parity, so the right answer is obvious.
    """
    rng = np.random.default_rng(5)
    lines = []

    def view(user: int, step: int, at_ms: int, number: int) -> None:
        lines.append(
            {
                "event_id": f"{user}/{step}",
                "event_type": "view",
                "user_id": f"u{user}",
                "item_id": item_id(number % items),
                "event_time": at_ms,
                "consent": "personalization",
            }
        )

    for user, first in enumerate(rng.integers(0, items - 20, users).tolist()):
        for step in range(3):
            view(user, step, NOW_MS - DAY_MS + 60_000 * step + 1_000 * user, first + 2 * step)
        for step in range(3, 5) if later else ():
            view(user, step, NOW_MS + DAY_MS + 60_000 * step + 1_000 * user, first + 2 * step)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
