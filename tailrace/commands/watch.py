"""`tailrace watch USER`: the list, live."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from clients.reader import RecommendationReader, Recommendations
from flink_jobs.settings import load
from schemas.records import DEFAULT_TENANT
from schemas.redis_keys import user_keys
from tailrace.commands.options import Config
from tailrace.commands.recs import Tenant, User, headline
from tailrace.connections import reader, store
from tailrace.list_view import Change, Titled, Titles, age, compare, list_table

POLL_S = 0.02
LIVE_MS = 3_600_000
"""An event older than this when its list was written is history: its delay says nothing."""


class Seen(NamedTuple):
    """One version of the list.

    Parameters
    ----------
    change
        Against the version before; None for the first.
    delay_ms
        From the newest event's time to the list in Redis; None of history and of popular lists.
    """

    found: Recommendations
    version: str
    change: Change | None
    delay_ms: int | None


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(watch)


def watch(
    user: User,
    config: Config = None,
    tenant: Tenant = DEFAULT_TENANT,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after this many changes.")] = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="Stop after this many seconds.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line a change.")] = False,
) -> None:
    """Follow a user's list: drawn anew at each change, with what came, went and moved.

    The milliseconds are from the time of the user's newest event to the moment at which the list stood in
    Redis. Ctrl-C ends it, with exit code 0.
    """
    settings = load(config)
    console = Console(highlight=False)
    with reader(settings) as lists, store(settings) as client:
        titles = Titles(settings, client, tenant)
        meta = user_keys(tenant, user, settings.redis.hash_tags).meta
        changes = follow(lists, client, meta, user, tenant, timeout)
        try:
            if as_json:
                for seen in _first(changes, count):
                    print(json.dumps(_as_dict(user, seen)), flush=True)
            elif sys.stdout.isatty():
                with Live(Text(f"waiting for a list of {user}"), console=console, auto_refresh=False) as live:
                    for seen in _first(changes, count):
                        live.update(_drawn(user, seen, _titles(titles, seen)), refresh=True)
            else:
                for seen in _first(changes, count):
                    console.print(_drawn(user, seen, _titles(titles, seen)))
        except KeyboardInterrupt:
            pass


def follow(
    lists: RecommendationReader, client: Any, meta: str, user: str, tenant: str, timeout_s: float | None
) -> Iterator[Seen]:
    """Yield the list that there is, then each later version of it.

    Parameters
    ----------
    meta
        Name of the user's meta HASH, of which `_v` is asked again and again.
    """
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    before: Seen | None = None
    while deadline_s is None or time.monotonic() < deadline_s:
        version = client.hget(meta, "_v") or ""
        if before is None or version != before.version:
            found = lists.get(user, tenant)
            version, watermark = client.hmget(meta, "_v", "_wm")
            change = None
            if before is not None:
                change = compare(_ids(before.found), _ids(found))
            before = Seen(found, version or "", change, _delay_ms(found, watermark))
            yield before
        time.sleep(POLL_S)


def _first(changes: Iterator[Seen], count: int | None) -> Iterator[Seen]:
    """Yield the list as it stands, then `count` changes."""
    for number, seen in enumerate(changes):
        yield seen
        if count is not None and number >= count:
            return


def _delay_ms(found: Recommendations, watermark: str | None) -> int | None:
    if found.as_of is None or not watermark:
        return None
    delay_ms = found.as_of - int(watermark)
    return delay_ms if 0 <= delay_ms <= LIVE_MS else None


def _ids(found: Recommendations) -> list[str]:
    return [item.item_id for item in found.items]


def _titles(titles: Titles, seen: Seen) -> dict[str, Titled]:
    left = () if seen.change is None else seen.change.left
    return titles.of([*_ids(seen.found), *left])


def _drawn(user: str, seen: Seen, titles: dict[str, Titled]) -> Group:
    parts: list[Any] = [Text(headline(user, seen.found)), list_table(seen.found, titles, seen.change)]
    if seen.change is not None and seen.change.left:
        gone = ", ".join(f"{item_id} {titles[item_id].title}".strip() for item_id in seen.change.left)
        parts.append(Text(f"gone: {gone}", style="red"))
    if seen.delay_ms is not None:
        parts.append(Text(f"event → list: {seen.delay_ms} ms"))
    elif seen.found.age_ms is not None:
        parts.append(Text(f"written {age(seen.found.age_ms)} ago", style="dim"))
    return Group(*parts)


def _as_dict(user: str, seen: Seen) -> dict[str, Any]:
    change = seen.change or Change((), (), {})
    return {
        "user_id": user,
        "version": seen.version,
        "rec_id": seen.found.rec_id,
        "source": seen.found.source,
        "as_of": seen.found.as_of,
        "model_version": seen.found.model_version,
        "items": _ids(seen.found),
        "came": change.came,
        "left": change.left,
        "moved": change.moved,
        "event_to_list_ms": seen.delay_ms,
    }
