"""Writes what the federate job tells of itself to Redis or Valkey: counts, and what each user has spent.

A view: the ledger is in the job's state, and nothing reads a budget from here to decide on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from flink_jobs.list_store import ListStore, connect_as_worker
from flink_jobs.settings import Settings
from schemas.redis_keys import edge_budget_key, stats_key

JOB: Final = "federate"


class FederateStore(ListStore):
    """The writer; it waits for the store as `ListStore` does.

    Parameters
    ----------
    client
        From `list_store.connect`.
    topic_prefix
        Of the deployment: its counts and budgets have names of their own.
    given
        As `ListStore`.
    """

    def __init__(self, client: Any, *, topic_prefix: str = "", **given: Any) -> None:
        super().__init__(client, **given)
        self._topic_prefix = topic_prefix

    def put_shard_counts(self, name: str, counts: Mapping[str, int]) -> None:
        """Store a shard's totals, as absolute values."""
        self.put_fields(stats_key(JOB, self._topic_prefix), {name: json.dumps({"counts": counts})})

    def close(self) -> None:
        """Leave the store."""
        self._client.close()

    def put_budgets(self, budgets: Mapping[str, Mapping[str, int | float | str]]) -> None:
        """Store what users have spent.

        Parameters
        ----------
        budgets
            User key to the fields of its HASH.
        """
        if budgets:
            self._retry(lambda: self._write(budgets))

    def _write(self, budgets: Mapping[str, Mapping[str, int | float | str]]) -> None:
        with self._client.pipeline(transaction=False) as pipeline:
            for user, fields in budgets.items():
                key = edge_budget_key(user, self._topic_prefix, self._hash_tags)
                pipeline.hset(key, mapping=dict(fields))
                pipeline.expire(key, self._ttl_s)
            pipeline.execute()


def open_store(settings: Settings) -> FederateStore:
    """Connect as a worker does."""
    store = settings.redis
    return FederateStore(
        connect_as_worker(store),
        topic_prefix=settings.kafka.topic_prefix,
        ttl_s=store.ttl_s,
        hash_tags=store.hash_tags,
        cluster=store.cluster,
        retry_limit_s=store.retry_limit_s,
    )
