"""Writes lists to Redis or Valkey: one function call a batch, newest version wins, nothing is dropped.

The job sends what `list_columns` wrote (`put_encoded`). `put` takes one record a user: with batches of 400 users
of 10 items, 20 session items and 12 features, it costs 36 CPU-µs a user here, half of it to print numbers, 41 in
the store (Valkey 9.1; Redis 7.0: 45) and 1,560 bytes there, with other work on the same two cores
(benchmarks/list_store.py). Texts cross as lengths and bytes, read by one `struct.unpack`: as JSON it was 10 to 15
CPU-µs dearer in the store, which has one thread for everyone, and as MessagePack no cheaper.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any, Final

import redis

from flink_jobs.list_columns import EncodedEntries
from flink_jobs.list_entry import EraseEntry, ListEntry, Outcome, as_outcome, as_pieces
from flink_jobs.model_views import write_items
from flink_jobs.settings import Redis, Settings, load
from flink_jobs.wall_clock import wall_clock_ms
from schemas.records import Item, ServedList
from schemas.redis_keys import stats_key, user_keys

__all__ = ["EraseEntry", "ListEntry", "ListStore", "Outcome", "StoreUnavailable", "connect"]

FUNCTION: Final = "tailrace_put_lists_2"
# A call of 500 users holds the store's only thread for 20 ms.
MAX_USERS_PER_CALL: Final = 500
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0

# Answers of a server that will take the same call later: busy with a script, loading its file, a replica
# during a failover, out of memory until something expires.
_LATER: Final = (
    "BUSY",
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "OOM",
    "NOREPLICAS",
    "MISCONF",
)


class StoreUnavailable(ConnectionError):  # noqa: N818 - named as what it says
    """The store did not take a batch within the retry limit."""


def connect(url: str, password: str | None = None, cluster: bool = False, timeout_s: float = 5.0) -> Any:
    """A client for `ListStore`, which does the retries itself.

    Parameters
    ----------
    timeout_s
        To connect and to wait for a reply.
    """
    if cluster:
        return redis.RedisCluster.from_url(
            url, password=password, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
        )
    return redis.Redis.from_url(
        url,
        password=password,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        socket_keepalive=True,
        protocol=2,
    )


def connect_as_worker(settings: Redis) -> Any:
    """Connect as a job's worker does: the password comes from its own environment, never with the job."""
    password = load(environment=dict(os.environ)).redis.password
    return connect(settings.url, None if password is None else password.get_secret_value(), settings.cluster)


def store_options(settings: Settings) -> dict[str, Any]:
    """Give what a `ListStore` is made with beside its client."""
    store = settings.redis
    return {
        "ttl_s": store.ttl_s,
        "hash_tags": store.hash_tags,
        "cluster": store.cluster,
        "retry_limit_s": store.retry_limit_s,
        "topic_prefix": settings.kafka.topic_prefix,
    }


