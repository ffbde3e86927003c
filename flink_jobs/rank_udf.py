"""The rank UDF: an Arrow batch of snapshots in, their lists in Redis, and a record of each list kept.

It runs in its own Python process beside each TaskManager slot. The store is written before the batch is
finished, and a batch is finished before a checkpoint passes it, so lists are written at least once; the
compare-and-set by version makes that once. Rows that are not rankings travel the same way because they end in
the same store.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
import redis
from pyflink.table.udf import FunctionContext, ScalarFunction

from flink_jobs.catalogue_feed import CatalogueFeed
from flink_jobs.first_ranking import rank_nobody
from flink_jobs.list_columns import encode_entries, encode_served
from flink_jobs.list_entry import KEPT, EraseEntry, as_outcome
from flink_jobs.list_store import ListStore, connect_as_worker, store_options
from flink_jobs.model_store import ModelStore
from flink_jobs.output_rows import COUNTS, ERASE, PRELOAD, RANK, decode_variant
from flink_jobs.posterior_feed import PosteriorFeed
from flink_jobs.rank_settings import rank_settings, varied
from flink_jobs.session_feed import SessionFeed
from flink_jobs.settings import Settings
from flink_jobs.user_shell import JOB
from flink_jobs.wall_clock import wall_clock_ms
from flink_jobs.weights_feed import WeightsFeed
from schemas.codec import Codec, encode
from schemas.ids import split_user_key
from schemas.records import ServedList
from schemas.redis_keys import MODEL_WORKERS
from udfs.experiments.holdout import UNTIL, cut_off
from udfs.model.bundle import Bundle
from udfs.ranking.rank import rank_columns
from udfs.ranking.rank_settings import RankSettings
from udfs.ranking.ranked import RankedBatch
from udfs.ranking.snapshot import Snapshot

VARIANT = "default"
ACKNOWLEDGE_EVERY_S = 5.0


class RankLists(ScalarFunction):
    """Rank users, write their lists, and return the encoded `ServedList` of each list that stands.

    Parameters
    ----------
    settings
        Read once at submission, and shipped with the job; the store's password comes from the worker's
        environment.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def is_deterministic(self) -> bool:
        """Keep the planner from evaluating twice what writes to a store."""
        return False

    def open(self, function_context: FunctionContext) -> None:
        """Connect to the store and read the catalogue to its end."""
        store, model = self._settings.redis, self._settings.model
        self._client = connect_as_worker(store)
        self._store = ListStore(self._client, **store_options(self._settings))
        self._models = ModelStore(model)
        codec = Codec(self._settings.kafka.schema_ids)
        self._catalogue = CatalogueFeed(self._settings.kafka, codec, model.arrivals)
        self._sessions, self._weights = None, None
        if model.session_tail:
            self._sessions = SessionFeed(self._settings.kafka, codec, model.session_tail)
            if model.learnt_sessions:
                self._weights = WeightsFeed(self._settings.kafka, codec, self._sessions.live.learnt)
        self._posteriors = None
        if model.shared_credits or model.list_policies:
            self._posteriors = PosteriorFeed(self._settings.kafka, Codec(self._settings.kafka.schema_ids))
        self._rank_settings = rank_settings(self._settings)
        self._worker = f"{os.uname().nodename}-{os.getpid()}"
        self._active_epoch = 0
        self._acknowledged_s = 0.0

    def close(self) -> None:
        """Leave broker and store, and the list of live workers."""
        self._catalogue.close()
        if self._sessions is not None:
            self._sessions.close()
        if self._weights is not None:
            self._weights.close()
        if self._posteriors is not None:
            self._posteriors.close()
        with contextlib.suppress(redis.RedisError):  # the store may be what ended the task
            self._client.hdel(MODEL_WORKERS, self._worker)
        self._client.close()

    def eval(
        self,
        kind: pd.Series,
        key: pd.Series,
        payload: pd.Series,
        version: pd.Series,
        at_ms: pd.Series,
        epoch: pd.Series,
        variant: pd.Series,
    ) -> pd.Series:
        """Handle one Arrow batch of output rows (`output_rows.OUTPUT_TYPE`, all kinds but the first two)."""
        kinds, keys, payloads, versions = kind.to_numpy(), key.tolist(), payload.tolist(), version.tolist()
        times, epochs, variants = at_ms.tolist(), epoch.tolist(), variant.tolist()
        served: list[bytes | None] = [None] * len(kinds)
        alike: dict[tuple[int, str], list[int]] = {}
        for place in np.flatnonzero(kinds == RANK).tolist():
            alike.setdefault((epochs[place], variants[place]), []).append(place)
        for (wanted, of_variant), places in sorted(alike.items()):
            snapshots = [
                Snapshot(
                    keys[place],
                    *split_user_key(keys[place]),
                    versions[place],
                    times[place],
                    wanted,
                    payloads[place],
                )
                for place in places
            ]
            for place, record in zip(places, self._rank(wanted, of_variant, snapshots), strict=True):
                served[place] = record
        counts = {}
        for place in np.flatnonzero(kinds != RANK).tolist():
            if kinds[place] == ERASE:
                self._store.put([EraseEntry(*split_user_key(keys[place]), versions[place])])
            elif kinds[place] == COUNTS:
                counts[keys[place]] = json.dumps(
                    {"_v": versions[place], "counts": json.loads(payloads[place])}
                )
            elif kinds[place] == PRELOAD:
                self._acknowledge(epochs[place])
        self._store.put_counts(JOB, counts)
        changed = self._catalogue.take_changes()
        if changed:
            self._store.put_items(changed)
        if time.monotonic() - self._acknowledged_s > ACKNOWLEDGE_EVERY_S:
            self._acknowledge()
        return pd.Series(served, dtype=object)

    def _rank(self, epoch: int, variant: str, snapshots: list[Snapshot]) -> Sequence[bytes | None]:
        """Rank users with one epoch and variant, and give the record of each list that stands in the store."""
        sessions = None
        if self._sessions is not None:
            self._sessions.follow()
            sessions = self._sessions.live
        if self._weights is not None:
            self._weights.follow()
        posteriors = None
        if self._posteriors is not None:
            self._posteriors.follow()
            posteriors = self._posteriors.by_tenant
        label, how, until_s = self._of_variant(variant)

        def rank(bundle: Bundle) -> RankedBatch:
            known = snapshots if until_s is None else cut_off(snapshots, until_s, bundle.items, bundle.epoch)
            return rank_columns(bundle, known, self._catalogue.view(bundle), how, sessions, posteriors)

        # A bundle that went bad after it was activated: the one that served before keeps serving.
        batch = self._models.rank_with(epoch, rank)
        if batch is None:
            return [None] * len(snapshots)
        self._active_epoch = batch.bundle.epoch
        texts, hash_tags = self._models.texts(batch.bundle), self._settings.redis.hash_tags
        replies = self._store.put_encoded(encode_entries(batch, texts, label, wall_clock_ms(), hash_tags))
        records: list[bytes | None] = list(encode_served(batch, texts, label, wall_clock_ms()))
        for user, reply in enumerate(replies):
            if reply != KEPT:
                stood = as_outcome(reply, _served_list(batch, user, label)).served
                records[user] = None if stood is None else encode(stood)
        return records

    def _of_variant(self, text: str) -> tuple[str, RankSettings, int | None]:
        """Give what is logged, how to rank, and until when users are known, for users of one variant."""
        label, changes = decode_variant(text)
        changes.pop("epoch", None)  # the row names it
        until_s = changes.pop(UNTIL, None)
        return label or VARIANT, varied(self._rank_settings, changes), until_s

    def _acknowledge(self, preload: int | None = None) -> None:
        """Tell in Redis which epochs this worker can serve, and why not another."""
        self._acknowledged_s = time.monotonic()
        if preload is not None and self._models.bundle(preload) is not None:
            self._models.rank_with(preload, self._rank_nobody)
        refused = {str(epoch): why for epoch, why in self._models.unfit().items()}
        refusal = None if preload is None else self._models.refusal(preload)
        if refusal is not None:
            refused[str(preload)] = refusal
        state = {
            "epochs": self._models.held(),
            "refused": refused,
            "active": self._active_epoch,
            "catalogue_mark": self._catalogue.mark,
            "catalogue_refused": self._catalogue.refused,
            "unknown_items": self._catalogue.unknown,
            "store_retries": self._store.retries,
            "sessions": self._session_state(),
            "posteriors": None if self._posteriors is None else self._posteriors.state(),
            "at_ms": wall_clock_ms(),
        }
        self._store.put_fields(MODEL_WORKERS, {self._worker: json.dumps(state)})

    def _rank_nobody(self, bundle: Bundle) -> None:
        rank_nobody(bundle, self._catalogue.view(bundle), self._rank_settings, self._models.texts)

    def _session_state(self) -> dict[str, int | None] | None:
        """Give how far the session source has read, and how long after the event; None where it is off."""
        feed = self._sessions
        if feed is None:
            return None
        return {
            "mark": feed.live.mark,
            "clicks": feed.live.clicks,
            "behind_ms": feed.behind_ms,
            "refused": feed.refused,
            "weights_version": feed.live.weights_version,
            "weights_refused": self._weights.refused if self._weights is not None else None,
        }


def _served_list(batch: RankedBatch, user: int, variant: str) -> ServedList:
    """Give one list of a batch as a record that was not stored yet."""
    ranked = batch.list_of(user)
    return ServedList(
        rec_id=ranked.rec_id,
        tenant=ranked.tenant,
        user_id=ranked.user_id,
        version=ranked.version,
        event_time=ranked.at_ms,
        served_time=0,
        epoch=ranked.epoch,
        model_version=ranked.model_version,
        variant=variant,
        index_mark=ranked.index_mark,
        items=ranked.items,
        snapshot=batch.snapshots[user].state,
        session_mark=ranked.session_mark,
        weights_version=ranked.weights_version,
        posterior_version=ranked.posterior_version,
        source_probabilities=ranked.source_probabilities,
        list_policy=ranked.list_policy,
        list_shares=ranked.list_shares,
    )
