"""Hands updates to Kafka, one at a time: a device sends seldom, and must know what arrived."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import Producer

from clients.delivery import DeliveryQueue, Sender
from schemas.topics import EDGE_UPDATES, Topic


class EdgeSender(Sender):
    """Sends the bytes that a `clients.edge.device.Device` stored.

    Parameters
    ----------
    bootstrap_servers, topic_prefix, config, clock_ms, make_producer
        As of `clients.producer.EventProducer`.
    topic
        Another of the edge topics, for the key holder's versions.
    delivery_wait_s
        How long an update may take to be delivered.

    Examples
    --------
    >>> with EdgeSender("127.0.0.1:29092") as sender:                    # doctest: +SKIP
    ...     device.send(sender.deliver)
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        topic_prefix: str = "",
        config: Mapping[str, Any] | None = None,
        topic: Topic = EDGE_UPDATES,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        delivery_wait_s: float = 30.0,
        make_producer: Callable[[dict[str, Any]], Any] = Producer,
    ) -> None:
        # Above the largest update, as the topic's own limit is.
        settings = {
            "linger.ms": 0,
            "message.max.bytes": topic.config["max.message.bytes"],
            **(config or {}),
        }
        super().__init__(DeliveryQueue(bootstrap_servers, settings, make_producer=make_producer))
        self._topic = topic_prefix + topic.name
        self._clock_ms = clock_ms
        self._delivery_wait_s = delivery_wait_s

    def deliver(self, key: str, value: bytes) -> None:
        """Send one update as it is, and wait until the brokers have it.

        Raises
        ------
        ConnectionError
            If they did not take it in time. They may have it all the same; the same bytes are to be sent again.
        """
        failed = self.failed
        self._queue.put(self._topic, key, value, self._clock_ms())
        if self._queue.flush(self._delivery_wait_s) or self.failed > failed:
            raise ConnectionError(f"{self._topic}: the update was not taken: {self.last_error}")
