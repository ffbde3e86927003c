"""Writes what a model bundle and the catalogue show readers: similar items, trending, item features.

Absolute values, so that writing again repairs. `model:current` comes last: who sees it sees the rest. Where the
similarity job writes, its figures stay: a bundle gives similar items to those items only that it has not met.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from schemas.records import DEFAULT_TENANT, Item
from schemas.redis_keys import MODEL_CURRENT, SIMILARITY_LIVE, item_features_key, item_sim_key, trending_key

ITEMS_PER_CALL: Final = 200
TRENDING_SIZE: Final = 100

Progress = Callable[[int, int], None]


def write_model_views(
    client: Any,
    *,
    item_ids: Sequence[str],
    categories: Sequence[str],
    prices: Sequence[float],
    trending: Sequence[float],
    neighbour_offsets: Sequence[int],
    neighbour_rows: Sequence[int],
    neighbour_scores: Sequence[float],
    current: Mapping[str, str | int | float],
    tenant: str = DEFAULT_TENANT,
    hash_tags: bool = True,
    cluster: bool = False,
    ttl_s: int | None = None,
    progress: Progress | None = None,
) -> int:
    """Write a bundle's views.

    Parameters
    ----------
    client
        A redis client; `flink_jobs.list_store.connect` makes one.
    item_ids, categories, prices, trending
        (n,) of each item: id, category name ("" for none), price (nan for none), decayed popularity.
        Arrays of numpy or lists.
    neighbour_offsets, neighbour_rows, neighbour_scores
        (n + 1,), (m,), (m,): neighbours of item row `r` are rows `neighbour_rows[o[r]:o[r + 1]]`.
    current
        Fields of `model:current`, with `epoch` and `model_version` among them.
    cluster
        Without MULTI, which cannot span slots: a reader may see a list missing for an instant.
    ttl_s
        Lifetime of an item's keys; None keeps them. Items that a later bundle has no more go by it.
    progress
        Called with the items written and their number, at least once.

    Returns
    -------
    int
        Keys written.
    """
    missing = {"epoch", "model_version"} - set(current)
    if missing:
        raise ValueError(f"model:current: wanted {' and '.join(sorted(missing))}, got {sorted(current)}")
    count = len(item_ids)
    version = str(current["epoch"])
    offsets, rows, scores = map(_as_list, (neighbour_offsets, neighbour_rows, neighbour_scores))
    price_of, trend_of = _as_list(prices), _as_list(trending)
    written = 0
    live = bool(client.exists(SIMILARITY_LIVE))
    for start in range(0, count, ITEMS_PER_CALL):
        some = range(start, min(start + ITEMS_PER_CALL, count))
        met = _met_live(client, [item_features_key(tenant, item_ids[row], hash_tags) for row in some], live)
        with client.pipeline(transaction=not cluster) as pipeline:
            for row in some:
                similar = {item_ids[rows[n]]: scores[n] for n in range(offsets[row], offsets[row + 1])}
                if not met[row - start]:
                    _replace_ranking(pipeline, item_sim_key(tenant, item_ids[row], hash_tags), similar, ttl_s)
                features: dict[str, str | float] = {
                    "category": categories[row],
                    "trending": trend_of[row],
                    "_v": version,
                }
                if not math.isnan(price_of[row]):
                    features["price"] = price_of[row]
                key = item_features_key(tenant, item_ids[row], hash_tags)
                pipeline.hset(key, mapping=features)
                if ttl_s is not None:
                    pipeline.expire(key, ttl_s)
                written += 2
            pipeline.execute()
        if progress is not None:
            progress(min(start + ITEMS_PER_CALL, count), count)
    if not live:
        written += _write_trending(client, item_ids, categories, trend_of, tenant, cluster)
    client.hset(MODEL_CURRENT, mapping=dict(current))
    if progress is not None and count == 0:
        progress(0, 0)
    return written + 1


def _met_live(client: Any, keys: Sequence[str], live: bool) -> list[bool]:
    """Tell of each item's features whether the similarity job, if it runs, has written the item."""
    if not live:
        return [False] * len(keys)
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.hexists(key, "_sim_v")
        return list(map(bool, pipeline.execute()))


def _write_trending(
    client: Any,
    item_ids: Sequence[str],
    categories: Sequence[str],
    trend_of: list[Any],
    tenant: str,
    cluster: bool,
) -> int:
    scopes: dict[str, list[int]] = {"overall": list(range(len(item_ids)))}
    for row, category in enumerate(categories):
        if category and category != "overall":
            scopes.setdefault(category, []).append(row)
    with client.pipeline(transaction=not cluster) as pipeline:
        for scope, members in scopes.items():
            best = heapq.nlargest(TRENDING_SIZE, members, key=trend_of.__getitem__)
            ranking = {item_ids[row]: trend_of[row] for row in best}
            _replace_ranking(pipeline, trending_key(scope, tenant), ranking, None)
        pipeline.execute()
    return len(scopes)


def _replace_ranking(pipeline: Any, key: str, ranking: Mapping[str, float], ttl_s: int | None) -> None:
    pipeline.delete(key)
    if ranking:
        pipeline.zadd(key, ranking)
        if ttl_s is not None:
            pipeline.expire(key, ttl_s)


def _as_list(values: Any) -> list[Any]:
    """Python numbers, which redis prints as they are, in one conversion instead of one an element."""
    converted = values.tolist() if hasattr(values, "tolist") else values
    return list(converted)


def write_items(client: Any, items: Iterable[Item], *, hash_tags: bool = True, cluster: bool = False) -> int:
    """Write what the catalogue says of items: readers leave out what has `in_stock` 0.

    Parameters
    ----------
    items
        Records of recs.items.v1 in their order: the last of an item holds. A blocked item counts as out of
        stock.

    Returns
    -------
    int
        Items written.
    """
    latest = {(item.tenant, item.item_id): item for item in items}
    changed = list(latest.values())
    for start in range(0, len(changed), ITEMS_PER_CALL):
        with client.pipeline(transaction=not cluster) as pipeline:
            for item in changed[start : start + ITEMS_PER_CALL]:
                features: dict[str, str | float] = {
                    "in_stock": "1" if item.in_stock and not item.blocked else "0",
                    "title": item.title,
                    "category": item.category,
                    "_wm": item.updated_time,
                }
                if item.price is not None:
                    features["price"] = item.price
                pipeline.hset(item_features_key(item.tenant, item.item_id, hash_tags), mapping=features)
            pipeline.execute()
    return len(changed)
