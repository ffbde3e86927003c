"""The lake as a source: recs.events.v1 decoded by the codec that the job uses, less whom an order has erased."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from model_export.lake.files import LakeFile, RawRecord, files_of
from model_export.lake.files import read as read_files
from model_export.sources.event_log import EventLog, SourceError, columns_of
from schemas.codec import MAX_EVENT_BYTES, Codec
from schemas.ids import user_key
from schemas.records import Control, Event, Item
from schemas.refusal import Refused
from schemas.topics import CONTROL, EVENTS, ITEMS
from schemas.validation import effective_time, validate_event

NAME = "lake"
SCHEMA_IDS = {1: "Event", 2: "Item", 6: "Control"}


def is_lake(path: Path) -> bool:
    """Tell whether a folder holds a lake's events."""
    return (path / EVENTS.name).is_dir()


def read(path: Path) -> EventLog:
    """Return the events in order of their effective time, and why others were left out.

    Left out: what the job would refuse, an event_id that a user has sent before, and everything of a user up to an
    order that erases them or takes their consent back.
    """
    codec, skipped = Codec(SCHEMA_IDS), Counter[str]()
    forgotten = _forgotten_until(path, codec)
    seen: set[tuple[str, str]] = set()
    events: list[tuple[int, Event]] = []
    files = files_of(path, EVENTS.name)
    for record in read_files(files):
        event = decoded(record, codec)
        if isinstance(event, str):
            skipped[event] += 1
            continue
        key = user_key(event.tenant, event.user_id)
        if record.timestamp_ms <= forgotten.get(key, -1):
            skipped["erased"] += 1
        elif (key, event.event_id) in seen:
            skipped["duplicate"] += 1
        else:
            seen.add((key, event.event_id))
            events.append((effective_time(event)[0], event))
    events.sort(key=lambda pair: pair[0])
    times = np.array([at_ms for at_ms, _ in events], np.int64)
    fields = zip(*(event for _, event in events), strict=True) if events else ((),) * len(Event._fields)
    columns = columns_of(
        len(events), **{name: list(c) for name, c in zip(Event._fields, fields, strict=True)}
    )
    return EventLog(NAME, times, columns, dict(sorted(skipped.items())), _fingerprint(files))


def decoded(record: RawRecord, codec: Codec) -> Event | str:
    """Return the event of a record, or why the job would refuse it."""
    try:
        event = codec.decode_event(record.value or b"", MAX_EVENT_BYTES)
        validate_event(event, (record.key or b"").decode())
    except Refused as refused:
        return refused.reason
    except UnicodeDecodeError:
        return "bad_key"
    return event


def catalogue(path: Path, before_ms: int | None = None) -> list[Item]:
    """Return the items as published last before a time."""
    codec, items = Codec(SCHEMA_IDS), dict[str, Item]()
    for record in read_files(files_of(path, ITEMS.name)):
        if before_ms is not None and record.timestamp_ms >= before_ms:
            continue
        try:
            item = codec.decode("Item", record.value or b"")
        except Refused:
            continue
        assert isinstance(item, Item)
        items[item.item_id] = item
    return [items[name] for name in sorted(items)]


def orders(path: Path, codec: Codec) -> Iterator[tuple[int, str, Control]]:
    """Yield time, key and content of every control record."""
    for record in read_files(files_of(path, CONTROL.name)):
        try:
            control = codec.decode("Control", record.value or b"")
        except Refused:
            continue
        assert isinstance(control, Control)
        yield record.timestamp_ms, (record.key or b"").decode(errors="replace"), control


def _forgotten_until(path: Path, codec: Codec) -> dict[str, int]:
    """Return user key to the time of the newest order that ended the profile."""
    found: dict[str, int] = {}
    for at_ms, key, control in orders(path, codec):
        lowered = control.kind == "set_consent" and control.consent != "personalization"
        if control.kind == "erase_user" or lowered:
            found[key] = max(found.get(key, -1), at_ms)
    return found


def _fingerprint(files: list[LakeFile]) -> str:
    """Return a SHA-256 over the names of the files and their bytes: what a training says it learnt from."""
    if not files:
        raise SourceError(
            "the lake holds no event; run `tailrace lake run --once` beside a broker that has some"
        )
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.day}/{file.path.name}\n".encode())
        digest.update(file.path.read_bytes())
    return digest.hexdigest()
