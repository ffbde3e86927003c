"""Writes what items go with to Redis or Valkey: similar items, bought together, counts, trending.

Scores of two items need both items' counts, and those live in two shards. So each item's count and name stand in
one HASH of the store, `similarity:items`, written before any score is made of them. An item whose neighbour is
not there yet is written without it, and once more later.

Absolute values with a version. Trending needs neither: an item's place is `scores.timeless`, which only grows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from struct import Struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flink_jobs.list_store import ListStore, connect_as_worker, store_options
from flink_jobs.settings import Settings
from flink_jobs.similarity_lists import Known, encode_lists
from flink_jobs.text_kernel import Texts
from schemas.ids import split_user_key
from schemas.redis_keys import (
    SIMILARITY_ITEMS,
    SIMILARITY_LIVE,
    format_version,
    item_bought_key,
    item_features_key,
    item_sim_key,
    trending_key,
)
from udfs.similarity.count_kernel import HalfLives
from udfs.similarity.item_counts import ItemCounts
from udfs.similarity.scores import timeless

PUT: Final = "tailrace_put_similar_2"
EXCHANGE: Final = "tailrace_exchange_similar_2"
TRENDING_SIZE: Final = 100
OVERALL: Final = "overall"
ITEMS_PER_CALL: Final = 250
LIVE_FOR_S: Final = 86_400
"""How long after the job's last write a model bundle writes these views again."""

JOB: Final = "similarity"
_pack_u64 = Struct("<Q").pack
_DOUBLE: Final = Struct("<d")

NO_TRENDS: Final[Mapping[int, Mapping[bytes, float]]] = {}


