"""Dead letters: what a job refused, which of them were sent back, and sending them back.

A letter is known by its origin, the place in the topic that it was read from. Redriving leaves a mark beside
it: the same letter once more, with the header `tailrace-redriven-to` that names the new place. Readers of
the topic dedupe by origin, so the mark is a repeat to them; to us it says that the letter was sent back, and
that a letter whose origin is that new place has come back. So nothing is redriven twice or in a circle unless
asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from schemas.codec import Codec
from schemas.ids import user_key
from schemas.records import Control, Credit, DeadLetter, Event, SessionDelta
from schemas.refusal import Refused
from schemas.topics import DEAD_LETTERS, TOPICS
from schemas.validation import control_key
from tailrace.topic_scan import Record

TOPIC = DEAD_LETTERS.name
REDRIVEN_TO = "tailrace-redriven-to"
REDRIVEN_FROM = "tailrace-redriven-from"
FIXABLE = ("missing_key", "key_mismatch")
_KINDS = {topic.name: topic.record for topic in TOPICS}


class Place(NamedTuple):
    """Where a record stands."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read what `str` writes.

        Examples
        --------
        >>> Place.parse("recs.events.v1/3/17")
        Place(topic='recs.events.v1', partition=3, offset=17)
        """
        topic, partition, offset = text.rsplit("/", 2)
        return cls(topic, int(partition), int(offset))


class Letter(NamedTuple):
    """One dead letter.

    Parameters
    ----------
    place
        In the dead-letter topic: how commands name it, `partition:offset`.
    refused_ms
        When the job wrote it, wall clock.
    letter
        The record.
    redriven_to
        Where it was sent back to last; None: never.
    came_back
        Its origin is where an earlier letter was sent back to.
    """

    place: Place
    refused_ms: int
    letter: DeadLetter
    redriven_to: Place | None = None
    came_back: bool = False

    @property
    def origin(self) -> Place:
        """Where the job read it."""
        return Place(self.letter.topic, self.letter.partition, self.letter.offset)

    @property
    def name(self) -> str:
        """How commands name it."""
        return f"{self.place.partition}:{self.place.offset}"


def read_letters(records: Iterable[Record], codec: Codec) -> tuple[list[Letter], int]:
    """Give each dead letter once, in the order of the topic.

    Returns
    -------
    letters
        The first record of each origin, with what is known of its redriving.
    unreadable
        Number of records that are no dead letters.
    """
    letters: dict[Place, Letter] = {}
    redriven: dict[Place, Place] = {}
    unreadable = 0
    for record in records:
        try:
            found = codec.decode("DeadLetter", record.value)
        except Refused:
            unreadable += 1
            continue
        assert isinstance(found, DeadLetter)
        origin = Place(found.topic, found.partition, found.offset)
        for name, value in record.headers:
            if name == REDRIVEN_TO:
                redriven[origin] = Place.parse(value.decode())
        place = Place(record.topic, record.partition, record.offset)
        letters.setdefault(origin, Letter(place, record.timestamp_ms, found))
    targets = set(redriven.values())
    return [
        letter._replace(redriven_to=redriven.get(origin), came_back=origin in targets)
        for origin, letter in letters.items()
    ], unreadable


def select(letters: Sequence[Letter], reasons: Sequence[str], names: Sequence[str]) -> list[Letter]:
    """Give the letters with one of the reasons or names; all when neither is given.

    Parameters
    ----------
    names
        `partition:offset` in the dead-letter topic, as `dlq ls` prints it, or `topic/partition/offset` of the
        origin.
    """
    return [
        letter
        for letter in letters
        if not (reasons or names)
        or letter.letter.reason in reasons
        or letter.name in names
        or str(letter.origin) in names
    ]


def fixed_key(letter: DeadLetter, codec: Codec) -> bytes | None:
    """Give the key that the payload belongs under; None when the payload cannot be read or names none."""
    kind = _KINDS.get(letter.topic)
    if letter.reason not in FIXABLE or kind is None:
        return None
    try:
        record = codec.decode(kind, letter.value)
        if isinstance(record, Event | Credit | SessionDelta):
            return user_key(record.tenant, record.user_id).encode()
        return control_key(record).encode() if isinstance(record, Control) else None
    except Refused:
        return None


def explain(letter: DeadLetter, codec: Codec) -> tuple[dict[str, object] | None, str]:
    """Give the payload's fields, or None and why they cannot be read."""
    kind = _KINDS.get(letter.topic)
    if kind is None:
        return None, f"no schema is known for {letter.topic}"
    try:
        return codec.decode(kind, letter.value)._asdict(), ""
    except Refused as refused:
        return None, str(refused)


def hex_lines(data: bytes, at_most: int = 512) -> Iterator[str]:
    r"""Yield lines of 16 bytes: offset, hexadecimal, text.

    Examples
    --------
    >>> list(hex_lines(b"\xc3\x01ab"))
    ['00000000  c3 01 61 62                                       ..ab']
    """
    for start in range(0, min(len(data), at_most), 16):
        row = data[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        yield f"{start:08x}  {row.hex(' '):<47}   {text}"
    if len(data) > at_most:
        yield f"... {len(data) - at_most} more bytes"