class ListStore:
    """The writer of everything that is stored per user.

    Parameters
    ----------
    client
        From `connect`.
    ttl_s
        Lifetime of all of a user's keys, and of the mark that an erasure leaves.
    hash_tags
        Keys with literal braces.
    cluster
        One call a user instead of one a batch, because a call's keys must share a slot.
    retry_limit_s
        How long a call is tried again; below the checkpoint timeout, so that Flink restarts the task and
        reads the batch again rather than hanging.
    topic_prefix
        Of the deployment: its counts have a name of their own.
    clock_ms
        Wall clock in milliseconds since 1970 UTC, for `served_time`.
    monotonic_s, sleep
        For the retries; tests give their own.

    Examples
    --------
    >>> store = ListStore(connect("redis://127.0.0.1:26379/0"), ttl_s=86_400)  # doctest: +SKIP
    >>> store.put([ListEntry(served, session=["i1"])])                         # doctest: +SKIP
    """

    def __init__(
        self,
        client: Any,
        *,
        ttl_s: int,
        hash_tags: bool = True,
        cluster: bool = False,
        retry_limit_s: float = 45.0,
        topic_prefix: str = "",
        clock_ms: Callable[[], int] = wall_clock_ms,
        monotonic_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if cluster and not hash_tags:
            raise ValueError(
                "redis.cluster wants redis.hash_tags: without braces a user's keys share no slot"
            )
        self._client = client
        self._ttl_s = ttl_s
        self._hash_tags = hash_tags
        self._users_per_call = 1 if cluster else MAX_USERS_PER_CALL
        self._retry_limit_s = retry_limit_s
        self._topic_prefix = topic_prefix
        self._clock_ms = clock_ms
        self._monotonic_s = monotonic_s
        self._sleep = sleep
        self.retries = 0  # calls tried again since the start, for the metrics

    def put(self, batch: Sequence[ListEntry | EraseEntry]) -> list[Outcome]:
        """Store a batch; when it returns, every entry stands in Redis or lost to a newer version.

        Returns
        -------
        list
            One outcome an entry, in order.

        Raises
        ------
        StoreUnavailable
            After `retry_limit_s`. Entries before may have been stored: putting the batch again is safe.
        ValueError
            For a list that cannot be stored: a score that is not finite, an unknown source, a repeated item.
        """
        outcomes: list[Outcome] = []
        for start in range(0, len(batch), self._users_per_call):
            outcomes += self._put_call(batch[start : start + self._users_per_call])
        return outcomes

    def put_encoded(self, entries: EncodedEntries) -> list[Any]:
        """Store lists that are encoded already, as `put` does.

        Returns
        -------
        list
            The function's reply an entry, in order; `list_entry.as_outcome` tells what it says.
        """
        replies: list[Any] = []
        for start in range(0, len(entries.versions), self._users_per_call):
            stop = start + self._users_per_call
            arguments: list[str | bytes] = [str(self._ttl_s)]
            for three in zip(
                entries.versions[start:stop],
                entries.shapes[start:stop],
                entries.pieces[start:stop],
                strict=True,
            ):
                arguments += three
            replies += self._function(entries.keys[4 * start : 4 * stop], arguments)
        return replies

    def put_counts(self, job: str, counts: Mapping[str, int | float | str]) -> None:
        """Store a job's counters as absolute values.

        Parameters
        ----------
        counts
            Topic prefix of the deployment, a slash and the shard → its counts.
        """
        deployments: dict[str, dict[str, int | float | str]] = {}
        for name, count in counts.items():
            topic_prefix, _, shard = name.rpartition("/")
            deployments.setdefault(topic_prefix, {})[shard] = count
        for topic_prefix, fields in deployments.items():
            self.put_fields(stats_key(job, topic_prefix), fields)

    def put_fields(self, key: str, fields: Mapping[str, int | float | str]) -> None:
        """Set fields of a HASH, waiting for the store as `put` does."""
        if fields:
            self._retry(lambda: self._client.hset(key, mapping=dict(fields)))

    def put_shard_counts(self, job: str, shard: str, counts: Mapping[str, int]) -> None:
        """Store a job's totals of one shard in the HASH `stats:{job}`, as absolute values."""
        self.put_fields(stats_key(job, self._topic_prefix), {shard: json.dumps({"counts": counts})})

    def close(self) -> None:
        """Leave the store."""
        self._client.close()

    def put_items(self, items: Sequence[Item]) -> None:
        """Store what the catalogue says of items, for readers that leave out what is out of stock."""
        self._retry(
            lambda: write_items(
                self._client, items, hash_tags=self._hash_tags, cluster=self._users_per_call == 1
            )
        )

    def _put_call(self, batch: Sequence[ListEntry | EraseEntry]) -> list[Outcome]:
        keys: list[str] = []
        arguments: list[str | bytes] = [str(self._ttl_s)]
        stamped: list[ServedList | None] = []
        now_ms = self._clock_ms()
        for entry in batch:
            if isinstance(entry, EraseEntry):
                keys += user_keys(entry.tenant, entry.user_id, self._hash_tags)
                arguments += (entry.version, "", "")
                stamped.append(None)
            else:
                served = entry.served._replace(served_time=now_ms)
                keys += user_keys(served.tenant, served.user_id, self._hash_tags)
                arguments += (served.version, *as_pieces(served, entry))
                stamped.append(served)
        replies = self._function(keys, arguments)
        return [as_outcome(reply, served) for reply, served in zip(replies, stamped, strict=True)]

    def _function(self, keys: Sequence[str], arguments: Sequence[str | bytes]) -> Any:
        return self._retry(
            lambda: self._client.execute_command("FCALL", FUNCTION, str(len(keys)), *keys, *arguments)
        )

    def load_function(self) -> None:
        """Give the store its function; what stood under the name is replaced."""
        code = resources.files("flink_jobs").joinpath("lists.lua").read_text(encoding="utf-8")
        self._client.function_load(code, replace=True)

    def _retry(self, call: Callable[[], Any]) -> Any:
        deadline_s = self._monotonic_s() + self._retry_limit_s
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return self._call_with_function(call)
            except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError) as error:
                if isinstance(error, redis.AuthenticationError | redis.exceptions.AuthorizationError):
                    raise
                if isinstance(error, redis.ResponseError) and not _is_for_later(error):
                    raise
                if self._monotonic_s() + pause_s > deadline_s:
                    raise StoreUnavailable(
                        f"Redis took no batch for {self._retry_limit_s} s, last: {error}. "
                        "Check redis.url and the server; the job reads the batch again, nothing is lost"
                    ) from error
                self.retries += 1
                self._sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _call_with_function(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except redis.ResponseError as error:  # a server that started empty, or a first run
            if "function not found" not in str(error).lower():
                raise
            self.load_function()
            return call()


def _is_for_later(error: redis.ResponseError) -> bool:
    # redis-py takes the first word off the errors for which it has a class of its own.
    return isinstance(error, redis.ReadOnlyError | redis.OutOfMemoryError) or str(error).startswith(_LATER)
