"""Publishes orders to the jobs: model epochs, consent, erasure, republish."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import Producer

from clients.delivery import Delivery, DeliveryQueue, Sender
from schemas.codec import encode
from schemas.records import DEFAULT_TENANT, Control
from schemas.topics import CONTROL
from schemas.validation import control_key, validate_control


class ControlProducer(Sender):
    """Sends orders, and waits until the brokers have each: an order is rare and must not be lost.

    Parameters
    ----------
    bootstrap_servers, topic_prefix, on_delivery, config, make_producer
        As of `clients.producer.EventProducer`.
    clock_ms
        Milliseconds since 1970 UTC: `issued_time`.
    delivery_wait_s
        How long an order may take to be delivered.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        topic_prefix: str = "",
        on_delivery: Callable[[Delivery], None] | None = None,
        config: Mapping[str, Any] | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        delivery_wait_s: float = 30.0,
        make_producer: Callable[[dict[str, Any]], Any] = Producer,
    ) -> None:
        settings = {"linger.ms": 0, **(config or {})}
        super().__init__(
            DeliveryQueue(bootstrap_servers, settings, on_delivery=on_delivery, make_producer=make_producer)
        )
        self._topic = topic_prefix + CONTROL.name
        self._clock_ms = clock_ms
        self._delivery_wait_s = delivery_wait_s

    def send(self, control: Control) -> str:
        """Check, stamp and deliver an order; returns its id.

        Raises
        ------
        Refused
            `bad_control` or `bad_value`, saying the field, what is wanted and what came.
        ConnectionError
            If the brokers did not take it in time.
        """
        now_ms = self._clock_ms()
        control = control._replace(
            control_id=control.control_id or f"{now_ms:012x}-{secrets.token_hex(8)}",
            issued_time=control.issued_time or now_ms,
        )
        value = encode(control)
        key = control_key(control)
        validate_control(control, key)
        failed = self.failed
        self._queue.put(self._topic, key, value, control.issued_time)
        if self._queue.flush(self._delivery_wait_s) or self.failed > failed:
            raise ConnectionError(f"{self._topic}: the order {control.kind} was not taken: {self.last_error}")
        return control.control_id

    def preload_epoch(self, epoch: int, reason: str = "") -> str:
        """Let every worker load a bundle."""
        return self.send(Control("", "preload_epoch", None, None, epoch, None, 0, reason))

    def activate_epoch(self, epoch: int, reason: str = "") -> str:
        """Let every list from now on come from a bundle."""
        return self.send(Control("", "activate_epoch", None, None, epoch, None, 0, reason))

    def republish(self, reason: str = "") -> str:
        """Write every user's list again, as after the store was lost."""
        return self.send(Control("", "republish", None, None, None, None, 0, reason))

    def set_experiments(self, experiments: str, reason: str = "") -> str:
        """Let these experiments run from now on, and no others: `udfs.experiments.running`, as JSON."""
        return self.send(Control("", "set_experiments", None, None, None, None, 0, reason, experiments))

    def set_consent(self, user_id: str, consent: str, tenant: str = DEFAULT_TENANT, reason: str = "") -> str:
        """What a user allows from now on; less than personalization deletes the profile."""
        return self.send(Control("", "set_consent", tenant, user_id, None, consent, 0, reason))

    def erase_user(self, user_id: str, tenant: str = DEFAULT_TENANT, reason: str = "") -> str:
        """Delete all that is kept of a user."""
        return self.send(Control("", "erase_user", tenant, user_id, None, None, 0, reason))
