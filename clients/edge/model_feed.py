"""Reads published versions of models from Kafka: what a device starts from, and what commands show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition

from schemas.codec import Codec
from schemas.records import EdgeModel
from schemas.topics import EDGE_MODELS


class ModelFeed:
    """The topic of versions from its beginning, then what comes.

    Parameters
    ----------
    bootstrap_servers, topic_prefix
        As of `clients.edge.sender.EdgeSender`.
    schema_ids
        For records with a registry's header.
    committed
        False also gives what a job wrote and then took back, as no device should read it: for audits.
    config
        More settings of the client.

    Examples
    --------
    >>> with ModelFeed("127.0.0.1:29092") as feed:                       # doctest: +SKIP
    ...     newest = {model.model_line: model for model in feed.read(5.0)}
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        topic_prefix: str = "",
        schema_ids: Mapping[int, str] | None = None,
        committed: bool = True,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self._codec = Codec(dict(schema_ids or {}))
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": "tailrace-edge-models",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed" if committed else "read_uncommitted",
                "fetch.message.max.bytes": int(EDGE_MODELS.config["max.message.bytes"]),
                **(config or {}),
            }
        )
        self._consumer.assign([TopicPartition(topic_prefix + EDGE_MODELS.name, 0, 0)])

    def __enter__(self) -> ModelFeed:
        """Return itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave the brokers."""
        self._consumer.close()

    def read(self, wait_s: float) -> Iterator[EdgeModel]:
        """Give what is there, up to the end of the topic.

        Parameters
        ----------
        wait_s
            How long the brokers may take to answer.

        Raises
        ------
        ConnectionError
            Where they do not.
        """
        while True:
            message = self._consumer.poll(wait_s)
            if message is None:
                raise ConnectionError(f"{EDGE_MODELS.name}: no answer within {wait_s:g} s")
            error = message.error()
            if error is None:
                model = self._codec.decode("EdgeModel", message.value())
                assert isinstance(model, EdgeModel)
                yield model
            elif error.code() == KafkaError._PARTITION_EOF:
                return
            else:
                raise ConnectionError(f"{EDGE_MODELS.name}: {error.str()}")
