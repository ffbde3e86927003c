"""Writes what the federate job tells of itself to Redis or Valkey: counts, and what each user has spent.

A view: the ledger is in the job's state, and nothing reads a budget from here to decide on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from flink_jobs.list_store import ListStore, connect_as_worker, store_options
from flink_jobs.settings import Settings
from schemas.redis_keys import edge_budget_key

JOB: Final = "federate"


class FederateStore(ListStore):
    """The writer; it waits for the store as `ListStore` does."""

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
    return FederateStore(connect_as_worker(settings.redis), **store_options(settings))
