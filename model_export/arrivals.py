"""Which items came within a stretch of history: what training shows the ranker as a worker would have met it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_export.moments import Moment
from model_export.sources.event_log import EventLog
from schemas.ids import item_hash
from schemas.records import Item
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.item_index import ItemIndex
from udfs.ranking.rank_settings import ARRIVALS

PLACED = 5_000
"""Of the newest of a stretch at most, or as many as workers rank at once: to place one costs as much as the epoch has
items, and this is what a young catalogue of 6,500 items gains in a stretch."""


@dataclass(frozen=True)
class Arrivals:
    """Items that an epoch does not know, by the time of their first event.

    A shop publishes an item before anybody touches it, so this is the latest that a worker could have met it. Its
    record is that of the end of the stretch, as far as the file has earlier ones not.

    Parameters
    ----------
    times_ms
        int64 (m,), ascending.
    items
        m records.
    at_once
        That a worker ranks at most: older ones give way.
    came
        In the stretch, of which the m are the newest.
    """

    times_ms: npt.NDArray[np.int64]
    items: tuple[Item, ...]
    at_once: int = ARRIVALS
    came: int = 0

    @classmethod
    def none(cls) -> Arrivals:
        """Return that nothing came."""
        return cls(np.empty(0, np.int64), ())

    @classmethod
    def of(
        cls,
        log: EventLog,
        catalogue: Sequence[Item],
        known: Iterable[str],
        start_ms: int,
        at_once: int = ARRIVALS,
    ) -> Arrivals:
        """Return what came at or after `start_ms` and stands in a later catalogue, but not among what is known.

        Of very many the oldest are left out: they have given way at most moments of a stretch that gains so many.
        """
        left = {item.item_id: item for item in catalogue}
        for name in known:
            left.pop(name, None)
        start = log.position(start_ms)
        first: dict[str, int] = {}
        for name, at_ms in zip(log.columns["item_id"][start:], log.times_ms[start:].tolist(), strict=True):
            if name in left:
                first.setdefault(name, at_ms)
        kept = list(first)[-max(PLACED, at_once) :] if at_once else []
        times_ms = np.array([first[name] for name in kept], np.int64)
        return cls(times_ms, tuple(left[name] for name in kept), at_once, len(first))

    @property
    def given_way(self) -> int:
        """How many a worker would not rank at the end of the stretch."""
        return max(self.came - self.at_once, 0)

    def view(self, index: ItemIndex) -> CatalogueView:
        """Return a view of the epoch's items that knows all of these; who uses it allows them as they come."""
        view = CatalogueView(index, len(self.items))
        for item in self.items:
            view.apply(item)
        view.settle()
        return view

    def known_at(self, moments: Sequence[Moment]) -> npt.NDArray[np.int64]:
        """Return how many of these each moment comes after, int64 (len(moments),).

        A moment within a session comes after its event, one at the opening before it.
        """
        ends = [moment.at_ms + (moment.kind == "within") for moment in moments]
        return np.searchsorted(self.times_ms, np.array(ends, np.int64), side="left")

    def standing(self, known: int) -> npt.NDArray[np.bool_]:
        """Return which of these a worker ranks after the first `known` of them, bool (m,): the newest.

        One that has given way is no candidate, as there; but in training it still counts in the history of its users.
        """
        number = np.arange(len(self.items))
        return (number < known) & (number >= known - self.at_once)

    def rows_in(self, view: CatalogueView) -> npt.NDArray[np.int64]:
        """Return the row of each in a view of `view`, int64 (m,); none where nothing can join it."""
        joined = self.items if len(view.index) > len(view.base) else ()
        return np.array([view.index.row(item_hash(item.item_id)) for item in joined], np.int64)
