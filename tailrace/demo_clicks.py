"""The end of the demo: three clicks of one customer, and the list that comes of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from clients.delivery import Delivery
from clients.producer import EventProducer, new_event
from clients.reader import Recommendations
from flink_jobs.settings import Settings
from schemas.records import DEFAULT_TENANT
from schemas.redis_keys import parse_version, user_keys
from tailrace.connections import QUIET, reader, store
from tailrace.demo_choice import Customer, choose_clicks
from tailrace.errors import UserError
from tailrace.list_view import Titled, Titles
from tailrace.model_epochs import open_bundle

PAUSE_S = 0.4
LIST_WITHIN_S = 60.0

Tell = Callable[[str, float | None], None]
"""Called with what a step is at, and the share of it that is done; None where that is not known."""


class Click(NamedTuple):
    """One click of the story."""

    item_id: str
    title: str


class Story(NamedTuple):
    """What the demo shows.

    Parameters
    ----------
    before, after
        The list as it stood, and after the third click.
    event_to_list_ms
        From handing the third click to the producer to the list in Redis.
    """

    customer: Customer
    category: str
    clicks: tuple[Click, ...]
    before: Recommendations
    after: Recommendations
    event_to_list_ms: float
    titles: dict[str, Titled]


def tell_story(
    settings: Settings, epoch: int, customer: Customer, before: Recommendations, turn: int, tell: Tell
) -> Story:
    """Let the customer click three items of one category, and wait for the list that the third makes.

    Parameters
    ----------
    epoch
        The bundle that knows categories and what is popular.
    before
        The customer's list as it stands.
    turn
        Demos before this one: each takes another category.

    Raises
    ------
    UserError
        TR-371 when a click was not delivered, TR-373 when no list comes.
    """
    index = open_bundle(settings, epoch).items
    categories = {
        item_id: index.category_names.get(code, "")
        for item_id, code in zip(index.item_ids, index.columns.category.tolist(), strict=True)
    }
    popularity = dict(zip(index.item_ids, index.columns.popularity.tolist(), strict=True))
    listed = [item.item_id for item in before.items]
    category, items = choose_clicks(customer.items, categories, popularity, turn, listed)
    with reader(settings) as lists, store(settings) as client:
        titles = Titles(settings, client)
        known = titles.of(items)
        clicks = tuple(Click(item_id, known[item_id].title) for item_id in items)
        took_ms = _click(settings, client, customer.user_id, clicks, f"demo-{turn + 1}", tell)
        after = lists.get(customer.user_id)
        shown = [item.item_id for item in (*before.items, *after.items)]
        return Story(
            customer,
            category,
            clicks,
            before,
            after,
            took_ms,
            titles.of([*shown, *items, *customer.items[-5:]]),
        )


def _click(
    settings: Settings, client: Any, user: str, clicks: tuple[Click, ...], session: str, tell: Tell
) -> float:
    """Send the clicks, each after the list of the one before; give the milliseconds of the last."""
    delivered: list[Delivery] = []
    kafka = settings.kafka
    with EventProducer(
        kafka.bootstrap_servers,
        topic_prefix=kafka.topic_prefix,
        on_delivery=delivered.append,
        config=QUIET,
    ) as producer:
        meta = user_keys(DEFAULT_TENANT, user, settings.redis.hash_tags).meta
        took_ms = 0.0
        for number, click in enumerate(clicks, 1):
            if number > 1:
                time.sleep(PAUSE_S)
            tell(f"{number} of {len(clicks)}: {click.title}", number / len(clicks))
            event = new_event("click", user, click.item_id, session_id=session, consent="personalization")
            sent_s = time.monotonic()
            producer.send(event)
            producer.flush(10.0)
            if len(delivered) < number or delivered[-1].error:
                raise UserError("TR-371", "a click was not delivered", fix="tailrace status")
            _wait_for_version(client, meta, delivered[-1])
            took_ms = (time.monotonic() - sent_s) * 1000
        return took_ms


def _wait_for_version(client: Any, meta: str, click: Delivery) -> None:
    deadline_s = time.monotonic() + LIST_WITHIN_S
    while time.monotonic() < deadline_s:
        version = client.hget(meta, "_v")
        if version and parse_version(version).offset >= click.offset:
            return
        time.sleep(0.001)
    raise UserError(
        "TR-373",
        f"no list with the click within {LIST_WITHIN_S:.0f} s",
        "the job does not run, or ranks nobody",
        "tailrace status; tailrace dlq ls; tailrace logs taskmanager-1",
    )
