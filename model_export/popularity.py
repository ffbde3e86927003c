"""What many people want, and how often one person wants it again.

`popularity` sums implicit weights over all time; `trending` sums them halved for every seven days before the
cut. `rebuy_days` is the median time between two purchases of an item by one user in different sessions, and
`repeat_rate` the share of an item's buyers who bought it in two sessions or more, drawn towards the shop's
mean by five pseudo-buyers (an item with one buyer has no rate of its own).

Source: repeat consumption, Anderson, Kumar, Tomkins, Vassilvitskii, *The Dynamics of Repeat Consumption*,
WWW 2014 (recency and time to the next consumption decide).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_export.interactions import DAY_MS, Interactions

TRENDING_HALF_LIFE_DAYS = 7.0
REPEAT_PRIOR_BUYERS = 5.0
LEAST_REBUYS = 3  # below this many repeat purchases the median says nothing


@dataclass(frozen=True)
class Popularity:
    """Four float32 (n_items,) arrays; `rebuy_days` is nan where unknown."""

    popularity: npt.NDArray[np.float32]
    trending: npt.NDArray[np.float32]
    rebuy_days: npt.NDArray[np.float32]
    repeat_rate: npt.NDArray[np.float32]


def fit_popularity(data: Interactions, cut_ms: int) -> Popularity:
    """Count before the cut.

    Parameters
    ----------
    data
        Interactions before `cut_ms`.
    cut_ms
        What trending decays to.
    """
    weights = data.weights.astype(np.float64)
    ages_days = (cut_ms - data.times_ms) / DAY_MS
    decayed = weights * 0.5 ** (ages_days / TRENDING_HALF_LIFE_DAYS)
    rebuy_days, repeat_rate = _repeats(data.purchases())
    return Popularity(
        np.bincount(data.items, weights, data.n_items).astype(np.float32),
        np.bincount(data.items, decayed, data.n_items).astype(np.float32),
        rebuy_days,
        repeat_rate,
    )


def recent_popularity(data: Interactions, cut_ms: int, days: float = 28.0) -> npt.NDArray[np.float64]:
    """Return float64 (n_items,): in how many sessions of the last days an item was bought; the baseline."""
    recent = data.purchases().since(cut_ms - int(days * DAY_MS))
    pairs = np.unique(np.stack([recent.sessions.astype(np.int64), recent.items.astype(np.int64)]), axis=1)
    return np.bincount(pairs[1], minlength=data.n_items).astype(np.float64)


def _repeats(bought: Interactions) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return rebuy_days and repeat_rate, both float32 (n_items,)."""
    order = np.lexsort((bought.times_ms, bought.items, bought.users))
    users, items = bought.users[order], bought.items[order]
    times_ms, sessions = bought.times_ms[order], bought.sessions[order]
    same_pair = (users[1:] == users[:-1]) & (items[1:] == items[:-1])
    again = np.zeros(len(items), np.bool_)
    again[1:] = same_pair & (sessions[1:] != sessions[:-1])
    first = np.ones(len(items), np.bool_)
    first[1:] = ~same_pair
    gaps_days = np.zeros(len(items))
    gaps_days[1:] = np.diff(times_ms) / DAY_MS
    rebuy_days = np.full(bought.n_items, np.nan, np.float32)
    by_item = np.lexsort((gaps_days[again], items[again]))
    rebought, gaps = items[again][by_item], gaps_days[again][by_item]
    for item, start, count in zip(*np.unique(rebought, return_index=True, return_counts=True), strict=True):
        if count >= LEAST_REBUYS:
            rebuy_days[item] = np.median(gaps[start : start + count])
    buyers = np.bincount(items[first], minlength=bought.n_items).astype(np.float64)
    pair = np.cumsum(first) - 1
    pairs_again = np.unique(pair[again])
    repeaters = np.bincount(items[first][pairs_again], minlength=bought.n_items).astype(np.float64)
    mean = repeaters.sum() / max(buyers.sum(), 1.0)
    rate = (repeaters + REPEAT_PRIOR_BUYERS * mean) / (buyers + REPEAT_PRIOR_BUYERS)
    return rebuy_days, rate.astype(np.float32)
