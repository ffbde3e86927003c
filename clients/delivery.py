"""Hands records to Kafka and keeps count of what became of them: what the producers here share."""

from __future__ import annotations

import atexit
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from confluent_kafka import Producer

POLL_S: Final = 0.05
EXIT_FLUSH_S: Final = 10.0

# No record is lost or doubled by a retry, and one key's records stay in order. The partitioner is Java's.
DURABLE: Final = {
    "enable.idempotence": True,
    "acks": "all",
    "partitioner": "murmur2_random",
    "delivery.timeout.ms": 120_000,
}


class Delivery(NamedTuple):
    """What became of one record.

    Parameters
    ----------
    key
        The record's key.
    error
        None where the brokers have it; else why not, after all retries.
    partition, offset
        Where it stands; -1 where it does not.
    """

    key: str
    error: str | None
    partition: int
    offset: int


class QueueFullError(TimeoutError):
    """The local queue stayed full: the brokers take less than is sent, or nothing at all."""


class UndeliveredError(RuntimeError):
    """Records were still on their way, or had failed, when the producer was closed."""


class DeliveryQueue:
    """A Kafka producer with counters, a bounded wait when its queue is full, and a flush at exit.

    Parameters
    ----------
    bootstrap_servers
        Brokers as host:port, with commas between.
    config
        librdkafka settings above the durable ones.
    on_delivery
        Called with every `Delivery`, in the thread that sends, polls or flushes.
    full_wait_s
        How long a send waits for room in a full queue.
    make_producer
        Makes the Kafka producer from its settings; tests give their own.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        config: Mapping[str, Any],
        *,
        on_delivery: Callable[[Delivery], None] | None = None,
        full_wait_s: float = 10.0,
        make_producer: Callable[[dict[str, Any]], Any] = Producer,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._producer = make_producer(
            {"bootstrap.servers": bootstrap_servers, **DURABLE, **config, "error_cb": self._note_error}
        )
        self._on_delivery = on_delivery
        self._full_wait_s = full_wait_s
        self._monotonic_s = monotonic_s
        self.sent = 0
        self.delivered = 0
        self.failed = 0
        self.last_error: str | None = None
        self._closed = False
        # A weak reference: the hook alone does not keep a forgotten producer alive.
        self._exit_hook = _FlushAtExit(weakref.ref(self))
        atexit.register(self._exit_hook)

    def put(self, topic: str, key: str, value: bytes | None, timestamp_ms: int) -> None:
        """Queue a record.

        Raises
        ------
        QueueFullError
            If there was no room for `full_wait_s`; the record is not queued.
        """
        if self._closed:
            raise UndeliveredError(f"{topic}: this producer is closed; make a new one")
        produce = self._producer.produce
        try:
            produce(topic, value, key, on_delivery=self._note_delivery, timestamp=timestamp_ms)
        except BufferError:
            self._put_when_room(topic, key, value, timestamp_ms)
        self.sent += 1
        self._producer.poll(0)

    def _put_when_room(self, topic: str, key: str, value: bytes | None, timestamp_ms: int) -> None:
        deadline_s = self._monotonic_s() + self._full_wait_s
        while True:
            self._producer.poll(POLL_S)
            try:
                self._producer.produce(
                    topic, value, key, on_delivery=self._note_delivery, timestamp=timestamp_ms
                )
                return
            except BufferError:
                if self._monotonic_s() >= deadline_s:
                    raise QueueFullError(
                        f"{topic}: no room in the queue of {len(self._producer)} records for "
                        f"{self._full_wait_s} s, last error: {self.last_error}. Check the brokers"
                    ) from None

    def poll(self, timeout_s: float = 0.0) -> None:
        """Take delivery reports that have come; a caller that sends seldom calls this now and then."""
        self._producer.poll(timeout_s)

    def flush(self, timeout_s: float = 30.0) -> int:
        """Wait until every queued record is delivered or failed. Returns how many still are neither."""
        return int(self._producer.flush(timeout_s))

    def close(self, timeout_s: float = 30.0) -> None:
        """Flush and end.

        Raises
        ------
        UndeliveredError
            If records failed or are still on their way.
        """
        if self._closed:
            return
        left = self.flush(timeout_s)
        self._closed = True
        atexit.unregister(self._exit_hook)
        if left or self.failed:
            raise UndeliveredError(
                f"{left} records not delivered within {timeout_s} s, {self.failed} failed, "
                f"{self.delivered} delivered; last error: {self.last_error}"
            )

    def _note_delivery(self, error: Any, message: Any) -> None:
        if error is None:
            self.delivered += 1
        else:
            self.failed += 1
            self.last_error = str(error)
        if self._on_delivery is not None:
            key = message.key() or b""
            placed = (-1, -1) if error is not None else (message.partition(), message.offset())
            self._on_delivery(Delivery(key.decode(), None if error is None else str(error), *placed))

    def _note_error(self, error: Any) -> None:
        self.last_error = str(error)


class _FlushAtExit:
    def __init__(self, reference: weakref.ref[DeliveryQueue]) -> None:
        self._reference = reference

    def __call__(self) -> None:
        queue = self._reference()
        if queue is not None:
            queue.flush(EXIT_FLUSH_S)


class Sender:
    """A producer of one kind of record: a context manager around a `DeliveryQueue`."""

    def __init__(self, queue: DeliveryQueue) -> None:
        self._queue = queue

    @property
    def sent(self) -> int:
        """Records queued since the start."""
        return self._queue.sent

    @property
    def delivered(self) -> int:
        """Records that the brokers have."""
        return self._queue.delivered

    @property
    def failed(self) -> int:
        """Records given up after all retries; `last_error` says why."""
        return self._queue.failed

    @property
    def last_error(self) -> str | None:
        """The last error of a record or of a connection."""
        return self._queue.last_error

    def poll(self, timeout_s: float = 0.0) -> None:
        """Take delivery reports that have come."""
        self._queue.poll(timeout_s)

    def flush(self, timeout_s: float = 30.0) -> int:
        """Wait for all deliveries. Returns how many records are still on their way."""
        return self._queue.flush(timeout_s)

    def close(self, timeout_s: float = 30.0) -> None:
        """Flush and end; raises `UndeliveredError` if records failed or are left."""
        self._queue.close(timeout_s)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:  # the caller's error is the one to see
            self.flush()
