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
from collections.abc import Mapping

import numpy as np
import pandas as pd
import redis
from pyflink.table.udf import FunctionContext, ScalarFunction

from flink_jobs.catalogue_feed import CatalogueFeed
from flink_jobs.list_entry import EraseEntry, ListEntry
from flink_jobs.list_store import ListStore, connect
from flink_jobs.model_store import ModelStore
from flink_jobs.output_rows import COUNTS, ERASE, PRELOAD, RANK
from flink_jobs.settings import Settings, load
from flink_jobs.user_shell import JOB
from flink_jobs.user_view import recent_items, user_features
from schemas.codec import Codec, encode
from schemas.ids import split_user_key
from schemas.records import ServedList
from schemas.redis_keys import MODEL_WORKERS
from udfs.model.bundle import Bundle
from udfs.ranking.rank import Ranked, RankSettings, rank_batch
from udfs.ranking.snapshot import Snapshot
from udfs.user_state import UserState

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
        password = load(environment=dict(os.environ)).redis.password
        self._client = connect(
            store.url, password.get_secret_value() if password is not None else None, store.cluster
        )
        self._store = ListStore(
            self._client,
            ttl_s=store.ttl_s,
            hash_tags=store.hash_tags,
            cluster=store.cluster,
            retry_limit_s=store.retry_limit_s,
        )
        self._models = ModelStore(model)
        self._catalogue = CatalogueFeed(self._settings.kafka, Codec(self._settings.kafka.schema_ids))
        self._rank_settings = RankSettings(
            candidates=model.candidates,
            finalists=model.finalists,
            list_size=store.list_size,
            diversity=model.diversity,
            exploration_floor=model.exploration_floor,
            rebuy_after_ms=model.rebuy_after_ms,
        )
        self._worker = f"{os.uname().nodename}-{os.getpid()}"
        self._active_epoch = 0
        self._acknowledged_s = 0.0

    def close(self) -> None:
        """Leave broker and store, and the list of live workers."""
        self._catalogue.close()
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
    ) -> pd.Series:
        """Handle one Arrow batch of output rows (`output_rows.OUTPUT_TYPE`, all kinds but the first two)."""
        kinds = kind.to_numpy()
        served: list[bytes | None] = [None] * len(kinds)
        rankings = np.flatnonzero(kinds == RANK)
        if len(rankings):
            snapshots = [
                Snapshot(user, *split_user_key(user), _v, int(at), int(model), state)
                for user, _v, at, model, state in zip(
                    key.iloc[rankings],
                    version.iloc[rankings],
                    at_ms.iloc[rankings],
                    epoch.iloc[rankings],
                    payload.iloc[rankings],
                    strict=True,
                )
            ]
            for place, record in zip(rankings, self._rank(snapshots), strict=True):
                served[place] = record
        for place in np.flatnonzero(kinds != RANK):
            self._other(int(kinds[place]), key[place], payload[place], version[place], int(epoch[place]))
        if time.monotonic() - self._acknowledged_s > ACKNOWLEDGE_EVERY_S:
            self._acknowledge()
        return pd.Series(served, dtype=object)

    def _other(self, kind: int, key: str, payload: bytes, version: str, epoch: int) -> None:
        if kind == ERASE:
            self._store.put([EraseEntry(*split_user_key(key), version)])
        elif kind == COUNTS:
            self._store.put_counts(JOB, {key: json.dumps({"_v": version, "counts": json.loads(payload)})})
        elif kind == PRELOAD:
            self._acknowledge(epoch)

    def _rank(self, snapshots: list[Snapshot]) -> list[bytes | None]:
        """Rank in the given order; a list comes from exactly one epoch."""
        results: list[tuple[Ranked, Bundle] | None] = [None] * len(snapshots)
        for epoch in sorted({snapshot.epoch for snapshot in snapshots}):
            # A bundle that went bad after it was activated: the one that served before keeps serving.
            bundle = self._models.bundle(epoch) or self._models.newest_held()
            if bundle is None:
                continue
            places = [place for place, snapshot in enumerate(snapshots) if snapshot.epoch == epoch]
            view = self._catalogue.view(bundle)
            chosen = [snapshots[place] for place in places]
            ranked = rank_batch(bundle, chosen, view, self._rank_settings)
            for place, list_ in zip(places, ranked, strict=True):
                results[place] = (list_, bundle)
            self._active_epoch = bundle.epoch
        changed = self._catalogue.take_changes()
        if changed:
            self._store.put_items(changed)
        done = [place for place, result in enumerate(results) if result is not None]
        outcomes = self._store.put(
            [
                _entry(snapshots[place], ranked, bundle, self._models.item_of(bundle.epoch))
                for place, (ranked, bundle) in zip(done, filter(None, results), strict=True)
            ]
        )
        stored_ms = time.time_ns() // 1_000_000
        records: list[bytes | None] = [None] * len(snapshots)
        for place, outcome in zip(done, outcomes, strict=True):
            if outcome.served is not None:
                stood = outcome.state == "equal"
                list_ = outcome.served if stood else outcome.served._replace(served_time=stored_ms)
                records[place] = encode(list_)
        return records

    def _acknowledge(self, preload: int | None = None) -> None:
        """Tell in Redis which epochs this worker can serve, and why not another."""
        self._acknowledged_s = time.monotonic()
        refused = {}
        if preload is not None:
            refusal = self._models.refusal(preload)
            bundle = self._models.bundle(preload)
            if refusal is not None:
                refused[str(preload)] = refusal
            if bundle is not None:
                # Ranks one unknown user, so that kernels and sessions are warm before the epoch serves.
                warm = Snapshot("default/", "default", "", "0" * 32, 0, preload, b"")
                rank_batch(bundle, [warm], self._catalogue.view(bundle), self._rank_settings)
        state = {
            "epochs": self._models.held(),
            "refused": refused,
            "active": self._active_epoch,
            "catalogue_mark": self._catalogue.mark,
            "catalogue_refused": self._catalogue.refused,
            "store_retries": self._store.retries,
            "at_ms": time.time_ns() // 1_000_000,
        }
        self._store.put_fields(MODEL_WORKERS, {self._worker: json.dumps(state)})


def _entry(snapshot: Snapshot, ranked: Ranked, bundle: Bundle, item_of: Mapping[int, str]) -> ListEntry:
    served = ServedList(
        rec_id=ranked.rec_id,
        tenant=ranked.tenant,
        user_id=ranked.user_id,
        version=ranked.version,
        event_time=ranked.at_ms,
        served_time=0,  # stamped by the list store
        epoch=ranked.epoch,
        model_version=ranked.model_version,
        variant=VARIANT,
        index_mark=ranked.index_mark,
        items=ranked.items,
        snapshot=snapshot.state,
    )
    state = UserState.decode(snapshot.state)
    return ListEntry(served, recent_items(state, item_of), user_features(state, bundle.items.category_names))
