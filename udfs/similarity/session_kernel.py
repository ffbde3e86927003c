"""Applies a batch of session records to many users' baskets, in compiled code over their blobs.

`session_step.step` says the same of one record, in plain Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.similarity.basket import (
    BASKET_FORMAT,
    BASKET_HEADER_BYTES,
    MAX_BASKET_BYTES,
    MAX_ITEMS,
    MAX_PARTNERS,
    NEWEST_PARTNERS,
    ODD,
    Basket,
)
from udfs.similarity.contribution import CONTRIBUTION

MAX_MADE: Final = 1 + 4 * MAX_PARTNERS
"""Contributions of one record at most."""

_ODD: Final = np.uint64(ODD)
_DRAWN: Final = MAX_PARTNERS - NEWEST_PARTNERS
_WORDS: Final = CONTRIBUTION.itemsize // 8


class SessionSteps(NamedTuple):
    """Session records as columns, each (n,); a user's in the order in which they were written.

    Attributes
    ----------
    users
        int64: index of the user.
    ordinals, starts_ms, positions, times_ms
        int64: which of the user's sessions, its begin, the record's place in it, time of the event.
    partitions, offsets, ns
        int64: where the record stands; told by it when it comes again.
    items
        uint64: `session_step.item_key`.
    weights
        float32: of the event type (`item_factors.INTERACTION_WEIGHTS`).
    purchases
        bool: the event is one.
    countries
        uint32: `country_trends.country_code`.
    """

    users: NDArray[np.int64]
    ordinals: NDArray[np.int64]
    starts_ms: NDArray[np.int64]
    positions: NDArray[np.int64]
    times_ms: NDArray[np.int64]
    partitions: NDArray[np.int64]
    offsets: NDArray[np.int64]
    ns: NDArray[np.int64]
    items: NDArray[np.uint64]
    weights: NDArray[np.float32]
    purchases: NDArray[np.bool_]
    countries: NDArray[np.uint32]


class Contributed(NamedTuple):
    """What records do.

    Attributes
    ----------
    baskets
        The users' blobs after them; None: still unknown.
    contributions
        (m,) of `CONTRIBUTION`.
    counted
        bool (n,): which records count. One that came before, or is beyond the limit, does not.
    """

    baskets: list[bytes | None]
    contributions: NDArray[np.void]
    counted: NDArray[np.bool_]


def apply_steps(baskets: Sequence[bytes | None], steps: SessionSteps, max_session_events: int) -> Contributed:
    """Apply records to baskets.

    Parameters
    ----------
    baskets
        The users' last sessions, as `Basket.encode` wrote them; None: none is known.
    max_session_events
        Later events of a session count for nothing.

    Raises
    ------
    ValueError
        For a blob of another format.
    """
    for blob in baskets:
        if blob is not None and blob[0] != BASKET_FORMAT:
            Basket.decode(blob)
    starts = np.zeros(len(baskets) + 1, np.int64)
    np.cumsum([len(blob or b"") for blob in baskets], out=starts[1:])
    count = len(steps.users)
    made = np.empty((count * MAX_MADE, _WORDS), np.uint64)
    after = np.empty((len(baskets), MAX_BASKET_BYTES), np.uint8)
    sizes = np.zeros(len(baskets), np.int64)
    counted = np.zeros(count, np.bool_)
    ends = _walk(
        np.argsort(steps.users, kind="stable"),
        *steps,
        max_session_events,
        np.frombuffer(b"".join(blob or b"" for blob in baskets), np.uint8),
        starts,
        after,
        sizes,
        counted,
        made,
        made.view(np.float32),
        made.view(np.uint32),
    )
    data = after.tobytes()
    changed = [
        data[MAX_BASKET_BYTES * user : MAX_BASKET_BYTES * user + size] if size else before
        for user, (size, before) in enumerate(zip(sizes.tolist(), baskets, strict=True))
    ]
    return Contributed(changed, made[:ends].reshape(-1).view(CONTRIBUTION), counted)


@kernel
def _walk(
    order: NDArray[np.int64],
    users: NDArray[np.int64],
    ordinals: NDArray[np.int64],
    starts_ms: NDArray[np.int64],
    positions: NDArray[np.int64],
    times_ms: NDArray[np.int64],
    partitions: NDArray[np.int64],
    offsets: NDArray[np.int64],
    ns: NDArray[np.int64],
    new_items: NDArray[np.uint64],
    weights: NDArray[np.float32],
    purchases: NDArray[np.bool_],
    countries: NDArray[np.uint32],
    max_session_events: int,
    blobs: NDArray[np.uint8],
    blob_starts: NDArray[np.int64],
    after: NDArray[np.uint8],
    sizes: NDArray[np.int64],
    counted: NDArray[np.bool_],
    made: NDArray[np.uint64],
    made_floats: NDArray[np.float32],
    made_halves: NDArray[np.uint32],
) -> int:
    """Go through the records user by user; give the number of contributions in `made`."""
    items = np.zeros(MAX_ITEMS, np.uint64)
    bought_items = np.zeros(MAX_ITEMS, np.uint64)
    flags = np.zeros(MAX_ITEMS, np.uint8)
    end, at = 0, 0
    while at < len(order):
        user = users[order[at]]
        start = blob_starts[user]
        known = blob_starts[user + 1] > start
        size, partition, offset, n = 0, 0, -1, 0
        ordinal, begun_ms, last_ms = 0, 0, 0
        if known:
            size = int(np.int64(blobs[start + 1]))
            n = int(np.int64(blobs[start + 2])) | int(np.int64(blobs[start + 3])) << 8
            partition = int(np.int64(_word(blobs, start + 4) & np.uint64(0xFFFF_FFFF)))
            offset = int(np.int64(_word(blobs, start + 8)))
            ordinal = int(np.int64(_word(blobs, start + 16)))
            begun_ms = int(np.int64(_word(blobs, start + 24)))
            last_ms = int(np.int64(_word(blobs, start + 32)))
            for k in range(size):
                items[k] = _word(blobs, start + BASKET_HEADER_BYTES + 8 * k)
                flags[k] = blobs[start + BASKET_HEADER_BYTES + 8 * size + k]
        changed = False
        while at < len(order) and users[order[at]] == user:
            row = order[at]
            at += 1
            before = partitions[row] == partition and (
                offsets[row] < offset or (offsets[row] == offset and ns[row] <= n)
            )
            if (known and before) or positions[row] >= max_session_events:
                continue
            item = new_items[row]
            if not known or ordinal != ordinals[row] or starts_ms[row] > last_ms:
                ordinal, begun_ms, last_ms, size = ordinals[row], starts_ms[row], times_ms[row], 0
            last_ms = max(last_ms, times_ms[row])
            partition, offset, n = partitions[row], offsets[row], ns[row]
            known = changed = counted[row] = True
            place = 0
            while place < size and items[place] != item:
                place += 1
            first, flag = place == size, np.uint8(0)
            if not first:
                flag = flags[place]
                for k in range(place + 1, size):
                    items[k - 1], flags[k - 1] = items[k], flags[k]
                size -= 1
            first_bought = purchases[row] and flag == 0
            own, end = end, end + 1
            made[own, 0], made[own, 1], made[own, 2] = item, np.uint64(0), np.uint64(begun_ms)
            made_floats[own, 6] = 1.0 if first else 0.0
            made_floats[own, 7] = 1.0 if first_bought else 0.0
            made_floats[own, 8] = weights[row]
            made_halves[own, 9] = countries[row]
            if first:
                end = _pair(items, size, item, begun_ms, 6, end, made, made_floats)
            if first_bought:
                flag = np.uint8(1)
                others = 0
                for k in range(size):
                    if flags[k]:
                        bought_items[others] = items[k]
                        others += 1
                end = _pair(bought_items, others, item, begun_ms, 7, end, made, made_floats)
            if size == MAX_ITEMS:
                for k in range(1, size):
                    items[k - 1], flags[k - 1] = items[k], flags[k]
                size -= 1
            items[size], flags[size] = item, flag
            size += 1
        if changed:
            out = after[user]
            out[0], out[1] = BASKET_FORMAT, size
            out[2], out[3] = n & 255, n >> 8
            _put_word(out, 4, np.uint64(partition))
            _put_word(out, 8, np.uint64(offset))
            _put_word(out, 16, np.uint64(ordinal))
            _put_word(out, 24, np.uint64(begun_ms))
            _put_word(out, 32, np.uint64(last_ms))
            for k in range(size):
                _put_word(out, BASKET_HEADER_BYTES + 8 * k, items[k])
            for k in range(size):
                out[BASKET_HEADER_BYTES + 8 * size + k] = flags[k]
            sizes[user] = BASKET_HEADER_BYTES + 9 * size
    return end


@kernel
def _pair(
    items: NDArray[np.uint64],
    size: int,
    item: np.uint64,
    begun_ms: int,
    field: int,
    end: int,
    made: NDArray[np.uint64],
    made_floats: NDArray[np.float32],
) -> int:
    """Write the pairs of an item and `basket.partners` both ways, counted in column `field`."""
    older = size - NEWEST_PARTNERS
    drawn = _DRAWN if older > _DRAWN else max(older, 0)
    start = int(np.int64(((item ^ np.uint64(begun_ms)) * _ODD) >> np.uint64(32)))
    for number in range(drawn + size - max(older, 0)):
        if number >= drawn:
            place = max(older, 0) + number - drawn
        elif older > _DRAWN:
            place = (start + number * older // _DRAWN) % older
        else:
            place = number
        for way in range(2):
            made[end, 0] = item if way == 0 else items[place]
            made[end, 1] = items[place] if way == 0 else item
            made[end, 2] = np.uint64(begun_ms)
            made_floats[end, 6] = made_floats[end, 7] = made_floats[end, 8] = 0.0
            made_floats[end, 9] = 0.0  # no country: the same bits
            made_floats[end, field] = 1.0
            end += 1
    return end


@kernel
def _word(data: NDArray[np.uint8], at: int) -> np.uint64:
    """Read 8 bytes, little endian."""
    word = np.uint64(0)
    for k in range(8):
        word |= np.uint64(data[at + k]) << np.uint64(8 * k)
    return word


@kernel
def _put_word(data: NDArray[np.uint8], at: int, word: np.uint64) -> None:
    for k in range(8):
        data[at + k] = np.uint8((word >> np.uint64(8 * k)) & np.uint64(255))
