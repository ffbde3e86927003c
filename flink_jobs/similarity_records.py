"""Reads a batch of `recs.sessions.v1` into columns: plain records in compiled code, any other by the codec.

Plain is what our own recommend job writes: today's schema, ids of printable ASCII, a key that is tenant and user as
they stand. What the compiled code does not take for plain is read, or refused, by `read_one`, which is the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from flink_jobs.text_kernel import Bytes, Texts
from schemas.codec import Codec, encode
from schemas.ids import MAX_ID_BYTES, check_id, escape_id, user_key
from schemas.records import DEFAULT_TENANT, EVENT_TYPES, SessionDelta
from schemas.refusal import Refused
from udfs.avro_kernel import behind_header, find_bytes, find_text, read_long
from udfs.item_factors import INTERACTION_WEIGHTS
from udfs.kernel_cache import kernel
from udfs.similarity.country_trends import country_code
from udfs.similarity.session_kernel import SessionSteps
from udfs.similarity.session_step import item_key

ADDS: Final = ("view", "click", "add_to_cart", "purchase")
"""Event types that add to a session."""

_HEADER: Final = encode(SessionDelta("", "", 0, 0, 0, "", "view", 0, b"", 0, 0, 0))[:10]
_ADDS: Final = np.array([name in ADDS for name in EVENT_TYPES])
_PURCHASE: Final = EVENT_TYPES.index("purchase")
_ORDINAL, _START, _POSITION, _TYPE, _AT, _PARTITION, _OFFSET, _N, _OTHER_TENANT = range(9)
_NUMBERS: Final = 9
_LARGEST: Final = {"session_ordinal": 1 << 62, "partition": (1 << 31) - 1, "n": (1 << 16) - 1}
_MAX_PARTITION, _MAX_N = _LARGEST["partition"], _LARGEST["n"]
_SPACE, _TILDE, _SLASH, _PERCENT, _OPEN, _CLOSE = 32, 126, 47, 37, 123, 125
_OF_DEFAULT: Final = user_key(DEFAULT_TENANT, "").encode()
_DEFAULT: Final = np.frombuffer(DEFAULT_TENANT.encode(), np.uint8)


class SessionColumns(NamedTuple):
    """Records that can be read.

    Attributes
    ----------
    steps
        One a record, in order; `users` are places in `users` here.
    users
        Keys, each once, in order of appearance.
    names
        `item_key` of each item to its tenant and id (`user_key`), code of each country to its name.
    refused
        Place among the records that came, and why it cannot be read.
    """

    steps: SessionSteps
    users: list[str]
    names: dict[int, bytes]
    refused: list[tuple[int, Refused]]


def read_one(codec: Codec, key: str, payload: bytes) -> SessionDelta:
    """Read one record.

    Raises
    ------
    Refused
        As `Codec.decode`; key_mismatch, bad_id, and bad_value for what adds to no session or cannot be kept.
    """
    delta = codec.decode("SessionDelta", payload)
    assert isinstance(delta, SessionDelta)
    if key != user_key(delta.tenant, delta.user_id):
        raise Refused("key_mismatch", f"record of {user_key(delta.tenant, delta.user_id)!r} under {key!r}")
    check_id("item_id", delta.item_id)
    if delta.event_type not in ADDS:
        raise Refused("bad_value", f"event_type: wanted one that adds to a session, got {delta.event_type}")
    for name, largest in _LARGEST.items():
        if not 0 <= getattr(delta, name) <= largest:
            raise Refused("bad_value", f"{name}: wanted 0 to {largest}, got {getattr(delta, name)}")
    for name in ("session_start", "event_time", "position", "offset"):
        if abs(getattr(delta, name)) > 1 << 62:
            raise Refused("bad_value", f"{name}: wanted at most 2^62, got {getattr(delta, name)}")
    return delta


def read_sessions(codec: Codec, keys: Sequence[str], payloads: Sequence[bytes]) -> SessionColumns:
    """Read records of `recs.sessions.v1`.

    Parameters
    ----------
    keys
        Of the Kafka records.
    """
    count = len(keys)
    numbers = np.zeros((count, _NUMBERS), np.int64)
    spans = np.zeros((count, 4), np.int64)
    plain = np.zeros(count, np.bool_)
    texts = Texts.of_bytes(list(payloads))
    _read(texts, Texts.of(keys), np.frombuffer(_HEADER, np.uint8), _ADDS, numbers, spans, plain)
    data = texts.data.tobytes()
    item_starts, item_ends, country_starts, country_ends = spans.T.tolist()
    ids = [data[start:end] for start, end in zip(item_starts, item_ends, strict=True)]
    places = [data[start:end] for start, end in zip(country_starts, country_ends, strict=True)]
    names: dict[int, bytes] = {}
    hashes: dict[bytes, int] = {}
    for name in set(ids):
        hashes[name] = item = xxh3_64_intdigest(name) or 1
        names[item] = _OF_DEFAULT + escape_id(name.decode()).encode()
    codes = {name: country_code(name.decode()) for name in set(places)}
    items, countries = [hashes[name] for name in ids], [codes[name] for name in places]
    names.update((code, name) for name, code in codes.items() if code)
    refused: list[tuple[int, Refused]] = []
    for row in np.flatnonzero(~plain | (numbers[:, _OTHER_TENANT] != 0)).tolist():
        try:
            delta = read_one(codec, keys[row], payloads[row])
        except Refused as reason:
            refused.append((row, reason))
            continue
        plain[row] = True
        kind = EVENT_TYPES.index(delta.event_type)
        numbers[row, : _N + 1] = (
            *(delta.session_ordinal, delta.session_start, delta.position, kind),
            *(delta.event_time, delta.partition, delta.offset, delta.n),
        )
        items[row], countries[row] = item_key(delta.tenant, delta.item_id), country_code(delta.country)
        names[items[row]] = user_key(delta.tenant, delta.item_id).encode()
        if countries[row]:
            names[countries[row]] = delta.country.encode()
    users: dict[str, int] = {}
    of_row = [users.setdefault(key, len(users)) for key in keys]
    columns = (
        np.array(of_row, np.int64),
        *(numbers[:, column] for column in (_ORDINAL, _START, _POSITION, _AT, _PARTITION, _OFFSET, _N)),
        np.array(items, np.uint64),
        INTERACTION_WEIGHTS[numbers[:, _TYPE]],
        numbers[:, _TYPE] == _PURCHASE,
        np.array(countries, np.uint32),
    )
    steps = SessionSteps._make(column[plain] for column in columns)
    return SessionColumns(steps, list(users), names, refused)


@kernel
def _read(
    texts: Texts,
    keys: Texts,
    header: Bytes,
    adds: NDArray[np.bool_],
    numbers: NDArray[np.int64],
    spans: NDArray[np.int64],
    plain: NDArray[np.bool_],
) -> None:
    """Read the records that are plain; `spans` are the ends of item and country in the records' bytes."""
    data = texts.data
    for row in range(len(plain)):
        stop = int(texts.offsets[row + 1])
        at = behind_header(data, int(texts.offsets[row]), stop, header)
        tenant, tenant_end = find_text(data, at, stop)
        user, user_end = find_text(data, tenant_end, stop)
        ordinal, at = read_long(data, user_end, stop)
        start_ms, at = read_long(data, at, stop)
        position, at = read_long(data, at, stop)
        item, item_end = find_text(data, at, stop)
        kind, kind_end = read_long(data, item_end, stop)
        at_ms, at = read_long(data, kind_end, stop)
        _, at = find_bytes(data, at, stop)  # previous items
        partition, at = read_long(data, at, stop)
        offset, at = read_long(data, at, stop)
        n, at = read_long(data, at, stop)
        country, country_end = find_text(data, at, stop)
        if (
            country_end == stop
            and kind_end == item_end + 1
            and 0 <= kind < len(adds)
            and adds[kind]
            and ordinal >= 0
            and 0 <= partition <= _MAX_PARTITION
            and 0 <= n <= _MAX_N
            and 1 <= item_end - item <= MAX_ID_BYTES
            and _is_key(keys, row, data, tenant, tenant_end, user, user_end)
        ):
            numbers[row, _ORDINAL], numbers[row, _START], numbers[row, _POSITION] = (
                ordinal,
                start_ms,
                position,
            )
            numbers[row, _TYPE], numbers[row, _AT] = kind, at_ms
            numbers[row, _PARTITION], numbers[row, _OFFSET], numbers[row, _N] = partition, offset, n
            numbers[row, _OTHER_TENANT] = not _is_default(data, tenant, tenant_end)
            spans[row, 0], spans[row, 1] = item, item_end
            spans[row, 2], spans[row, 3] = country, country_end
            plain[row] = True


