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
    """

    times_ms: npt.NDArray[np.int64]
    items: tuple[Item, ...]

    @classmethod
    def none(cls) -> Arrivals:
        """Return that nothing came."""
        return cls(np.empty(0, np.int64), ())

    @classmethod
    def of(cls, log: EventLog, catalogue: Sequence[Item], known: Iterable[str], start_ms: int) -> Arrivals:
        """Return what came at or after `start_ms` and stands in a later catalogue, but not among what is known."""
        left = {item.item_id: item for item in catalogue}
        for name in known:
            left.pop(name, None)
        start = log.position(start_ms)
        first: dict[str, int] = {}
        for name, at_ms in zip(log.columns["item_id"][start:], log.times_ms[start:].tolist(), strict=True):
            if name in left:
                first.setdefault(name, at_ms)
        return cls(np.fromiter(first.values(), np.int64, len(first)), tuple(left[name] for name in first))

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

    def rows_in(self, view: CatalogueView) -> npt.NDArray[np.int64]:
        """Return the row of each in a view of `view`, int64 (m,); none where nothing can join it."""
        joined = self.items if len(view.index) > len(view.base) else ()
        return np.array([view.index.row(item_hash(item.item_id)) for item in joined], np.int64)
