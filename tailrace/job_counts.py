"""The recommend job's exactly-once totals, as its shards publish them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

OUTCOMES = ("accepted", "duplicate", "unknown_type", "no_consent", "essential_only")
"""What becomes of an event that is not refused; each event counts once among these and `refused_*`."""

NOTES = {
    "late": "older than the user's newest event; taken at its place in time",
    "unknown_item": "of an item that the model does not know; kept, not ranked with",
    "clamped_future": "its time was after its arrival; held to one minute after",
    "clamped_ancient": "its time was more than 7 days before its arrival; held to that",
    "no_received_time": "nothing to hold its time against",
}


class JobCounts(NamedTuple):
    """Totals since the first event.

    Parameters
    ----------
    total
        Name to count, summed over the shards.
    shards
        Number of shards that have published.
    """

    total: dict[str, int]
    shards: int

    @property
    def events(self) -> int:
        """Events read."""
        return self.total.get("events", 0)

    @property
    def refused(self) -> dict[str, int]:
        """Reason to count: what went to the dead letters, of all topics."""
        prefix = "refused_"
        return {
            name.removeprefix(prefix): count for name, count in self.total.items() if name.startswith(prefix)
        }


def sum_counts(fields: Mapping[str | bytes, str | bytes]) -> JobCounts:
    """Sum the shards' counts.

    Parameters
    ----------
    fields
        The HASH `schemas.redis_keys.stats_key`: shard index to JSON of `_v` and `counts`.

    Examples
    --------
    >>> one, two = ('{"_v": "0", "counts": {"events": 2}}', '{"_v": "0", "counts": {"events": 3}}')
    >>> sum_counts({"0": one, "1": two})
    JobCounts(total={'events': 5}, shards=2)
    """
    total: Counter[str] = Counter()
    for text in fields.values():
        total.update(json.loads(text)["counts"])
    return JobCounts(dict(sorted(total.items())), len(fields))
