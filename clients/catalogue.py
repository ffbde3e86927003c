"""Publishes the catalogue: one compacted record an item, the last one holds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from confluent_kafka import Producer

from clients.delivery import Delivery, DeliveryQueue, Sender
from schemas.codec import encode
from schemas.ids import check_id, user_key
from schemas.records import DEFAULT_TENANT, Item
from schemas.refusal import Refused
from schemas.topics import ITEMS
from schemas.validation import MAX_TIME_MS


def item_key(tenant: str, item_id: str) -> str:
    """Kafka key of an item's records: tenant, a slash, item, each percent-encoded."""
    return user_key(tenant, item_id)


class CatalogueProducer(Sender):
    """Sends items.

    Parameters
    ----------
    bootstrap_servers, topic_prefix, on_delivery, full_wait_s, config, make_producer
        As of `clients.producer.EventProducer`.
    clock_ms
        Milliseconds since 1970 UTC: `updated_time` where an item has none.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        topic_prefix: str = "",
        on_delivery: Callable[[Delivery], None] | None = None,
        full_wait_s: float = 10.0,
        config: Mapping[str, Any] | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        make_producer: Callable[[dict[str, Any]], Any] = Producer,
    ) -> None:
        settings = {"linger.ms": 20, "compression.type": "lz4", **(config or {})}
        super().__init__(
            DeliveryQueue(
                bootstrap_servers,
                settings,
                on_delivery=on_delivery,
                full_wait_s=full_wait_s,
                make_producer=make_producer,
            )
        )
        self._topic = topic_prefix + ITEMS.name
        self._clock_ms = clock_ms

    def send(self, item: Item) -> None:
        """Check and queue an item; an `updated_time` of 0 is now.

        Raises
        ------
        Refused
            Says the field, what is wanted and what came.
        """
        item = item._replace(updated_time=item.updated_time or self._clock_ms())
        value = encode(item)  # first: it names a field of a wrong type
        check_id("tenant", item.tenant)
        check_id("item_id", item.item_id)
        if item.price is not None and not (math.isfinite(item.price) and item.price >= 0):
            raise Refused("bad_value", f"price: wanted 0 or more, got {item.price}")
        if not 0 < item.updated_time <= MAX_TIME_MS:
            raise Refused("bad_value", f"updated_time: wanted 1 to {MAX_TIME_MS} ms, got {item.updated_time}")
        self._queue.put(self._topic, item_key(item.tenant, item.item_id), value, item.updated_time)

    def send_many(self, items: Iterable[Item]) -> int:
        """`send` each; returns how many."""
        count = 0
        for count, item in enumerate(items, 1):  # noqa: B007 - the count is what is returned
            self.send(item)
        return count

    def delete(self, item_id: str, tenant: str = DEFAULT_TENANT) -> None:
        """Queue a tombstone, which only makes compaction forget the item: send it as blocked before."""
        check_id("item_id", item_id)
        self._queue.put(self._topic, item_key(tenant, item_id), None, self._clock_ms())
