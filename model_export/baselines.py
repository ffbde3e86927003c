"""What a model has to beat: what sold lately, and what this user keeps buying.

Both see every event before the cut, while the engine's state holds a user's last 50 interactions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_export.interactions import DAY_MS, PURCHASE_WEIGHT, Interactions
from model_export.list_metrics import top_rows
from model_export.popularity import recent_popularity

HALF_LIFE_DAYS = 45.0
POPULARITY_DAYS = 28.0
TIE_BREAK = 1e-3  # of recent popularity, at most: it orders what the user had equally often, and the rest


@dataclass(frozen=True)
class Baselines:
    """Lists from counts.

    Parameters
    ----------
    popular
        float64 (n_items,), sessions of the last 28 days with a purchase of the item, scaled to [0, 1].
    histories
        User code to rows and decayed counts of everything the user did before the cut.
    """

    popular: npt.NDArray[np.float64]
    histories: dict[int, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]

    @classmethod
    def fit(cls, data: Interactions, cut_ms: int) -> Baselines:
        """Count the interactions before the cut; a purchase counts 1, a view a fifth."""
        counts = recent_popularity(data, cut_ms, POPULARITY_DAYS)
        if not counts.any():  # a log of views
            counts = np.bincount(data.items, minlength=data.n_items).astype(np.float64)
        decayed = data.weights / PURCHASE_WEIGHT * 0.5 ** ((cut_ms - data.times_ms) / DAY_MS / HALF_LIFE_DAYS)
        order = np.argsort(data.users, kind="stable")
        edges = np.searchsorted(data.users[order], np.arange(data.n_users + 1))
        items, decayed = data.items[order].astype(np.int64), decayed[order]
        histories = {
            user: (items[start:stop], decayed[start:stop])
            for user, (start, stop) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
            if stop > start
        }
        return cls(counts / max(counts.max(initial=0.0), 1.0), histories)

    def own(self, user: int) -> set[int]:
        """Return the rows of the items the user had before the cut."""
        return set(self.histories[user][0].tolist()) if user in self.histories else set()

    def personal(self, user: int) -> npt.NDArray[np.float64]:
        """Return float64 (n_items,): decayed counts of the user's items, recent popularity behind them."""
        scores = TIE_BREAK * self.popular
        if user in self.histories:
            rows, decayed = self.histories[user]
            scores = scores + np.bincount(rows, decayed, len(scores))
        return scores

    def lists(self, user: int) -> tuple[list[int], list[int]]:
        """Return the ten most popular items and the user's ten."""
        return top_rows(self.popular), top_rows(self.personal(user))
