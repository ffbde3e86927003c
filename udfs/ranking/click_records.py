"""Session records to what the session source learns of them: the session's name and the item's hash.

A worker reads every click of every user, so a record may cost a microsecond or two. `clicks_of` walks the bytes of a
whole batch in compiled code and makes no record of them. It handles what nearly all are: today's schema, ids of plain
ASCII. Whatever looks otherwise goes through the codec, as `read_click` says for one record.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from schemas.codec import Codec, encode
from schemas.ids import item_hash, user_key
from schemas.records import EVENT_TYPES, SessionDelta
from schemas.refusal import Refused
from udfs.avro_kernel import behind_header, find_bytes, find_text, read_long
from udfs.kernel_cache import kernel

_BODY: Final = 10  # behind the header of Avro's single-object encoding
_HEADER: Final = np.frombuffer(
    encode(SessionDelta("", "", 0, 0, 0, "", "unknown", 0, b"", 0, 0, 0))[:_BODY], np.uint8
)
_KINDS: Final = len(EVENT_TYPES)
_DIGITS: Final = 20  # of the largest ordinal
_SLASH: Final = 47
_RESERVED: Final = np.frombuffer(b"%/{}", np.uint8)  # `schemas.ids` writes them otherwise in keys


class Clicks(NamedTuple):
    """B clicks in the order of their records."""

    session_keys: NDArray[np.uint64]  # (B,)
    item_hashes: NDArray[np.uint64]  # (B,)
    newest_ms: int  # greatest event time; 0 without clicks
    refused: int  # records that could not be read


def session_key(user_key: str, ordinal: int) -> int:
    """Return the 64-bit name of one session of one user (`schemas.ids.user_key`), the ordinal from 1."""
    return xxh3_64_intdigest(f"{user_key}\0{ordinal}")


def click_of(delta: SessionDelta) -> tuple[int, int]:
    """Return the session's name and the item's hash of what one event added."""
    key = session_key(user_key(delta.tenant, delta.user_id), delta.session_ordinal)
    return key, item_hash(delta.item_id)


def read_click(record: bytes, codec: Codec) -> tuple[int, int, int]:
    """Return session name, item hash and event time of one record.

    Raises
    ------
    Refused
        By the codec.
    """
    delta = codec.decode("SessionDelta", record)
    assert isinstance(delta, SessionDelta)
    return (*click_of(delta), delta.event_time)


def clicks_of(records: Sequence[bytes], codec: Codec) -> Clicks:
    """Return the clicks of a batch of records, those that the codec refuses left out and counted."""
    count = len(records)
    stops = np.fromiter(map(len, records), np.int64, count).cumsum()
    joined = b"".join(records)
    buffer = np.frombuffer(joined, np.uint8)
    texts = np.empty(len(buffer) + count * (_DIGITS + 2), np.uint8)
    text_stops = np.empty(count, np.int64)
    item_starts, item_stops = np.empty(count, np.int64), np.empty(count, np.int64)
    times_ms = np.empty(count, np.int64)
    _walk(buffer, stops, _HEADER, texts, text_stops, item_starts, item_stops, times_ms)
    text, start = texts.tobytes(), 0
    keys, items, newest_ms, refused = [], [], 0, 0
    places = zip(
        records,
        text_stops.tolist(),
        item_starts.tolist(),
        item_stops.tolist(),
        times_ms.tolist(),
        strict=True,
    )
    for record, stop, item_start, item_stop, at_ms in places:
        if item_start:
            key = xxh3_64_intdigest(text[start:stop])
            item = xxh3_64_intdigest(joined[item_start:item_stop]) or 1
        else:
            try:
                key, item, at_ms = read_click(record, codec)
            except Refused:
                refused += 1
                continue
        start = stop
        keys.append(key)
        items.append(item)
        newest_ms = max(newest_ms, at_ms)
    return Clicks(np.array(keys, np.uint64), np.array(items, np.uint64), newest_ms, refused)


@kernel
def _walk(
    buffer: NDArray[np.uint8],
    stops: NDArray[np.int64],
    header: NDArray[np.uint8],
    texts: NDArray[np.uint8],
    text_stops: NDArray[np.int64],
    item_starts: NDArray[np.int64],
    item_stops: NDArray[np.int64],
    times_ms: NDArray[np.int64],
) -> None:
    """Find each record's item and time and write its session's text; an item start of 0 leaves it to the codec.

    No item starts at 0: a batch begins with a header.
    """
    begin = written = 0
    for row in range(len(stops)):
        end = stops[row]
        tenant, tenant_stop = find_text(buffer, behind_header(buffer, begin, end, header), end)
        user, user_stop = find_text(buffer, tenant_stop, end)
        ordinal, at = read_long(buffer, user_stop, end)
        _, at = read_long(buffer, at, end)  # session_start
        _, at = read_long(buffer, at, end)  # position
        item, item_stop = find_text(buffer, at, end)
        kind, kind_stop = read_long(buffer, item_stop, end)
        at_ms, at = read_long(buffer, kind_stop, end)
        _, at = find_bytes(buffer, at, end)  # previous_items
        for _ in range(3):  # partition, offset, n
            _, at = read_long(buffer, at, end)
        _, at = find_text(buffer, at, end)  # country
        item_starts[row] = item_stops[row] = times_ms[row] = 0
        # A symbol is one byte; what is written otherwise in a key is left to the codec.
        plain = at == end and kind_stop == item_stop + 1 and 0 <= kind < _KINDS and ordinal >= 0
        for start, stop in ((tenant, tenant_stop), (user, user_stop)):
            for j in range(start, stop):
                for reserved in _RESERVED:
                    plain = plain and buffer[j] != reserved
        if plain:
            written = _put_name(buffer, tenant, tenant_stop, user, user_stop, ordinal, texts, written)
            item_starts[row], item_stops[row], times_ms[row] = item, item_stop, at_ms
        text_stops[row] = written
        begin = end


@kernel
def _put_name(
    buffer: NDArray[np.uint8],
    tenant: int,
    tenant_stop: int,
    user: int,
    user_stop: int,
    ordinal: int,
    texts: NDArray[np.uint8],
    to: int,
) -> int:
    """Write the text that `session_key` hashes, and return where it ends."""
    for j in range(tenant, tenant_stop):
        texts[to] = buffer[j]
        to += 1
    texts[to] = _SLASH
    to += 1
    for j in range(user, user_stop):
        texts[to] = buffer[j]
        to += 1
    texts[to] = 0
    digits, rest = 1, ordinal // 10
    while rest:
        digits, rest = digits + 1, rest // 10
    for j in range(digits):
        texts[to + digits - j] = 48 + ordinal % 10
        ordinal //= 10
    return to + 1 + digits
