"""Small interaction tables with answers that are plain to see."""

from __future__ import annotations

import numpy as np

from model_export.interactions import Interactions

DAY_MS = 86_400_000


def table(
    rows: list[tuple[int, int, int]], weights: list[float] | None = None, n_items: int = 0
) -> Interactions:
    """Interactions from (user, item, time) rows in time order; a gap of 30 minutes starts a session."""
    users, items, times = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    sessions = np.zeros(len(rows), np.int32)
    number, last = 0, {}
    for k, (user, _, time_ms) in enumerate(rows):
        if user not in last or time_ms - last[user][0] > 30 * 60_000:
            last[user] = (time_ms, number)
            number += 1
        sessions[k] = last[user][1]
        last[user] = (time_ms, last[user][1])
    return Interactions(
        users.astype(np.int32),
        items.astype(np.int32),
        times,
        np.array(weights or [5.0] * len(rows), np.float32),
        sessions,
        int(users.max()) + 1,
        max(n_items, int(items.max()) + 1),
    )


def random_table(seed: int, n: int = 600, n_users: int = 20, n_items: int = 30) -> Interactions:
    """Random users, items and times over sixty days."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(0, 60 * DAY_MS, n))
    users, items = rng.integers(0, n_users, n), rng.integers(0, n_items, n)
    return table(list(zip(users.tolist(), items.tolist(), times.tolist(), strict=True)), n_items=n_items)
