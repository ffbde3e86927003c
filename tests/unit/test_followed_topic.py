"""Topics that a rank worker follows, with a broker in memory: read to the end at first, then as records come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from bundles import make_bundle
from confluent_kafka import KafkaError

from flink_jobs import followed_topic
from flink_jobs.catalogue_feed import CatalogueFeed
from flink_jobs.followed_topic import FollowedTopic
from flink_jobs.settings import Kafka
from schemas.codec import Codec, encode
from schemas.ids import item_hash
from schemas.records import Item
from schemas.topics import ITEMS, POSTERIORS


class Message(NamedTuple):
    at: int
    name: bytes | None = None
    body: bytes | None = None
    code: int | None = None

    def error(self) -> Any:
        return None if self.code is None else KafkaError(self.code)

    def key(self) -> bytes | None:
        return self.name

    def value(self) -> bytes | None:
        return self.body

    def offset(self) -> int:
        return self.at


END = Message(0, code=KafkaError._PARTITION_EOF)


class Broker:
    """Answers each question with the next of some batches; then nothing."""

    def __init__(self, *batches: list[Message]) -> None:
        self.batches, self.asked, self.assigned, self.closed = list(batches), 0, "", False

    def __call__(self, config: dict[str, Any]) -> Broker:
        assert config["isolation.level"] == "read_committed"
        return self

    def assign(self, places: list[Any]) -> None:
        ((self.assigned, partition, offset),) = [(one.topic, one.partition, one.offset) for one in places]
        assert (partition, offset) == (0, 0)

    def consume(self, at_most: int, timeout_s: float) -> list[Message]:
        self.asked += 1
        assert self.asked < 50, "a first read that does not end"
        return self.batches.pop(0)[:at_most] if self.batches else []

    def close(self) -> None:
        self.closed = True


Connect = Callable[..., Broker]


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    def with_batches(*batches: list[Message]) -> Broker:
        broker = Broker(*batches)
        monkeypatch.setattr(followed_topic, "Consumer", broker)
        return broker

    return with_batches


def item(name: str, **more: Any) -> Item:
    return Item(name, "default", name, "c", None, 5.0, True, False, {}, 1)._replace(**more)


def record(at: int, one: Item) -> Message:
    return Message(at, one.item_id.encode(), encode(one))


def test_what_stands_is_taken_in_order_before_the_first_list_and_what_comes_at_each_call(
    connect: Connect,
) -> None:
    broker = connect([Message(3, b"a", b"1")], [], [Message(7, b"b"), END], [Message(9, None, b"2")])
    taken: list[tuple[str, bytes | None, int]] = []
    topic = FollowedTopic(Kafka(topic_prefix="x."), POSTERIORS, lambda *one: taken.append(one))
    assert taken == [("a", b"1", 3), ("b", None, 7)]
    assert (topic.follow(), topic.follow()) == (1, 0)
    assert taken[2:] == [("", b"2", 9)]
    topic.close()
    assert (broker.assigned, broker.closed) == (f"x.{POSTERIORS.name}", True)


@pytest.mark.parametrize("code", [KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART])
def test_a_topic_that_is_not_there_holds_nobody_up(connect: Connect, code: int) -> None:
    broker = connect([], [Message(0, code=code)])
    FollowedTopic(Kafka(), POSTERIORS, lambda *one: None)
    assert broker.asked == 2


def test_a_catalogue_is_viewed_as_of_its_newest_record_and_tells_what_has_changed_since_the_start(
    connect: Connect, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "7")
    first, second = bundle.items.item_ids[:2]
    broker = connect(
        [record(0, item(first)), record(4, item(second, price=7.0)), END],
        [
            record(5, item(first, in_stock=False)),
            Message(6, b"junk", b"\x01junk"),
            Message(8, second.encode()),
        ],
    )
    feed = CatalogueFeed(Kafka(), Codec({}))
    assert (broker.assigned, feed.mark, feed.take_changes()) == (ITEMS.name, 5, [])
    view = feed.view(bundle)
    rows = [bundle.items.row(item_hash(name)) for name in (first, second)]
    assert (feed.mark, view.mark, feed.refused) == (9, 9, 1)
    assert view.in_stock[rows].tolist() == [False, True]
    assert view.price[rows].tolist() == [5.0, 7.0]
    assert [one.item_id for one in feed.take_changes()] == [first]
    assert feed.view(bundle) is view and feed.take_changes() == []