@kernel
def _is_key(
    keys: Texts, row: int, data: Bytes, tenant: int, tenant_end: int, user: int, user_end: int
) -> bool:
    """Tell whether key `row` is tenant, slash and user, in none of which anything is escaped."""
    at = int(keys.offsets[row])
    if int(keys.offsets[row + 1]) - at != tenant_end - tenant + 1 + user_end - user:
        return False
    for k in range(tenant, tenant_end):
        if data[k] != keys.data[at] or _is_escaped(int(data[k])):
            return False
        at += 1
    if keys.data[at] != _SLASH:
        return False
    for k in range(user, user_end):
        at += 1
        if data[k] != keys.data[at] or _is_escaped(int(data[k])):
            return False
    return True


@kernel
def _is_escaped(byte: int) -> bool:
    """Tell whether `schemas.ids.escape_id` writes a byte otherwise."""
    return byte in (_SLASH, _PERCENT, _OPEN, _CLOSE)


@kernel
def _is_default(data: Bytes, start: int, stop: int) -> bool:
    """Tell whether the bytes are `DEFAULT_TENANT`."""
    same = stop - start == len(_DEFAULT)
    for k in range(len(_DEFAULT) if same else 0):
        same = same and bool(data[start + k] == _DEFAULT[k])
    return same
