"""The part of an event log that models learn from: who did what to which item, as arrays.

Only event types with an implicit weight enter (view and click 1, add_to_cart 3, purchase 5) and only events
with consent to personalization. Items are rows sorted by their 64-bit hash, as in a bundle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_export.sources.event_log import EventLog
from schemas.ids import item_hash

DAY_MS = 86_400_000
SESSION_GAP_MS = 30 * 60_000
# Hu, Koren and Volinsky (2008) let confidence grow with the count of interactions; a purchase
# counts five views.
IMPLICIT_WEIGHTS: Mapping[str, float] = {"view": 1.0, "click": 1.0, "add_to_cart": 3.0, "purchase": 5.0}
PURCHASE_WEIGHT = IMPLICIT_WEIGHTS["purchase"]


@dataclass(frozen=True)
class ItemRows:
    """The items of a model: ids and hashes in ascending order of hash.

    Parameters
    ----------
    ids
        n item ids.
    hashes
        uint64 (n,), strictly ascending.
    """

    ids: tuple[str, ...]
    hashes: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, ids: Sequence[str]) -> ItemRows:
        """Return the rows of distinct ids.

        Raises
        ------
        ValueError
            When two ids have one hash: the model cannot tell them apart, and one has to be renamed.
        """
        by_hash: dict[int, str] = {}
        for name in ids:
            other = by_hash.setdefault(item_hash(name), name)
            if other != name:
                raise ValueError(f"items {other!r} and {name!r} have one 64-bit hash; rename one of them")
        hashes = sorted(by_hash)
        return cls(tuple(by_hash[value] for value in hashes), np.array(hashes, np.uint64))

    def rows_of(self, ids: Sequence[str | None]) -> npt.NDArray[np.int32]:
        """Return int32 (len(ids),): the row of each id, -1 where it is unknown or None."""
        row = {name: index for index, name in enumerate(self.ids)}
        return np.fromiter(
            (row.get(name, -1) if name is not None else -1 for name in ids), np.int32, len(ids)
        )


@dataclass(frozen=True)
class Interactions:
    """Interactions in time order, n of them.

    Parameters
    ----------
    users
        int32 (n,) user codes, 0 to `n_users` - 1.
    items
        int32 (n,) rows of `ItemRows`.
    times_ms
        int64 (n,), non-decreasing.
    weights
        float32 (n,), implicit weights by event type.
    sessions
        int32 (n,): one number per session of a user. A new one starts after 30 minutes without an event or
        when the source's own session changes.
    n_users, n_items
        Numbers of codes and rows.
    """

    users: npt.NDArray[np.int32]
    items: npt.NDArray[np.int32]
    times_ms: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    sessions: npt.NDArray[np.int32]
    n_users: int
    n_items: int

    def __len__(self) -> int:
        return len(self.items)

    def purchases(self) -> Interactions:
        """Return the purchases alone."""
        return self._where(self.weights == PURCHASE_WEIGHT)

    def since(self, start_ms: int) -> Interactions:
        """Return the interactions at or after `start_ms`."""
        return self._where(self.times_ms >= start_ms)

    def _where(self, keep: npt.NDArray[np.bool_]) -> Interactions:
        return Interactions(
            self.users[keep],
            self.items[keep],
            self.times_ms[keep],
            self.weights[keep],
            self.sessions[keep],
            self.n_users,
            self.n_items,
        )


def touched_items(log: EventLog) -> ItemRows:
    """Return the items that the log's interactions name."""
    named = {
        item
        for item, kind, consent in zip(
            log.columns["item_id"], log.columns["event_type"], log.columns["consent"], strict=True
        )
        if item is not None and kind in IMPLICIT_WEIGHTS and consent == "personalization"
    }
    return ItemRows.of(sorted(named))


def interactions(log: EventLog, rows: ItemRows) -> Interactions:
    """Return the interactions of a log with the items of `rows`; users are coded in order of appearance."""
    items = rows.rows_of(log.columns["item_id"])
    kinds, consents = log.columns["event_type"], log.columns["consent"]
    weights = np.fromiter((IMPLICIT_WEIGHTS.get(kind, 0.0) for kind in kinds), np.float32, len(log))
    allowed = np.fromiter((consent == "personalization" for consent in consents), np.bool_, len(log))
    codes: dict[tuple[str, str], int] = {}
    users = np.fromiter(
        (
            codes.setdefault(key, len(codes))
            for key in zip(log.columns["tenant"], log.columns["user_id"], strict=True)
        ),
        np.int32,
        len(log),
    )
    keep = (items >= 0) & (weights > 0) & allowed
    sessions = session_numbers(users, log.times_ms, log.columns["session_id"])
    return Interactions(
        users[keep], items[keep], log.times_ms[keep], weights[keep], sessions[keep], len(codes), len(rows)
    )


def session_numbers(
    users: npt.NDArray[np.int32], times_ms: npt.NDArray[np.int64], named: Sequence[str | None]
) -> npt.NDArray[np.int32]:
    """Number the sessions of time-ordered events.

    Parameters
    ----------
    users
        int32 (n,).
    times_ms
        int64 (n,), non-decreasing.
    named
        The source's own session of each event, or None.

    Returns
    -------
    int32 (n,), numbers that never repeat between users.

    Examples
    --------
    >>> users = np.array([1, 1, 2, 1], np.int32)
    >>> session_numbers(users, np.array([0, 5, 6, 9_000_000]), [None] * 4).tolist()
    [0, 0, 2, 1]
    """
    names: dict[str | None, int] = {}
    codes = np.fromiter((names.setdefault(name, len(names)) for name in named), np.int64, len(users))
    order = np.lexsort((np.arange(len(users)), users))
    by_user, times, codes = users[order], times_ms[order], codes[order]
    starts = np.zeros(len(users), np.int32)
    starts[1:] = (by_user[1:] != by_user[:-1]) | (np.diff(times) > SESSION_GAP_MS) | (codes[1:] != codes[:-1])
    numbers = np.empty(len(users), np.int32)
    numbers[order] = np.cumsum(starts, dtype=np.int32)
    return numbers
