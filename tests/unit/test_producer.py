"""What the producers put on the wire, and what they do when the brokers do not keep up. No network."""

import gc
import math

import pytest
from schema_samples import FULL_EVENT, SAMPLES, VIEW

from clients import delivery
from clients.catalogue import CatalogueProducer
from clients.control import ControlProducer
from clients.delivery import DeliveryQueue, QueueFullError, UndeliveredError
from clients.producer import EventProducer, new_event
from schemas.codec import decode, decode_event
from schemas.refusal import Refused

NOW_MS = 1_763_700_000_000


class Message:
    def __init__(self, key, offset):
        self._key, self._offset = key, offset

    def key(self):
        return self._key.encode()

    def partition(self):
        return 3

    def offset(self):
        return self._offset


class FakeProducer:
    """Keeps what is produced; `full` counts refused calls, `errors` are the reports to give."""

    def __init__(self, config):
        self.config = config
        self.records = []
        self.waiting = []
        self.full = 0
        self.errors = []
        self.stuck = False
        self.waited_s = 0.0

    def produce(self, topic, value, key, on_delivery, timestamp):
        if self.full:
            self.full -= 1
            raise BufferError("Local: Queue full")
        self.records.append((topic, key, value, timestamp))
        self.waiting.append((key, on_delivery))

    def poll(self, timeout_s):
        self.waited_s += timeout_s
        return 0

    def flush(self, timeout_s):
        if self.stuck:
            return len(self.waiting)
        for offset, (key, on_delivery) in enumerate(self.waiting):
            on_delivery(self.errors.pop(0) if self.errors else None, Message(key, offset))
        self.waiting = []
        return 0

    def __len__(self):
        return len(self.waiting)


def make(kind=EventProducer, **options):
    made = []

    def make_producer(config):
        made.append(FakeProducer(config))
        return made[0]

    sender = kind("b:1", clock_ms=lambda: NOW_MS, make_producer=make_producer, **options)
    return sender, made[0]


def test_an_event_is_keyed_stamped_and_sent():
    producer, fake = make(topic_prefix="x-")
    event_id = producer.send(new_event("view", "a/b", "i1", tenant="acme", event_time=NOW_MS - 5_000))
    ((topic, key, value, timestamp),) = fake.records
    sent = decode_event(value)
    assert (topic, key, timestamp) == ("x-recs.events.v1", "acme/a%2Fb", NOW_MS - 5_000)
    assert (sent.event_id, sent.received_time, sent.event_time) == (event_id, NOW_MS, NOW_MS - 5_000)
    assert sent.consent == "none"


def test_the_record_s_timestamp_is_the_effective_time():
    producer, fake = make()
    producer.send(VIEW._replace(event_time=NOW_MS + 3_600_000, received_time=7))
    producer.send(VIEW._replace(event_time=5))
    producer.send(VIEW._replace(event_time=0))
    assert [record[3] - NOW_MS for record in fake.records] == [60_000, -7 * 86_400_000, 0]
    assert decode_event(fake.records[0][2]).event_time == NOW_MS + 3_600_000


def test_ids_are_kept_or_made_unique_and_ordered():
    producer, _ = make()
    other, _ = make()
    assert producer.send(VIEW) == VIEW.event_id
    events = [new_event("view", "u", "i")] * 20
    made = producer.send_many(events)
    assert len(set(made) | set(other.send_many(events))) == 40


def test_nothing_is_lost_or_doubled_by_the_settings():
    _, fake = make(linger_ms=9, config={"client.id": "shop"})
    wanted = {
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": 9,
        "client.id": "shop",
        "bootstrap.servers": "b:1",
    }
    assert wanted.items() <= fake.config.items()


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (VIEW._replace(user_id=""), "bad_id: user_id: wanted 1 to 128 bytes"),
        (VIEW._replace(user_id=7), "bad_value: Event.user_id: wanted string, got 7"),
        (VIEW._replace(event_type="wiew"), "bad_value: Event.event_type: wanted one of unknown, view"),
        (VIEW._replace(item_id=None), "missing_field: item_id: wanted for view, got none"),
        (VIEW._replace(item_id=7), "bad_value: Event.item_id: wanted string, got 7"),
        (VIEW._replace(event_time="now"), "bad_value: Event.event_time: wanted long, got 'now'"),
        (VIEW._replace(event_time=-1), "bad_value: event_time: wanted 1 to"),
        (VIEW._replace(value=math.nan), "bad_value: value: wanted a finite number"),
        (VIEW._replace(value="12"), "bad_value: Event.value: wanted double, got '12'"),
        (VIEW._replace(context=None), "bad_value: Event.context: wanted a mapping, got None"),
        (FULL_EVENT._replace(items=("i",)), "bad_value: Event.items: wanted EventItem"),
        (VIEW._replace(query="x" * 70_000), "too_large: event: wanted at most 65536 bytes"),
    ],
)
def test_a_bad_event_is_refused_with_field_wanted_and_got_and_not_sent(event, says):
    producer, fake = make()
    with pytest.raises(Refused) as caught:
        producer.send(event)
    assert says in str(caught.value)
    assert fake.records == []
    assert producer.sent == 0


