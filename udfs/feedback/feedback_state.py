"""Everything the join keeps of one user: lists that may still be shown or answered, what was shown, what was done.

Bytes of version 1, little-endian: a header (u8 version, u8 lists, u8 showings, u16 outcomes, u8 settled, i64 due_ms),
then

| part | an entry |
|---|---|
| list | u64 rec, i64 at_ms, u8 credited, u16 items, u32 bytes; u64 hashes of items; Avro bytes of the `ServedList` |
| showing | u64 rec, i64 first_ms, u8 items; a u64 hash, i64 first_ms, u16 position each |
| outcome | i64 at_ms, u64 event, u64 item, u64 rec, u8 kind, f64 value, u8 checked |
| settled | u64 rec, i64 at_ms |
"""

from __future__ import annotations

import struct
from struct import Struct
from typing import Final, NamedTuple

from udfs.feedback.outcome import Outcome
from udfs.feedback.showing import MAX_SHOWN_ITEMS, SHOWN_BYTES, Showing

VERSION: Final = 1
MAX_LISTS: Final = 48
MAX_LISTS_BYTES: Final = 131_072
"""Of all lists' Avro bytes together; a list has about 1,000."""
MAX_SLOTS: Final = 50
MAX_SHOWINGS: Final = 64
MAX_OUTCOMES: Final = 256
MAX_SETTLED: Final = 32

_HEADER: Final = Struct("<BBBHBq")
_LIST: Final = Struct("<QqBHI")
_SHOWING: Final = Struct("<QqB")
_OUTCOME: Final = Struct("<qQQQBdB")
_SETTLED: Final = Struct("<Qq")

MAX_STATE_BYTES: Final = (
    _HEADER.size
    + MAX_LISTS * (_LIST.size + 8 * MAX_SLOTS)
    + MAX_LISTS_BYTES
    + MAX_SHOWINGS * (_SHOWING.size + SHOWN_BYTES * MAX_SHOWN_ITEMS)
    + MAX_OUTCOMES * _OUTCOME.size
    + MAX_SETTLED * _SETTLED.size
)
"""Bytes of a user whose every part is full."""


class FeedbackStateError(ValueError):
    """Bytes that are not a user's feedback as this release reads it."""


class KeptList(NamedTuple):
    """A list that may still be shown or answered.

    Attributes
    ----------
    rec
        Hash of its id.
    at_ms
        Effective time of the newest event that it covers.
    credited
        Its credits are out.
    items
        Hashes of its items, in the order of the slots.
    served
        Its record: Avro bytes of the `ServedList`, snapshot included.
    """

    rec: int
    at_ms: int
    credited: bool
    items: tuple[int, ...]
    served: bytes


class Settled(NamedTuple):
    """A list (hash) whose example is out, and since when."""

    rec: int
    at_ms: int


class FeedbackState(NamedTuple):
    """One user, frozen; every part sorted, so that equal contents are equal bytes.

    `due_ms` is when something is to be done next, by the rules in force when it was written; 0: not known.
    """

    lists: tuple[KeptList, ...] = ()
    showings: tuple[Showing, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    settled: tuple[Settled, ...] = ()
    due_ms: int = 0

    def encode(self) -> bytes:
        """Return the bytes of version `VERSION`, at most `MAX_STATE_BYTES`.

        Examples
        --------
        >>> FeedbackState.decode(FeedbackState().encode())
        FeedbackState(lists=(), showings=(), outcomes=(), settled=(), due_ms=0)
        """
        lists, showings, outcomes, settled, due_ms = self
        parts = [_HEADER.pack(VERSION, len(lists), len(showings), len(outcomes), len(settled), due_ms)]
        for rec, at_ms, credited, items, served in lists:
            parts.append(_LIST.pack(rec, at_ms, credited, len(items), len(served)))
            parts.append(Struct(f"<{len(items)}Q").pack(*items))
            parts.append(served)
        for rec, first_ms, shown in showings:
            parts += (_SHOWING.pack(rec, first_ms, len(shown) // SHOWN_BYTES), shown)
        parts += [_OUTCOME.pack(*outcome) for outcome in outcomes]
        parts += [_SETTLED.pack(*entry) for entry in settled]
        return b"".join(parts)

    @staticmethod
    def decode(data: bytes) -> FeedbackState:
        """Read the bytes of any released version.

        Raises
        ------
        FeedbackStateError
            For a version that this release does not read, or bytes that end too early or too late.
        """
        if not data or data[0] != VERSION:
            found = f"version {data[0]}" if data else "no bytes"
            raise FeedbackStateError(
                f"feedback state: {found} found, this release reads version {VERSION}; "
                "run the release that wrote it, or replay under a new generation"
            )
        try:
            state, end = _read(data)
        except struct.error as error:
            raise FeedbackStateError(f"feedback state: {len(data)} bytes are too few: {error}") from error
        if end != len(data):
            raise FeedbackStateError(f"feedback state: wanted {end} bytes by its counts, got {len(data)}")
        return state


def _read(data: bytes) -> tuple[FeedbackState, int]:
    _, n_lists, n_showings, n_outcomes, n_settled, due_ms = _HEADER.unpack_from(data)
    at = _HEADER.size
    lists = []
    for _ in range(n_lists):
        rec, at_ms, credited, n_items, n_bytes = _LIST.unpack_from(data, at)
        at += _LIST.size
        items = Struct(f"<{n_items}Q").unpack_from(data, at)
        at += 8 * n_items
        lists.append(KeptList(rec, at_ms, bool(credited), items, data[at : at + n_bytes]))
        at += n_bytes
    showings = []
    for _ in range(n_showings):
        rec, first_ms, n_shown = _SHOWING.unpack_from(data, at)
        at += _SHOWING.size + SHOWN_BYTES * n_shown
        showings.append(Showing(rec, first_ms, data[at - SHOWN_BYTES * n_shown : at]))
    outcomes = []
    for _ in range(n_outcomes):
        outcome = Outcome(*_OUTCOME.unpack_from(data, at))
        outcomes.append(outcome._replace(checked=bool(outcome.checked)))
        at += _OUTCOME.size
    settled = [
        Settled(*_SETTLED.unpack_from(data, at + _SETTLED.size * number)) for number in range(n_settled)
    ]
    at += _SETTLED.size * n_settled
    return FeedbackState(tuple(lists), tuple(showings), tuple(outcomes), tuple(settled), due_ms), at
