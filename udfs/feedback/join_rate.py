"""How many of the lists that were shown found the record of what was served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

UNMATCHED: Final = (
    "impression_unknown_rec_id",
    "impression_of_other_items",
    "impression_evicted",
    "impression_late",
    "impression_without_rec_id",
)
"""Counters of impressions that made no example, each a reason."""


def join_rate(counts: Mapping[str, int]) -> float | None:
    """Return the share of shown lists that made an example; None before the first is settled.

    Parameters
    ----------
    counts
        Totals of the counters that `FeedbackLogic` names.

    Examples
    --------
    >>> join_rate({"impression_joined": 999, "impression_unknown_rec_id": 1})
    0.999
    """
    joined = counts.get("impression_joined", 0)
    settled = joined + sum(counts.get(name, 0) for name in UNMATCHED)
    return joined / settled if settled else None
