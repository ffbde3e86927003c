"""The catalogue inside a rank worker: `recs.items.v1` read from its start and followed between batches.

Every list logs the index mark, the catalogue offset it was made with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flink_jobs.followed_topic import FollowedTopic
from flink_jobs.settings import Kafka
from schemas.codec import Codec
from schemas.records import Item
from schemas.refusal import Refused
from schemas.topics import ITEMS
from udfs.ranking.catalogue import CatalogueView

if TYPE_CHECKING:
    from udfs.model.bundle import Bundle

PER_BATCH = 2_000


class CatalogueFeed:
    """Items as last published, and their view for each bundle in use.

    Parameters
    ----------
    settings
        How to reach the broker.
    codec
        Reads the records; what it refuses is skipped and counted, the item keeps its last state.
    arrivals
        Of each view: items unknown to its epoch that are ranked by what is said of them, at most.

    Attributes
    ----------
    refused
        Number of records that could not be read.
    mark
        Offset behind the newest record taken in.
    """

    def __init__(self, settings: Kafka, codec: Codec, arrivals: int = 0) -> None:
        self.refused = 0
        self.mark = 0
        self._codec = codec
        self._arrivals = arrivals
        self._items: dict[str, Item] = {}
        self._changed: list[Item] = []
        self._views: dict[int, CatalogueView] = {}
        self._topic = FollowedTopic(settings, ITEMS, self._take, PER_BATCH)
        self._changed.clear()  # what stood there before is in the store, or a republish brings it back

    def view(self, bundle: Bundle) -> CatalogueView:
        """Give the catalogue as seen by a bundle's rows, up to date with what the broker has sent."""
        self.follow()
        view = self._views.get(bundle.epoch)
        if view is None or view.bundle_sha256 != bundle.manifest_sha256:
            view = CatalogueView(bundle, self._arrivals)
            for item in self._items.values():
                view.apply(item)
            view.mark = self.mark
            self._views = {**dict(list(self._views.items())[-1:]), bundle.epoch: view}
        return view

    def follow(self, timeout_s: float = 0.0) -> int:
        """Take in what has come, at most `PER_BATCH` records, and return how many messages that were."""
        return self._topic.follow(timeout_s)

    def take_changes(self) -> list[Item]:
        """Give the items that changed since the last call, in the order of the topic."""
        changed, self._changed = self._changed, []
        return changed

    @property
    def unknown(self) -> int:
        """How many records of items found no place in a view: the epoch knows them not, or they gave way."""
        return max((view.unknown for view in self._views.values()), default=0)

    def close(self) -> None:
        """Leave the broker."""
        self._topic.close()

    def _take(self, key: str, value: bytes | None, offset: int) -> None:
        try:
            item = self._codec.decode("Item", value) if value else None
        except Refused:
            self.refused += 1
            item = None
        if item is not None:
            self._items.pop(item.item_id, None)  # in the order of the newest records, as after a compaction
            self._items[item.item_id] = item
            self._changed.append(item)
        self.mark = offset + 1
        for view in self._views.values():
            if item is not None:
                view.apply(item)
            view.mark = self.mark
