"""What people see of a list: titles beside ids, and what changed between two of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from rich.table import Table

from clients.reader import Recommendations
from flink_jobs.settings import Settings
from schemas.records import DEFAULT_TENANT
from schemas.redis_keys import item_features_key
from tailrace.model_epochs import read_catalogue


class Titled(NamedTuple):
    """What is known of an item."""

    title: str
    category: str


UNKNOWN = Titled("", "")


class Titles:
    """Titles of items: from `item_features` in the store, else from the catalogue topic, read once.

    Parameters
    ----------
    client
        A store client that answers texts.
    """

    def __init__(self, settings: Settings, client: Any, tenant: str = DEFAULT_TENANT) -> None:
        self._settings = settings
        self._client = client
        self._tenant = tenant
        self._known: dict[str, Titled] = {}
        self._catalogue: dict[str, Titled] | None = None

    def of(self, item_ids: Iterable[str]) -> dict[str, Titled]:
        """Give what is known of each item; empty texts for one that nothing tells of."""
        wanted = list(dict.fromkeys(item_ids))
        asked = [item_id for item_id in wanted if item_id not in self._known]
        if asked:
            with self._client.pipeline(transaction=False) as pipeline:
                for item_id in asked:
                    key = item_features_key(self._tenant, item_id, self._settings.redis.hash_tags)
                    pipeline.hmget(key, ("title", "category"))
                for item_id, (title, category) in zip(asked, pipeline.execute(), strict=True):
                    found = Titled(title or "", category or "")
                    self._known[item_id] = found if found.title else self._from_catalogue(item_id, found)
        return {item_id: self._known[item_id] for item_id in wanted}

    def _from_catalogue(self, item_id: str, known: Titled) -> Titled:
        if self._catalogue is None:
            self._catalogue = {
                item.item_id: Titled(item.title, item.category)
                for item in read_catalogue(self._settings)
                if item.tenant == self._tenant
            }
        return self._catalogue.get(item_id, known)


class Change(NamedTuple):
    """How one list differs from the one before.

    Parameters
    ----------
    came, left
        Items, in the order of the list that has them.
    moved
        Item to places gained; negative: lost. Items that came are not in it.
    """

    came: tuple[str, ...]
    left: tuple[str, ...]
    moved: dict[str, int]


def compare(before: Sequence[str], after: Sequence[str]) -> Change:
    """Tell how a list changed.

    Examples
    --------
    >>> compare(["a", "b", "c"], ["c", "a", "d"])
    Change(came=('d',), left=('b',), moved={'c': 2, 'a': -1})
    """
    place = {item_id: row for row, item_id in enumerate(before)}
    moved = {
        item_id: place[item_id] - row
        for row, item_id in enumerate(after)
        if item_id in place and place[item_id] != row
    }
    return Change(
        tuple(item_id for item_id in after if item_id not in place),
        tuple(item_id for item_id in before if item_id not in set(after)),
        moved,
    )


def mark(change: Change | None, item_id: str) -> str:
    """Give the sign that stands beside an item: `new`, `+2`, `-1` or nothing."""
    if change is None:
        return ""
    return (
        "new" if item_id in change.came else f"{change.moved[item_id]:+d}" if item_id in change.moved else ""
    )


def list_table(
    found: Recommendations, titles: dict[str, Titled], change: Change | None = None, title: str | None = None
) -> Table:
    """Give a list as a table, with what changed where `change` is given."""
    table = Table(box=None, header_style="bold", title=title, title_justify="left")
    table.add_column("", justify="right", style="dim")
    if change is not None:
        table.add_column("")
    table.add_column("item", no_wrap=True)
    table.add_column("title", ratio=1)
    table.add_column("score", justify="right")
    table.add_column("source")
    table.add_column("propensity", justify="right")
    for row, item in enumerate(found.items, 1):
        sign = mark(change, item.item_id)
        cells = [str(row)] + ([f"[green]{sign}[/]" if sign == "new" else sign] if change is not None else [])
        chance = "" if item.propensity is None else f"{item.propensity:.3f}"
        name = titles.get(item.item_id, UNKNOWN).title
        table.add_row(*cells, item.item_id, name, f"{item.score:.4g}", item.source, chance)
    return table


def age(ms: int) -> str:
    """Give a length of time for people.

    Examples
    --------
    >>> age(860), age(61_000), age(90_000_000)
    ('0.9 s', '1 min', '1 d')
    """
    for unit_ms, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min")):
        if ms >= unit_ms:
            return f"{ms // unit_ms} {unit}"
    return f"{ms / 1000:.1f} s"
