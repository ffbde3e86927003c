"""The items of a user's running session, and the pairs that the next item makes with them.

Pure: from a frozen basket and what came to the next basket and its pairs. A pair counts once a session, so that
its decayed count over that of one of its items is the share of sessions that hold both: P(i|j).
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from udfs.recency_set import U8_CODES, find

MAX_ITEMS: Final = 50
"""Items of a session that are remembered, the most recent ones."""

MAX_PARTNERS: Final = 10
"""Items that one event pairs with, of each kind: what an event costs at most."""

NEWEST_PARTNERS: Final = 5
"""Of `MAX_PARTNERS`; the others are drawn evenly from the older ones."""

BASKET_FORMAT: Final = 1
_HEADER: Final = Struct("<BBHIqQqq")  # format, items, n, partition, offset, ordinal, at_ms, last_ms
BASKET_HEADER_BYTES: Final = _HEADER.size
MAX_BASKET_BYTES: Final = BASKET_HEADER_BYTES + 9 * MAX_ITEMS

_NO_PLACE: Final = (0, -1, 0)
_pack_u64 = Struct("<Q").pack
_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
ODD: Final = 0x9E37_79B9_7F4A_7C15
"""2^64 over the golden ratio: spreads the draw of partners."""

_BOUGHT: Final = 1
_new_tuple = tuple.__new__


class Basket(NamedTuple):
    """A user's session so far.

    Attributes
    ----------
    ordinal
        Which of the user's sessions.
    at_ms
        When it began, as its first step said: the time of all that it counts for.
    last_ms
        Newest event time in it.
    items
        u64 hashes of distinct items, least recent first, at most `MAX_ITEMS`.
    flags
        A byte an item: 1 for one that was bought in this session.
    place
        Partition, offset and n of the newest record in it: a user's records come in that order, so one that
        is not behind it came before.
    """

    ordinal: int
    at_ms: int
    last_ms: int
    items: bytes
    flags: bytes
    place: tuple[int, int, int] = _NO_PLACE

    def encode(self) -> bytes:
        """Give versioned bytes, at most `MAX_BASKET_BYTES`."""
        ordinal, at_ms, last_ms, _, flags, (partition, offset, n) = self
        header = _HEADER.pack(BASKET_FORMAT, len(flags), n, partition, offset, ordinal, at_ms, last_ms)
        return header + self.items + self.flags

    @classmethod
    def decode(cls, data: bytes) -> Basket:
        """Read what `encode` wrote.

        Raises
        ------
        ValueError
            For bytes of another format.
        """
        found, count, n, partition, offset, ordinal, at_ms, last_ms = _HEADER.unpack_from(data)
        if found != BASKET_FORMAT:
            raise ValueError(f"basket: wanted format {BASKET_FORMAT}, got {found}")
        split = _HEADER.size + 8 * count
        items, place = data[_HEADER.size : split], (partition, offset, n)
        return _new_tuple(cls, (ordinal, at_ms, last_ms, items, data[split:], place))


class Added(NamedTuple):
    """What one step of a session does.

    Attributes
    ----------
    basket
        With the item in it.
    first
        The item is new in the session.
    first_bought
        It was bought for the first time in the session.
    viewed, bought
        u64 hashes of the items that it makes a pair with: of the kind "both in one session", and of the kind
        "both bought in one session".
    """

    basket: Basket
    first: bool
    first_bought: bool
    viewed: bytes
    bought: bytes


def add(
    basket: Basket | None,
    ordinal: int,
    session_start_ms: int,
    at_ms: int,
    item: int,
    is_purchase: bool,
    place: tuple[int, int, int] = _NO_PLACE,
) -> Added:
    """Put an item into the user's session.

    Parameters
    ----------
    basket
        The user's last one; None: none is known. It goes on when it is the same session: same ordinal, and
        begun before the basket's newest event (a user who was forgotten counts sessions from 1 again).
    ordinal, session_start_ms
        Of the item's session.
    at_ms
        Time of the event.
    item
        Hash, uint64.
    place
        Partition, offset and n of the record.

    Examples
    --------
    >>> one = add(None, 1, 1_000, 1_000, 7, is_purchase=False)
    >>> two = add(one.basket, 1, 1_000, 2_000, 8, is_purchase=False)
    >>> two.first, two.viewed == (7).to_bytes(8, "little"), two.bought
    (True, True, b'')
    >>> add(two.basket, 2, 9_000, 9_000, 9, is_purchase=False).viewed
    b''
    """
    if basket is None or basket.ordinal != ordinal or session_start_ms > basket.last_ms:
        begun_ms, last_ms, items, flags = session_start_ms, at_ms, b"", b""
    else:
        _, begun_ms, last_ms, items, flags, _ = basket
        last_ms = at_ms if at_ms > last_ms else last_ms
    packed = _pack_u64(item)
    found = find(items, packed)
    flag = 0
    viewed = bought = b""
    if found >= 0:
        flag = flags[found >> 3]
        items = items[:found] + items[found + 8 :]
        flags = flags[: found >> 3] + flags[(found >> 3) + 1 :]
    elif items:
        viewed = partners(items, item, begun_ms)
    first_bought = is_purchase and not flag
    if first_bought:
        flag = _BOUGHT
        if _BOUGHT in flags:
            others = b"".join(items[8 * n : 8 * n + 8] for n, one in enumerate(flags) if one)
            bought = partners(others, item, begun_ms)
    items = (items + packed)[-8 * MAX_ITEMS :]
    flags = (flags + U8_CODES[flag])[-MAX_ITEMS:]
    now = _new_tuple(Basket, (ordinal, begun_ms, last_ms, items, flags, place))
    return _new_tuple(Added, (now, found < 0, first_bought, viewed, bought))


def partners(items: bytes, item: int, begun_ms: int) -> bytes:
    """Choose at most `MAX_PARTNERS` of a session's items to pair a new one with.

    All of a few; of many the newest, and of the older ones every n-th from a start that the item and the
    session decide: each has the same chance, and a replay draws the same.

    Parameters
    ----------
    items
        u64 hashes, least recent first.
    """
    older = (len(items) >> 3) - NEWEST_PARTNERS
    drawn = MAX_PARTNERS - NEWEST_PARTNERS
    if older <= drawn:
        return items
    start = ((item ^ begun_ms) * ODD & _MASK) >> 32
    chosen = [
        items[8 * place : 8 * place + 8]
        for place in ((start + number * older // drawn) % older for number in range(drawn))
    ]
    return b"".join(chosen) + items[8 * older :]
