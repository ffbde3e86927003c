"""Reads recommendations from Redis or Valkey. Needs redis 5 or newer, and no Flink.

>>> reader = RecommendationReader.connect("redis://127.0.0.1:26379/0")   # doctest: +SKIP
>>> reader.get("u1").items                                               # doctest: +SKIP
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from schemas.ids import check_id
from schemas.records import DEFAULT_TENANT
from schemas.redis_keys import (
    MODEL_CURRENT,
    item_bought_key,
    item_features_key,
    item_sim_key,
    trending_key,
    user_keys,
)
from schemas.stored_list import META_FIELDS, load_slots

POPULAR_ITEMS: Final = 100


class ReaderError(RuntimeError):
    """The store cannot be read; the text says which, why and what to do."""


class Recommended(NamedTuple):
    """One slot.

    Parameters
    ----------
    score
        Of the ranker; of popular lists the decayed popularity.
    source
        Which arm put it there: ranker, embedding, neighbours, repeat or popular.
    propensity
        Probability of that source at this slot; None of popular lists, which nothing is learned from.
    """

    item_id: str
    score: float
    source: str
    propensity: float | None


class Recommendations(NamedTuple):
    """A user's list.

    Parameters
    ----------
    rec_id
        Send it back with the impression and with clicks. ``popular-<epoch>`` of popular lists.
    items
        Best first, those out of stock left out.
    model_version, variant
        What made the list, and the user's arm of the experiment.
    as_of
        When the list was written, milliseconds since 1970 UTC; None of popular lists.
    age_ms
        How long ago that was; None of popular lists.
    source
        ``personal``; ``stale``: personal, but older than the reader's limit; ``popular``: there is no
        personal list of the user.
    """

    rec_id: str
    items: tuple[Recommended, ...]
    model_version: str
    variant: str
    as_of: int | None
    age_ms: int | None
    source: Literal["personal", "stale", "popular"]


class RecommendationReader:
    """Lists, similar items, sessions and features of one deployment.

    Parameters
    ----------
    client
        A redis client with `decode_responses=True`; `connect` makes one with timeouts.
    stale_after_ms
        A personal list older than this is marked ``stale``.
    hash_tags
        As the deployment's `redis.hash_tags`.
    clock_ms
        Milliseconds since 1970 UTC, for the age.
    """

    def __init__(
        self,
        client: Any,
        *,
        stale_after_ms: int = 7 * 86_400_000,
        hash_tags: bool = True,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._client = client
        self._stale_after_ms = stale_after_ms
        self._hash_tags = hash_tags
        self._clock_ms = clock_ms

    @classmethod
    def connect(
        cls, url: str, *, password: str | None = None, timeout_s: float = 0.25, **options: Any
    ) -> RecommendationReader:
        """A reader with a client of its own: `timeout_s` to connect and for each reply, tried twice."""
        client = redis.Redis.from_url(
            url,
            password=password,
            decode_responses=True,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            socket_keepalive=True,
            retry=Retry(ExponentialBackoff(cap=0.05, base=0.01), 1),
            retry_on_error=[redis.ConnectionError, redis.TimeoutError],
        )
        return cls(client, **options)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> RecommendationReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, user_id: str, tenant: str = DEFAULT_TENANT, count: int = 10) -> Recommendations:
        """The user's list; a popular one where there is none.

        Raises
        ------
        Refused
            `bad_id` for an id that no user can have.
        ReaderError
            If the store cannot be read in time.
        """
        check_id("tenant", tenant)
        check_id("user_id", user_id)
        keys = user_keys(tenant, user_id, self._hash_tags)
        # In MULTI, so that list and meta are of one version. All of it: meta tells the order. What an
        # erasure leaves has no rec_id.
        meta, scored = self._ask(
            lambda pipeline: (
                pipeline.hmget(keys.meta, META_FIELDS),
                pipeline.zrevrange(keys.rec, 0, -1, withscores=True),
            )
        )
        found = {name: value or "" for name, value in zip(META_FIELDS, meta, strict=True)}
        if not found["rec_id"] or not scored:
            return self._popular(tenant, count)
        try:
            slots = load_slots(
                [(item_id, float(score)) for item_id, score in scored],
                found["propensities"],
                found["sources"],
                found["order"],
            )
        except ValueError:  # the store evicted or lost a part of it
            return self._popular(tenant, count)
        available = self._in_stock(tenant, [slot.item_id for slot in slots])
        items = [
            Recommended(*slot) for slot, is_available in zip(slots, available, strict=True) if is_available
        ]
        if not items:
            return self._popular(tenant, count)
        as_of = int(found["_t"])
        age_ms = max(0, self._clock_ms() - as_of)
        return Recommendations(
            found["rec_id"],
            tuple(items[:count]),
            found["_model"],
            found["variant"],
            as_of,
            age_ms,
            "stale" if age_ms > self._stale_after_ms else "personal",
        )

    def _popular(self, tenant: str, count: int) -> Recommendations:
        current, scored = self._ask(
            lambda pipeline: (
                pipeline.hmget(MODEL_CURRENT, ("epoch", "model_version")),
                pipeline.zrevrange(trending_key("overall", tenant), 0, POPULAR_ITEMS - 1, withscores=True),
            ),
            atomic=False,
        )
        items = self._available_ranking(tenant, scored, count)
        epoch, model_version = (value or "" for value in current)
        return Recommendations(
            f"popular-{epoch or 0}",
            tuple(Recommended(item_id, score, "popular", None) for item_id, score in items),
            model_version,
            "",
            None,
            None,
            "popular",
        )

    def trending(
        self, scope: str = "overall", tenant: str = DEFAULT_TENANT, count: int = 10
    ) -> list[tuple[str, float]]:
        """Items and decayed popularity of a scope: overall or a category; empty for one not known."""
        (scored,) = self._ask(
            lambda pipeline: (
                pipeline.zrevrange(trending_key(scope, tenant), 0, POPULAR_ITEMS - 1, withscores=True),
            ),
            atomic=False,
        )
        return self._available_ranking(tenant, scored, count)

    def similar(self, item_id: str, tenant: str = DEFAULT_TENANT, count: int = 10) -> list[tuple[str, float]]:
        """Items like this one and their scores, best first; empty for an unknown item."""
        return self._of_item(item_sim_key, item_id, tenant, count)

    def bought_with(
        self, item_id: str, tenant: str = DEFAULT_TENANT, count: int = 10
    ) -> list[tuple[str, float]]:
        """What is bought in one session with this item, and the share of its purchases where it is, best first.

        The similarity job writes it; empty without that job.
        """
        return self._of_item(item_bought_key, item_id, tenant, count)

    def _of_item(
        self, key_of: Callable[[str, str, bool], str], item_id: str, tenant: str, count: int
    ) -> list[tuple[str, float]]:
        check_id("item_id", item_id)
        key = key_of(tenant, item_id, self._hash_tags)
        (scored,) = self._ask(
            lambda pipeline: (pipeline.zrevrange(key, 0, POPULAR_ITEMS - 1, withscores=True),), atomic=False
        )
        return self._available_ranking(tenant, scored, count)

    def session(self, user_id: str, tenant: str = DEFAULT_TENANT) -> list[str]:
        """The user's last items, newest first, at most 20; empty for an unknown user."""
        check_id("user_id", user_id)
        key = user_keys(tenant, user_id, self._hash_tags).session
        (items,) = self._ask(lambda pipeline: (pipeline.lrange(key, 0, -1),), atomic=False)
        return list(items)

    def features(self, user_id: str, tenant: str = DEFAULT_TENANT) -> dict[str, str]:
        """The user's features as served, with `_v` and `_wm`; empty for an unknown or inactive user."""
        check_id("user_id", user_id)
        key = user_keys(tenant, user_id, self._hash_tags).features
        (fields,) = self._ask(lambda pipeline: (pipeline.hgetall(key),), atomic=False)
        return dict(fields)

    def item_features(self, item_id: str, tenant: str = DEFAULT_TENANT) -> dict[str, str]:
        """An item's features; empty for an unknown one."""
        check_id("item_id", item_id)
        key = item_features_key(tenant, item_id, self._hash_tags)
        (fields,) = self._ask(lambda pipeline: (pipeline.hgetall(key),), atomic=False)
        return dict(fields)

    def _available_ranking(
        self, tenant: str, scored: Sequence[Sequence[Any]], count: int
    ) -> list[tuple[str, float]]:
        available = self._in_stock(tenant, [item_id for item_id, _ in scored])
        kept = [
            (item_id, float(score))
            for (item_id, score), is_in in zip(scored, available, strict=True)
            if is_in
        ]
        return kept[:count]

    def _in_stock(self, tenant: str, item_ids: Sequence[str]) -> list[bool]:
        """Whether each item can be bought; one that the catalogue has not told of can."""
        if not item_ids:
            return []
        keys = [item_features_key(tenant, item_id, self._hash_tags) for item_id in item_ids]
        stocks = self._ask(lambda pipeline: [pipeline.hget(key, "in_stock") for key in keys], atomic=False)
        return [stock != "0" for stock in stocks]

    def _ask(self, commands: Callable[[Any], object], atomic: bool = True) -> list[Any]:
        """Replies of one round trip."""
        try:
            with self._client.pipeline(transaction=atomic) as pipeline:
                commands(pipeline)
                replies: list[Any] = pipeline.execute()
                return replies
        except redis.RedisError as error:
            raise ReaderError(
                f"Redis cannot be read ({type(error).__name__}: {error}); "
                "check the address, that the server runs, and the timeout"
            ) from error
