"""What became of every list, impression and outcome, published for people; the join does not wait for it."""

from __future__ import annotations

from flink_jobs.list_store import ListStore, StoreUnavailable, connect_as_worker, store_options
from flink_jobs.settings import Settings
from flink_jobs.shard_record import ShardRecord
from flink_jobs.wall_clock import wall_clock_ms

JOB = "feedback"
EVERY_MS = 1_000
PAUSE_MS = 10_000
"""How long a store that did not answer is left alone."""


class FeedbackCounts:
    """Writes shards' totals into the HASH `stats:feedback`, each at most once a second.

    Absolute values: what a store that was away has missed comes with the next.
    """

    def __init__(self, settings: Settings) -> None:
        options = {**store_options(settings), "retry_limit_s": 0.0}
        self._store = ListStore(connect_as_worker(settings.redis), **options)
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
            self._store.put_shard_counts(JOB, str(shard.index), shard.counts)
        except StoreUnavailable:
            self._silent_until_ms = wall_clock_ms() + PAUSE_MS
        else:
            shard.counts_sent_ms, shard.counts_changed = now_ms, False

    def close(self) -> None:
        """Leave the store."""
        self._store.close()
