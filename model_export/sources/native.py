"""Tailrace's own form: one JSON object a line with the fields of Event.

Needed: event_id, event_type, user_id, event_time (milliseconds), and item_id where the type has one. The
rest has Event's usual values; consent is ``personalization`` only where the line says so. A line that cannot
be used is counted by reason, not fatal. Items may stand beside it: ``shop.jsonl`` and ``shop.items.jsonl``
with the fields of Item.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from model_export.sources.event_log import EventLog, SourceError, columns_of, file_sha256
from schemas.ids import user_key
from schemas.records import Event, EventItem, Item
from schemas.validation import validate_event

NAME = "native"
NEEDED = ("event_id", "event_type", "user_id", "event_time")


def read(path: Path) -> EventLog:
    """Return the events of the file in time order (equal times in file order), and what was left out."""
    skipped: Counter[str] = Counter()
    events: list[Event] = []
    for line in _objects(path):
        if not isinstance(line, dict):
            skipped["not_an_object"] += 1
        elif any(line.get(name) in (None, "") for name in NEEDED):
            skipped["missing_field"] += 1
        else:
            try:
                event = _event(line)
                validate_event(event, user_key(event.tenant, event.user_id))
                events.append(event)
            except (TypeError, ValueError, KeyError, AttributeError):
                skipped["bad_value"] += 1
    events.sort(key=lambda event: event.event_time)
    times = np.array([event.event_time for event in events], np.int64)
    fields = zip(*events, strict=True) if events else ((),) * len(Event._fields)
    columns = columns_of(
        len(events), **{name: list(c) for name, c in zip(Event._fields, fields, strict=True)}
    )
    return EventLog(NAME, times, columns, dict(sorted(skipped.items())), file_sha256(path))


def catalogue(path: Path, before_ms: int | None = None) -> list[Item]:
    """Return the items of the file beside it, else one bare item for every id in the events."""
    beside = path.with_name(path.name.removesuffix(".gz").removesuffix(".jsonl") + ".items.jsonl")
    items: dict[str, Item] = {}
    if beside.is_file():
        for line in _objects(beside):
            try:
                item = _item(line)
            except (TypeError, ValueError, KeyError) as error:
                raise SourceError(f"{beside}: not an item: {line!r} ({error})") from error
            if before_ms is None or item.updated_time < before_ms:
                items[item.item_id] = item
    for event in read(path):
        if (
            event.item_id
            and event.item_id not in items
            and (before_ms is None or event.event_time < before_ms)
        ):
            items[event.item_id] = _item({"item_id": event.item_id, "updated_time": event.event_time})
    return [items[name] for name in sorted(items)]


def _event(line: dict[str, Any]) -> Event:
    return Event(
        event_id=str(line["event_id"]),
        event_type=str(line["event_type"]),
        tenant=str(line.get("tenant", "default")),
        user_id=str(line["user_id"]),
        session_id=_text(line.get("session_id")),
        item_id=_text(line.get("item_id")),
        event_time=int(line["event_time"]),
        received_time=int(line.get("received_time") or line["event_time"]),
        rec_id=_text(line.get("rec_id")),
        items=tuple(EventItem(str(item["item_id"]), item.get("position")) for item in line.get("items", ())),
        value=None if line.get("value") is None else float(line["value"]),
        query=_text(line.get("query")),
        context={str(key): str(value) for key, value in line.get("context", {}).items()},
        consent=str(line.get("consent", "none")),
    )


def _item(line: dict[str, Any]) -> Item:
    item_id = str(line["item_id"])
    return Item(
        item_id=item_id,
        tenant=str(line.get("tenant", "default")),
        title=str(line.get("title", item_id)),
        category=str(line.get("category", "")),
        brand=_text(line.get("brand")),
        price=None if line.get("price") is None else float(line["price"]),
        in_stock=bool(line.get("in_stock", True)),
        blocked=bool(line.get("blocked", False)),
        attributes={str(key): str(value) for key, value in line.get("attributes", {}).items()},
        updated_time=int(line["updated_time"]),
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _objects(path: Path) -> Iterator[Any]:
    with _open(path) as file:
        for line in file:
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError:
                    yield None


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")