class SimilarityStore(ListStore):
    """The writer; it waits for the store as `ListStore` does.

    Parameters
    ----------
    client
        From `list_store.connect`.
    half_lives
        Of the counts.
    generation
        First part of versions.
    list_size
        Similar items of each item.
    given
        As `ListStore`.
    """

    def __init__(
        self,
        client: Any,
        half_lives: HalfLives,
        generation: int,
        list_size: int,
        **given: Any,
    ) -> None:
        super().__init__(client, **given)
        self._half_lives = half_lives
        self._generation = generation
        self._list_size = list_size
        self._items_per_call = 1 if given.get("cluster") else ITEMS_PER_CALL

    def put_similar(
        self, items: Mapping[int, ItemCounts], trends: Mapping[int, Mapping[bytes, float]] = NO_TRENDS
    ) -> set[int]:
        """Write items.

        Parameters
        ----------
        items
            Item key (`session_step.item_key`) to its counts.
        trends
            Item key to country to `timeless` weight; of items that have some.

        Returns
        -------
        set
            Keys of items that want to be written again: a neighbour was not in the store yet.
        """
        if not items:
            return set()
        named = [split_user_key(counts.name.decode()) for counts in items.values()]
        known = self._exchange(items, named)
        encoded = encode_lists(list(items.values()), known, self._half_lives.together_ms, self._list_size)
        keys: list[str] = []
        arguments: list[str | bytes] = []
        for (tenant, item_id), counts, shape, pieces in zip(
            named, items.values(), encoded.shapes, encoded.pieces, strict=True
        ):
            keys += (
                item_sim_key(tenant, item_id, self._hash_tags),
                item_bought_key(tenant, item_id, self._hash_tags),
                item_features_key(tenant, item_id, self._hash_tags),
            )
            arguments += (format_version(self._generation, counts.updates, 0), shape, pieces)
        replies = self._put_lists(keys, arguments)
        self._put_trending(items, named, replies, trends)
        return {item for item, lacks in zip(items, encoded.incomplete.tolist(), strict=True) if lacks}

    def forget(self, items: Mapping[int, ItemCounts]) -> None:
        """Take items away that nobody has touched for long; their keys go by their TTL."""
        if items:
            self._retry(lambda: self._client.hdel(SIMILARITY_ITEMS, *map(_pack_u64, items)))

    def _exchange(self, items: Mapping[int, ItemCounts], named: Sequence[tuple[str, str]]) -> Known:
        """Write the items' own counts, and read those of all their neighbours."""
        together_ms = self._half_lives.together_ms
        own: list[bytes] = []
        for (item, counts), (_, item_id) in zip(items.items(), named, strict=True):
            alone = _DOUBLE.pack(timeless(counts.viewed, counts.as_of_ms, together_ms))
            own += (_pack_u64(item), alone + item_id.encode())
        keys = np.unique(np.concatenate([part for counts in items.values() for part in _hashes(counts)]))
        packed = keys.tobytes()
        reply = self._retry(self._command("FCALL", EXCHANGE, "1", SIMILARITY_ITEMS, packed, *own))
        offsets = np.zeros(len(keys) + 1, np.int64)
        np.cumsum(np.frombuffer(reply[1], np.uint8), out=offsets[1:])
        return Known(keys, np.frombuffer(reply[0]), Texts(np.frombuffer(reply[2], np.uint8), offsets))

    def _put_lists(self, keys: Sequence[str], arguments: Sequence[str | bytes]) -> list[Any]:
        replies: list[Any] = []
        for start in range(0, len(keys), 3 * self._items_per_call):
            some = keys[start : start + 3 * self._items_per_call]
            given = (str(self._ttl_s), *arguments[start : start + 3 * self._items_per_call])
            replies += self._retry(self._command("FCALL", PUT, str(len(some)), *some, *given))
        return replies

    def _command(self, *words: str | bytes) -> Callable[[], Any]:
        return lambda: self._client.execute_command(*words)

    def load_function(self) -> None:
        """Give the store its function; what stood under the name is replaced."""
        code = resources.files("flink_jobs").joinpath("similarity.lua").read_text(encoding="utf-8")
        self._client.function_load(code, replace=True)

    # --- trending -----------------------------------------------------------------------------------------

    def _put_trending(
        self,
        items: Mapping[int, ItemCounts],
        named: Sequence[tuple[str, str]],
        categories: Sequence[Any],
        trends: Mapping[int, Mapping[bytes, float]],
    ) -> None:
        """Let each item take its place overall, in its category and in its countries."""
        scopes: dict[str, dict[str, float]] = {}
        for (item, counts), (tenant, item_id), category in zip(items.items(), named, categories, strict=True):
            place = timeless(counts.trend, counts.as_of_ms, self._half_lives.trend_ms)
            if category is None or place == -math.inf:
                continue
            of_category = category.decode() if isinstance(category, bytes) else category
            countries = {country.decode(): there for country, there in trends.get(item, {}).items()}
            for scope, there in {**countries, OVERALL: place, of_category: place}.items():
                if scope:
                    scopes.setdefault(trending_key(scope, tenant), {})[item_id] = there
        if scopes:
            self._retry(lambda: self._take_over(list(scopes)))
            self._retry(lambda: self._add(scopes))

    def _take_over(self, keys: Sequence[str]) -> None:
        """Empty scopes that were not ours: what a model bundle writes there is of another kind of number."""
        with self._client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.hsetnx(SIMILARITY_LIVE, key, "1")
            pipeline.expire(SIMILARITY_LIVE, LIVE_FOR_S)
            *is_new, _ = pipeline.execute()
            for key, new in zip(keys, is_new, strict=True):
                if new:
                    pipeline.delete(key)
            pipeline.execute()

    def _add(self, scopes: Mapping[str, Mapping[str, float]]) -> None:
        with self._client.pipeline(transaction=False) as pipeline:
            for key, places in scopes.items():
                pipeline.zadd(key, places, gt=True)
                pipeline.zremrangebyrank(key, 0, -TRENDING_SIZE - 1)
            pipeline.execute()


def open_store(settings: Settings) -> SimilarityStore:
    """Connect as a worker does."""
    similarity = settings.similarity
    return SimilarityStore(
        connect_as_worker(settings.redis),
        HalfLives(similarity.half_life_ms, similarity.trend_half_life_ms),
        settings.job.generation,
        similarity.list_size,
        **store_options(settings),
    )


def _hashes(counts: ItemCounts) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    return counts.viewed_with.hashes, counts.bought_with.hashes
