"""A shop's traffic made of Online Retail: its purchases, and what must have come before them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from model_export import sources
from schemas.records import Event, EventItem, Item

DATA = Path(__file__).parents[2] / "datasets" / "online-retail" / "online_retail.parquet"
CUT = "2011-04-01"
CUT_MS = 1_301_616_000_000
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000


def catalogue() -> list[Item]:
    """Give the items sold before the cut and later ones, which no bundle knows yet."""
    return sources.catalogue(DATA)


def traffic(limit: int, after: int = 0) -> list[Event]:
    """Give events behind the cut in the order in which they arrive, from number `after` on.

    Purchases are the file's. A view comes before each; clicks, carts, impressions, searches and the rest at
    fixed places; some events come twice, some hours late, some users withdraw their consent for a while.
    """
    return list(islice(_traffic(), after, after + limit))


def _traffic() -> Iterator[Event]:
    log = sources.read(DATA)
    start = log.position(CUT_MS)
    recent: list[str] = []
    waiting: list[Event] = []
    for number, bought in enumerate(log.events(start, start + 120_000)):
        item = bought.item_id
        assert item is not None
        recent = [*recent[-9:], item]
        made = [_before(bought, "view", 1)]
        if number % 3 == 0:
            made.append(_before(bought, "click", 2, rec_id=f"rec-{number - 3}"))
        if number % 5 == 0:
            made.append(_before(bought, "add_to_cart", 3))
        if number % 13 == 0:
            made.append(_before(bought, "remove_from_cart", 4))
        if number % 11 == 0:
            made.append(_before(bought, "search", 5, item_id=None, query=item[:3]))
        if number % 19 == 0:
            made.append(_before(bought, "rating", 6, value=float(number % 5)))
        if number % 23 == 0:
            made.append(_before(bought, "dwell", 7, value=12.5))
        if number % 101 == 0:
            made.append(_before(bought, "unknown", 8))
        if number % 37 == 0:  # arrives behind everything of its user, hours late
            late = _before(bought, "view", 9)
            waiting.append(late._replace(event_time=late.event_time - (number % 40) * HOUR_MS))
        made.append(bought)
        if number % 7 == 0:  # the newest event of many users is what they were shown
            shown = tuple(EventItem(shown, place) for place, shown in enumerate(recent))
            made.append(_before(bought, "impression", -1, item_id=None, rec_id=f"rec-{number}", items=shown))
        if number % 17 == 0:
            made.append(made[number % len(made)])  # the same event again
        if number % 499 == 0:
            made.append(_before(bought, "view", -2, consent="essential" if number % 2 else "none"))
        if number % 50 == 0:
            made += waiting
            waiting = []
        yield from made


def _before(bought: Event, event_type: str, place: int, **given: object) -> Event:
    changes = {"event_type": event_type, "event_id": f"{bought.event_id}/{event_type}", "value": None}
    event_time = bought.event_time - 20_000 * place
    return bought._replace(**{**changes, "event_time": event_time, "received_time": event_time, **given})
