"""When which items of a list were shown: all impressions of one list, merged.

Merging takes the earliest of everything, so neither order nor repeats of impressions matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Final, NamedTuple

from schemas.ids import item_hash
from schemas.records import Event

MAX_SHOWN_ITEMS: Final = 64
ALL_ITEMS: Final = 0
"""Stands for the item of an impression that names only its list: every slot was shown."""
NO_POSITION: Final = 0xFFFF
_SHOWN: Final = Struct("<QqH")
SHOWN_BYTES: Final = _SHOWN.size


class Shown(NamedTuple):
    """One item (hash, or `ALL_ITEMS`): when it was first shown, and where (`NO_POSITION`: not said)."""

    item: int
    first_ms: int
    position: int


class Showing(NamedTuple):
    """A list (hash) that was shown: when first, and its items in order of their hashes.

    The items are packed (`pack_items`): most showings are read and written without a look at them.
    """

    rec: int
    first_ms: int
    items: bytes


def pack_items(items: Iterable[Shown]) -> bytes:
    """Return items as bytes, `SHOWN_BYTES` each: u64 hash, i64 first_ms, u16 position."""
    return b"".join([_SHOWN.pack(*entry) for entry in sorted(items)])


def items_of(showing: Showing) -> list[Shown]:
    """Return the items of a showing."""
    return [Shown(*entry) for entry in _SHOWN.iter_unpack(showing.items)]


def showing_of(event: Event, rec: int, at_ms: int) -> Showing:
    """Return what one impression says.

    Parameters
    ----------
    event
        An impression.
    rec
        Hash of its list.
    at_ms
        Its effective time.
    """
    shown: dict[int, Shown] = {}
    for place, item in enumerate(event.items[:MAX_SHOWN_ITEMS]):
        position = min(place if item.position is None else item.position, NO_POSITION - 1)
        name = item_hash(item.item_id)
        shown.setdefault(name, Shown(name, at_ms, position))
    if not shown:
        name = ALL_ITEMS if event.item_id is None else item_hash(event.item_id)
        shown[name] = Shown(name, at_ms, NO_POSITION)
    return Showing(rec, at_ms, pack_items(shown.values()))


def merge(one: Showing, other: Showing) -> Showing:
    """Return both showings of a list as one.

    Examples
    --------
    >>> early = Showing(1, 5, pack_items([Shown(7, 5, 2)]))
    >>> late = Showing(1, 9, pack_items([Shown(7, 9, 0), Shown(8, 9, 1)]))
    >>> items_of(merge(early, late))
    [Shown(item=7, first_ms=5, position=2), Shown(item=8, first_ms=9, position=1)]
    >>> merge(early, late) == merge(late, early)
    True
    """
    shown: dict[int, Shown] = {}
    for entry in (*items_of(one), *items_of(other)):
        known = shown.get(entry.item)
        if known is None or entry < known:
            shown[entry.item] = entry
    first = sorted(shown.values(), key=lambda entry: (entry.first_ms, entry.item))[:MAX_SHOWN_ITEMS]
    return Showing(one.rec, min(one.first_ms, other.first_ms), pack_items(first))


def first_shown(showing: Showing, item: int, slot: int) -> tuple[int, int] | None:
    """Return when and at which position an item was first shown, None if it was not.

    Parameters
    ----------
    item, slot
        Its hash and its place in the list, which is its position where no impression says one.

    Examples
    --------
    >>> both = Shown(ALL_ITEMS, 5, NO_POSITION), Shown(7, 9, 0)
    >>> first_shown(Showing(1, 5, pack_items(both)), 7, slot=3)
    (5, 3)
    """
    found = [
        (first_ms, slot if position == NO_POSITION else position)
        for name, first_ms, position in _SHOWN.iter_unpack(showing.items)
        if name in (item, ALL_ITEMS)
    ]
    return min(found, default=None)
