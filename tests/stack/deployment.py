"""One deployment of the job on the shared stack, and what tests do with it: send, wait, read."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import redis
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from clients.catalogue import CatalogueProducer
from clients.control import ControlProducer
from clients.delivery import Delivery
from clients.producer import EventProducer
from flink_jobs.settings import Settings
from schemas.codec import Codec
from schemas.ids import split_user_key
from schemas.records import Control, Event, Item, ServedItem
from schemas.redis_keys import stats_key, user_keys
from schemas.stored_list import META_FIELDS, load_slots
from tailrace import flink_client, model_switch
from tailrace.connections import ensure_topics
from tailrace.job_counts import sum_counts
from tailrace.stack import LocalStack
from tailrace.toml_text import settings_toml
from tests.stack.patience import SLOWER, until
from tests.stack.plain_run import Row

JOB = "recommend"
QUIET = {"log_level": 0}


class Deployment:
    """Topics under a prefix, a database of the store and one job, which `use` starts when it is needed.

    Parameters
    ----------
    folder
        For its settings file and savepoints.
    """

    def __init__(self, stack: LocalStack, settings: Settings, folder: Path) -> None:
        self.stack = stack
        self.settings = settings
        self.folder = folder
        self.job_id: str | None = None
        self.savepoint: str | None = None
        self.redis = redis.Redis.from_url(settings.redis.url, decode_responses=True)
        self._codec = Codec(settings.kafka.schema_ids)
        self._read: dict[str, list[Row]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self.config = self.write_config("tailrace.toml", settings)
        ensure_topics(settings)

    @property
    def jobmanager(self) -> str:
        """HOST:PORT of Flink's REST."""
        return flink_client.local_jobmanager(self.settings)

    def write_config(self, name: str, settings: Settings) -> Path:
        """Write settings as the TOML file that a submission reads."""
        path = self.folder / name
        path.write_text(settings_toml(settings), encoding="utf-8")
        return path

    # --- the job ------------------------------------------------------------------------------------------

    def submit(self, savepoint: str | None = None) -> str:
        """Submit the job and wait until all its tasks run; any other job of the stack must be stopped."""
        self.job_id = flink_client.submit(self.settings, JOB, self.jobmanager, self.config, savepoint)
        self.wait_until_running()
        return self.job_id

    def wait_until_running(self, timeout_s: float = 180.0) -> None:
        """Wait until every task runs."""
        assert self.job_id is not None
        flink_client.wait_until_running(self.jobmanager, self.job_id, SLOWER * timeout_s)

    def cancel(self) -> None:
        """Cancel the job and wait until its slots are free."""
        if self.job_id is not None:
            flink_client.cancel(self.jobmanager, self.job_id)
            self._wait_until_over()

    def stop(self) -> str:
        """Stop the job with a savepoint, from which `use` goes on."""
        assert self.job_id is not None
        self.wait_until_running()  # it may be starting again after a kill
        self.savepoint = flink_client.stop_with_savepoint(
            self.job_id, self.jobmanager, self.folder / "savepoints"
        )
        self._wait_until_over()
        return self.savepoint

    def state_of_job(self) -> str:
        """Give Flink's word for it."""
        return str(self.flink(f"/jobs/{self.job_id}")["state"])

    def last_failure_ms(self) -> int:
        """Give when the job last failed; 0: never. (Flink's count of restarts is up to ten seconds old.)"""
        history = self.flink(f"/jobs/{self.job_id}/exceptions")["exceptionHistory"]
        return max((int(entry["timestamp"]) for entry in history["entries"]), default=0)

    def flink(self, path: str) -> Any:
        """Ask Flink's REST."""
        return flink_client.rest(self.jobmanager, path, timeout_s=60.0)

    def _wait_until_over(self) -> None:
        until(lambda: self.job_id not in flink_client.running_jobs(self.jobmanager), 60, "the job to end")
        self.job_id = None

    # --- sending ------------------------------------------------------------------------------------------

    def produce(self, events: Iterable[Event], per_s: float | None = None) -> int:
        """Send events on their own clock (`received_time`, else the event's time); give their number."""
        clock = _EventClock()
        began_s, count = time.monotonic(), 0
        with EventProducer(
            self.settings.kafka.bootstrap_servers,
            topic_prefix=self.settings.kafka.topic_prefix,
            clock_ms=clock,
            config=QUIET,
        ) as producer:
            for event in events:
                if per_s is not None:
                    wait_s = began_s + count / per_s - time.monotonic()
                    if wait_s > 0:
                        producer.poll(0)
                        time.sleep(wait_s)
                clock.now_ms = event.received_time or event.event_time
                producer.send(event)
                count += 1
        return count

    def produce_raw(
        self, topic: str, records: Iterable[tuple[bytes | None, bytes | None]], timestamp_ms: int
    ) -> None:
        """Send bytes as they are; a record without a key goes anywhere."""
        producer = Producer(
            {
                "bootstrap.servers": self.settings.kafka.bootstrap_servers,
                "message.max.bytes": 12 << 20,
                "partitioner": "murmur2_random",
                **QUIET,
            }
        )
        for key, value in records:
            producer.produce(
                self.settings.kafka.topic_prefix + topic, key=key, value=value, timestamp=timestamp_ms
            )
        assert producer.flush(SLOWER * 30) == 0

    def order(self, kind: str, **fields: Any) -> int:
        """Send an order; give its offset."""
        offsets: list[int] = []

        def note(delivery: Delivery) -> None:
            offsets.append(delivery.offset)

        control = Control("", kind, None, None, None, None, 0, "a test")._replace(**fields)
        kafka = self.settings.kafka
        with ControlProducer(
            kafka.bootstrap_servers, topic_prefix=kafka.topic_prefix, on_delivery=note, config=QUIET
        ) as producer:
            producer.send(control)
        return offsets[0]

    def publish_items(self, items: Iterable[Item]) -> int:
        """Send catalogue records; give how many records the topic holds then: lists' index mark."""
        kafka = self.settings.kafka
        with CatalogueProducer(
            kafka.bootstrap_servers, topic_prefix=kafka.topic_prefix, config=QUIET
        ) as producer:
            producer.send_many(items)
        return self.ends("recs.items.v1")

    # --- waiting ------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Give the job's totals, as published in the store."""
        return sum_counts(self.redis.hgetall(stats_key(JOB, self.settings.kafka.topic_prefix))).total

    def wait_until_read(self, timeout_s: float = 240.0) -> None:
        """Wait until the job's counts hold every record of the events topic."""
        until(
            lambda: self.counts().get("events", 0) == self.ends("recs.events.v1"),
            timeout_s,
            lambda: f"{self.ends('recs.events.v1')} events in the counts, there are {self.counts()}",
        )

    def wait_for_versions(self, versions: Mapping[str, str], timeout_s: float = 120.0) -> None:
        """Wait until every user's list has the version given."""

        def missing() -> dict[str, tuple[str, str | None]]:
            found = self._meta(versions, ["_v"])
            return {
                key: (version, found[key][0]) for key, version in versions.items() if found[key][0] != version
            }

        until(lambda: not missing(), timeout_s, lambda: f"lists: {dict(list(missing().items())[:5])}")

    def activate(self, epoch: int, serving_timeout_s: float = 0.0) -> int:
        """Make an epoch serve as the command does; give the order's offset."""
        model_switch.activate(
            self.settings, epoch, timeout_s=SLOWER * 300.0, serving_timeout_s=SLOWER * serving_timeout_s
        )
        return self.ends("recs.control.v1") - 1

    # --- reading ------------------------------------------------------------------------------------------

    def lists(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Give what stands in the store of users: the meta fields, `items` in order; {} where no list is."""
        metas = self._meta(keys, META_FIELDS)
        with self.redis.pipeline(transaction=False) as pipeline:
            for key in metas:
                pipeline.zrevrange(user_keys(*split_user_key(key)).rec, 0, -1, withscores=True)
            scored = pipeline.execute()
        found: dict[str, dict[str, Any]] = {}
        for (key, values), pairs in zip(metas.items(), scored, strict=True):
            meta = dict(zip(META_FIELDS, values, strict=True))
            if meta["rec_id"] is None:
                assert not pairs
                found[key] = {}
                continue
            items: tuple[ServedItem, ...] = load_slots(
                pairs, meta["propensities"] or "", meta["sources"] or "", meta["order"] or ""
            )
            found[key] = {**meta, "items": list(items)}
        return found

    def _meta(self, keys: Iterable[str], fields: Iterable[str]) -> dict[str, list[str | None]]:
        names = list(keys)
        with self.redis.pipeline(transaction=False) as pipeline:
            for key in names:
                pipeline.hmget(user_keys(*split_user_key(key)).meta, list(fields))
            return dict(zip(names, pipeline.execute(), strict=True))

    def ends(self, topic: str) -> int:
        """Give the sum of a topic's end offsets."""
        consumer = self._consumer()
        try:
            name = self.settings.kafka.topic_prefix + topic
            partitions = consumer.list_topics(name, timeout=60).topics[name].partitions
            return sum(
                consumer.get_watermark_offsets(TopicPartition(name, number), timeout=60)[1]
                for number in partitions
            )
        finally:
            consumer.close()

    def rows(self, topic: str) -> list[Row]:
        """Read all committed records of a topic; what was read before is remembered."""
        known = self._read.setdefault(topic, [])
        name = self.settings.kafka.topic_prefix + topic
        consumer = self._consumer()
        try:
            next_offsets = dict.fromkeys(consumer.list_topics(name, timeout=60).topics[name].partitions, 0)
            for row in known:
                next_offsets[row.partition] = max(next_offsets[row.partition], row.offset + 1)
            consumer.assign([TopicPartition(name, number, offset) for number, offset in next_offsets.items()])
            reading = set(next_offsets)
            while reading:
                for message in consumer.consume(5_000, 1.0):
                    error = message.error()
                    if error is None:
                        known.append(
                            Row(
                                message.partition(),
                                message.offset(),
                                message.timestamp()[1],
                                message.key(),
                                message.value(),
                            )
                        )
                    elif error.code() == KafkaError._PARTITION_EOF:
                        reading.discard(message.partition())
        finally:
            consumer.close()
        return list(known)

    def records(self, topic: str, kind: str, after: int = 0) -> list[Any]:
        """Read a topic and decode what it has gained since there were `after` records in it."""
        return [self._codec.decode(kind, row.value) for row in self.rows(topic)[after:]]

    def _consumer(self) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self.settings.kafka.bootstrap_servers,
                "group.id": "tests",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "fetch.max.bytes": 20 << 20,
                **QUIET,
            }
        )


class _EventClock:
    now_ms = 0

    def __call__(self) -> int:
        return self.now_ms
