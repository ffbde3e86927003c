"""A log of feedback: lists of the real job, shown to customers of Online Retail when they came to buy."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from confluent_kafka import Producer

from model_export import sources
from schemas.codec import decode, encode
from schemas.ids import user_key
from schemas.records import Event, EventItem, Example, ServedList
from schemas.validation import effective_time
from tests.stack.deployment import QUIET, Deployment
from tests.stack.shop import CUT_MS, DATA
from udfs.feedback.reference import join
from udfs.feedback.rules import FeedbackRules

EVENTS, SERVED = "recs.events.v1", "recs.served.v1"
SECOND_MS, MINUTE_MS, DAY_MS = 1_000, 60_000, 86_400_000
LISTS_OF_A_USER, ORDERS_OF_A_USER = 12, 40
"""Within a user's bounds, so that no list is settled early and no outcome evicted."""


class Sent(NamedTuple):
    """One record: its time, topic, key and bytes; a partition where it must be there."""

    at_ms: int
    topic: str
    key: bytes
    value: bytes
    partition: int = -1


class Odd(NamedTuple):
    """Records that contradict themselves, and how often each must be counted."""

    records: list[Sent]
    counts: dict[str, int]


def orders_after_the_cut(at_most: int) -> list[Event]:
    """Give lines that customers bought, as events, in order of time."""
    log = sources.read(DATA)
    start = log.position(CUT_MS)
    return list(log.events(start, start + at_most))


def visits(templates: Sequence[ServedList], orders: Iterable[Event], at_most: int) -> list[ServedList]:
    """Give a list for each order of a customer, minutes before it, with what the job put into one of its own."""
    made: dict[tuple[str, int], ServedList] = {}
    of_user: Counter[str] = Counter()
    full = [one for one in templates if len(one.items) > 2]
    for order in orders:
        key = order.user_id, order.event_time
        if key in made or of_user[order.user_id] == LISTS_OF_A_USER:
            continue
        of_user[order.user_id] += 1
        made[key] = full[len(made) % len(full)]._replace(
            user_id=order.user_id, rec_id=f"visit-{len(made)}", event_time=order.event_time - 3 * MINUTE_MS
        )
        if len(made) % 3 == 0:  # as of a deployment without list policies
            made[key] = made[key]._replace(list_policy="", list_shares=())
        if len(made) == at_most:
            break
    return sorted(made.values(), key=lambda one: one.event_time)


def clean_log(lists: Sequence[ServedList], orders: Iterable[Event], seed: int = 0) -> list[Sent]:
    """Give lists, an impression of each, clicks, carts, removals and orders, and real orders that name no list."""
    rng = np.random.default_rng(seed)
    made: list[Sent] = []
    for number, served in enumerate(lists):
        made.append(sent_list(served))
        shown_ms = served.event_time + 2 * SECOND_MS
        items = tuple(EventItem(slot.item_id, place) for place, slot in enumerate(served.items))
        made.append(sent_event(_event(served, f"shown-{number}", "impression", None, shown_ms, items=items)))
        after_ms = shown_ms
        for kind in ("click", "dwell", "add_to_cart", "remove_from_cart", "purchase"):
            if rng.random() > 0.4:
                continue
            after_ms += int(rng.integers(SECOND_MS, 12 * MINUTE_MS))
            item = served.items[int(rng.integers(len(served.items)))].item_id
            value = float(rng.integers(1, 100)) if kind in ("dwell", "purchase") else None
            did = _event(served, f"{kind}-{number}", kind, item, after_ms, value=value)
            if rng.random() < 0.5:
                did = did._replace(rec_id=None)
            made.append(sent_event(did))
            if rng.random() < 0.1:
                made.append(sent_event(did))
    first_ms, last_ms = lists[0].event_time, lists[-1].event_time
    of_user: Counter[str] = Counter()
    for order in orders:
        of_user[order.user_id] += 1
        if first_ms <= order.event_time <= last_ms and of_user[order.user_id] <= ORDERS_OF_A_USER:
            made.append(sent_event(order))
    return sorted(made)


