"""What became of every list, impression and outcome, published for people; the join does not wait for it."""

from __future__ import annotations

import json
import time

from flink_jobs.list_store import ListStore, StoreUnavailable, connect_as_worker
from flink_jobs.settings import Settings
from flink_jobs.shard_record import ShardRecord
from schemas.redis_keys import stats_key

EVERY_MS = 1_000
PAUSE_MS = 10_000
"""How long a store that did not answer is left alone."""


class FeedbackCounts:
    """Writes shards' totals into the HASH `stats:feedback`, each at most once a second.

    Absolute values: what a store that was away has missed comes with the next.
    """

    def __init__(self, settings: Settings) -> None:
        store = settings.redis
        self._client = connect_as_worker(store)
        self._store = ListStore(
            self._client,
            ttl_s=store.ttl_s,
            hash_tags=store.hash_tags,
            cluster=store.cluster,
            retry_limit_s=0.0,
        )
        self._key = stats_key("feedback", settings.kafka.topic_prefix)
        self._silent_until_ms = 0

    def publish(self, shard: ShardRecord, now_ms: int) -> None:
        """Write what has changed, if the store is there.

        Parameters
        ----------
        now_ms
            Wall clock.
        """
        if not shard.counts_changed or now_ms < max(shard.counts_sent_ms + EVERY_MS, self._silent_until_ms):
            return
        try:
            self._store.put_fields(self._key, {str(shard.index): json.dumps({"counts": shard.counts})})
        except StoreUnavailable:
            self._silent_until_ms = time.time_ns() // 1_000_000 + PAUSE_MS
        else:
            shard.counts_sent_ms, shard.counts_changed = now_ms, False

    def close(self) -> None:
        """Leave the store."""
        self._client.close()