def test_deliveries_are_counted_and_told():
    told = []
    producer, fake = make(on_delivery=told.append)
    fake.errors = [None, "Broker: Message size too large"]
    producer.send_many([VIEW, VIEW, VIEW])
    assert (producer.sent, producer.delivered) == (3, 0)
    assert producer.flush() == 0
    assert (producer.delivered, producer.failed) == (2, 1)
    assert producer.last_error == "Broker: Message size too large"
    assert told[0] == ("default/user-123456", None, 3, 0)
    assert told[1] == ("default/user-123456", "Broker: Message size too large", -1, -1)


def test_a_full_queue_is_waited_for():
    producer, fake = make()
    fake.full = 5
    producer.send(VIEW)
    assert len(fake.records) == 1
    assert fake.waited_s >= 5 * 0.05  # it polls: without, nothing would leave the queue


def test_a_queue_that_stays_full_is_an_error_after_the_limit():
    now_s = iter(range(1_000))
    fake = FakeProducer({})
    fake.full = 10_000
    queue = DeliveryQueue(
        "b:1", {}, full_wait_s=10, make_producer=lambda _: fake, monotonic_s=lambda: next(now_s)
    )
    queue.last_error = "Local: All broker connections are down"
    with pytest.raises(QueueFullError, match=r"no room in the queue .* for 10 s.* connections are down"):
        queue.put("t", "k", b"v", 1)
    assert 10_000 - fake.full < 20
    assert queue.sent == 0


def test_leaving_the_context_flushes_and_tells_of_losses():
    producer, fake = make()
    with producer:
        producer.send(VIEW)
    assert producer.delivered == 1
    with pytest.raises(UndeliveredError, match="closed"):
        producer.send(VIEW)

    producer, fake = make()
    fake.stuck = True
    with pytest.raises(UndeliveredError, match="1 records not delivered"), producer:
        producer.send(VIEW)


def test_an_error_of_the_caller_is_not_hidden_by_the_flush():
    producer, fake = make()
    fake.errors = ["lost"]
    with pytest.raises(KeyError, match="mine"), producer:
        producer.send(VIEW)
        raise KeyError("mine")
    assert producer.failed == 1


def test_what_is_queued_is_flushed_at_exit(monkeypatch):
    hooks = []
    monkeypatch.setattr(delivery.atexit, "register", hooks.append)
    monkeypatch.setattr(delivery.atexit, "unregister", hooks.remove)
    producer, fake = make()
    producer.send(VIEW)
    hooks[0]()
    assert producer.delivered == 1
    producer.close()
    assert hooks == []
    producer, fake = make()
    del producer, fake
    gc.collect()
    hooks[0]()  # the producer is gone: nothing to do


def test_items_are_checked_and_keyed():
    producer, fake = make(CatalogueProducer)
    item = SAMPLES["Item"]
    assert producer.send_many([item, item._replace(item_id="a/b", updated_time=0)]) == 2
    producer.delete("item-1", "acme")
    assert [(record[0], record[1], record[3]) for record in fake.records] == [
        ("recs.items.v1", "acme/item-1", item.updated_time),
        ("recs.items.v1", "acme/a%2Fb", NOW_MS),
        ("recs.items.v1", "acme/item-1", NOW_MS),
    ]
    assert decode("Item", fake.records[0][2]) == item
    assert fake.records[2][2] is None
    for bad in (
        {"item_id": ""},
        {"price": -1.0},
        {"price": math.nan},
        {"in_stock": "yes"},
        {"updated_time": -1},
    ):
        with pytest.raises(Refused):
            producer.send(item._replace(**bad))


def test_orders_are_checked_keyed_and_delivered():
    producer, fake = make(ControlProducer)
    control_id = producer.activate_epoch(4, "better")
    producer.preload_epoch(5)
    producer.republish()
    producer.erase_user("u1")
    producer.set_consent("a/b", "essential", tenant="acme")
    producer.set_experiments('{"promoted":{},"running":[]}', "stop all")
    assert [record[1] for record in fake.records] == [
        "*activate_epoch", "*preload_epoch", "*republish", "default/u1", "acme/a%2Fb", "*set_experiments",
    ]  # fmt: skip
    assert decode("Control", fake.records[5][2]).experiments == '{"promoted":{},"running":[]}'
    sent = decode("Control", fake.records[0][2])
    assert (sent.control_id, sent.kind, sent.epoch, sent.issued_time) == (
        control_id,
        "activate_epoch",
        4,
        NOW_MS,
    )
    assert producer.delivered == 6
    with pytest.raises(Refused, match="bad_control"):
        producer.activate_epoch(-1)
    with pytest.raises(Refused, match="bad_id"):
        producer.erase_user("")
    with pytest.raises(Refused, match=r"Control\.consent: wanted one of none"):
        producer.set_consent("u", "all")
    fake.errors = ["Broker: down"]
    with pytest.raises(ConnectionError, match=r"activate_epoch was not taken: Broker: down"):
        producer.activate_epoch(6)