def odd_log(lists: Sequence[ServedList]) -> Odd:
    """Give outcomes before, without and against their list, for users of their own, in the middle of the log."""
    made: list[Sent] = []
    for number, served in enumerate(lists):
        at_ms = served.event_time
        own = served._replace(user_id=f"odd-{number}", rec_id=f"odd-{number}")
        first, second = own.items[0].item_id, own.items[1].item_id
        shown_ms = at_ms + 3 * MINUTE_MS
        shown = (EventItem(first, 0), EventItem(second, 1))
        made += [
            sent_list(own),
            sent_event(
                _event(own, f"o1-{number}", "click", first, at_ms + MINUTE_MS)
            ),  # long before it was shown
            sent_event(_event(own, f"o2-{number}", "click", second, shown_ms - 30 * SECOND_MS)),  # clock skew
            sent_event(_event(own, f"o3-{number}", "impression", None, shown_ms, items=shown)),
            sent_event(_event(own, f"o4-{number}", "purchase", first, shown_ms + MINUTE_MS, value=5.0)),
            sent_event(_event(own, f"o5-{number}", "remove_from_cart", first, shown_ms + 2 * MINUTE_MS)),
            sent_event(_event(own, f"o6-{number}", "click", "no such item", shown_ms + 3 * MINUTE_MS)),
            sent_event(_event(own, f"o7-{number}", "click", own.items[2].item_id, shown_ms + 4 * MINUTE_MS)),
            sent_event(_event(own, f"o8-{number}", "purchase", first, shown_ms + 5 * MINUTE_MS, value=-1.0)),
            sent_event(
                _event(own, f"o9-{number}", "impression", None, shown_ms)._replace(rec_id="unheard of")
            ),
            sent_event(_event(own, f"oa-{number}", "click", first, shown_ms)._replace(rec_id="unheard of")),
            # A device that lives a year ahead: held to a minute after its arrival.
            sent_event(
                _event(own, f"ob-{number}", "add_to_cart", second, shown_ms + 365 * DAY_MS)._replace(
                    received_time=shown_ms + 6 * MINUTE_MS
                )
            ),
        ]
    count = len(lists)
    names = (
        "click_before_shown", "click_item_not_in_list", "click_item_not_shown", "purchase_negative_value",
        "impression_unknown_rec_id", "click_unknown_rec_id",
    )  # fmt: skip
    return Odd(sorted(made), dict.fromkeys(names, count))


def closing(partitions: int, after_ms: int, pattern: ServedList) -> list[Sent]:
    """Give a record for every partition, so much later that all is settled."""
    made = []
    for partition in range(partitions):
        end = pattern._replace(
            user_id=f"end-{partition}", rec_id=f"end-{after_ms}-{partition}", event_time=after_ms
        )
        view = _event(end, f"end-{after_ms}-{partition}", "view", "any", after_ms)._replace(rec_id=None)
        made += [one._replace(partition=partition) for one in (sent_list(end), sent_event(view))]
    return made


def wanted(
    records: Iterable[Sent], rules: FeedbackRules
) -> tuple[dict[str, Example], dict[tuple[str, str], float]]:
    """Join a log as a whole: rec_id → example, (rec_id, arm) → reward."""
    by_user: dict[bytes, tuple[list[ServedList], list[tuple[Event, int]]]] = {}
    for one in records:
        lists, events = by_user.setdefault(one.key, ([], []))
        if one.topic == SERVED:
            lists.append(decode("ServedList", one.value))
        else:
            event = decode("Event", one.value)
            if (
                event.value is None or event.value >= 0
            ):  # that is no outcome, and the reference checks nothing
                events.append((event, effective_time(event)[0]))
    examples: dict[str, Example] = {}
    credits: dict[tuple[str, str], float] = {}
    for lists, events in by_user.values():
        made, earned = join(lists, events, rules)
        examples |= {one.rec_id: one for one in made}
        credits |= {(rec_id, arm): reward for rec_id, arm, reward, _ in earned}
    return examples, credits


def send(deployment: Deployment, records: Sequence[Sent], per_s: float) -> None:
    """Send records in order, each under its own time."""
    prefix = deployment.settings.kafka.topic_prefix
    settings = {"bootstrap.servers": deployment.settings.kafka.bootstrap_servers, "linger.ms": 20, **QUIET}
    producer = Producer({**settings, "partitioner": "murmur2_random"})
    began_s = time.monotonic()
    for number, one in enumerate(records):
        wait_s = began_s + number / per_s - time.monotonic()
        if wait_s > 0.01:
            producer.poll(0)
            time.sleep(wait_s)
        producer.produce(prefix + one.topic, one.value, one.key, timestamp=one.at_ms, partition=one.partition)
    assert producer.flush(30) == 0


def sent_list(served: ServedList) -> Sent:
    """Give a list as the recommend job writes it."""
    key = user_key(served.tenant, served.user_id).encode()
    return Sent(served.event_time, SERVED, key, encode(served))


def sent_event(event: Event) -> Sent:
    """Give an event as the producer writes it."""
    return Sent(
        effective_time(event)[0], EVENTS, user_key(event.tenant, event.user_id).encode(), encode(event)
    )


def _event(
    served: ServedList,
    event_id: str,
    kind: str,
    item: str | None,
    at_ms: int,
    items: tuple[EventItem, ...] = (),
    value: float | None = None,
) -> Event:
    return Event(
        event_id, kind, served.tenant, served.user_id, None, item, at_ms, at_ms, served.rec_id, items, value,
        None, {}, "personalization",
    )  # fmt: skip
