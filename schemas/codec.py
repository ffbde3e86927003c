"""Bytes of a Kafka record to a record and back. Only `Refused` comes out for bad bytes.

Two headers are read: Avro's single-object encoding (C3 01 and the schema's fingerprint) and Confluent's (00
and a schema id, which a static map names). Every check comes before the next costs more: size, magic, schema,
content, end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from schemas.decoder import DECODE_ERRORS, Decode, compile_decoder
from schemas.definitions import CURRENT, RELEASED, TODAY, Definition, by_fingerprint
from schemas.encoder import ENCODE_ERRORS, compile_encoder, explain
from schemas.records import MESSAGES, Event, Record
from schemas.refusal import Refused

MAX_EVENT_BYTES: Final = 65_536
MAX_RECORD_BYTES: Final = 16 * 1024 * 1024

_MAGIC: Final = b"\xc3\x01"
_BODY: Final = 10  # where the content starts behind a single-object header
_CONFLUENT_BODY: Final = 5

_ENCODERS: Final = {
    MESSAGES[name]: (_MAGIC + definition.fingerprint, compile_encoder(definition), definition.schema)
    for name, definition in TODAY.items()
}
_DECODERS: Final[dict[bytes, tuple[str, Decode]]] = {
    mark: (writer.name, compile_decoder(writer, TODAY[writer.name]))
    for mark, writer in by_fingerprint().items()
    if writer.name in TODAY
}
_EVENT_HEADER: Final = _MAGIC + TODAY["Event"].fingerprint
_decode_event_of_today: Final = _DECODERS[TODAY["Event"].fingerprint][1]


def encode(record: Record) -> bytes:
    """Avro's single-object encoding of a record by today's schema.

    Raises
    ------
    Refused
        `bad_value`, naming the field, what it wants and what it got.

    Examples
    --------
    >>> from schemas.records import Credit
    >>> credit = Credit("default", "u1", "r1", "ranker", 1.0, 1_763_700_000_000, "c1")
    >>> decode("Credit", encode(credit)) == credit
    True
    """
    header, encode_body, schema = _ENCODERS[type(record)]
    try:
        return header + b"".join(encode_body(record))
    except ENCODE_ERRORS as error:
        raise explain(schema, record) from error


class Codec:
    """Reads both headers.

    Parameters
    ----------
    schema_ids
        Confluent schema id to record name, as ``Event`` for today's schema or ``Event:1`` for that of
        release 1. Known at start, never fetched.
    """

    def __init__(self, schema_ids: Mapping[int, str] | None = None) -> None:
        self._by_id: dict[bytes, tuple[str, Decode]] = {}
        for number, text in (schema_ids or {}).items():
            self._by_id[number.to_bytes(4, "big")] = _DECODERS[_named(text).fingerprint]

    def decode_event(self, value: bytes | None, max_bytes: int = MAX_EVENT_BYTES) -> Event:
        """An event of a Kafka record's value.

        Parameters
        ----------
        value
            The value as it came; None for a tombstone.
        max_bytes
            A larger value is refused unread.

        Raises
        ------
        Refused
            empty, too_large, wrong_magic, unknown_schema, undecodable or trailing_bytes.
        """
        if type(value) is bytes and value[:_BODY] == _EVENT_HEADER and len(value) <= max_bytes:
            try:
                return _decode_event_of_today(value, _BODY)  # type: ignore[return-value]
            except Refused:
                raise
            except DECODE_ERRORS as error:
                raise _undecodable("Event", error) from error
        return self.decode("Event", value, max_bytes)  # type: ignore[return-value]

    def decode(self, kind: str, value: bytes | None, max_bytes: int = MAX_RECORD_BYTES) -> Record:
        """A record of a Kafka record's value, whichever known schema and header it was written with.

        Parameters
        ----------
        kind
            Name of the record wanted, e.g. ``Control``.

        Raises
        ------
        Refused
            As `decode_event`; `unknown_schema` also for a record of another kind.
        """
        name, decode_body, start = self._open(value, max_bytes)
        if name != kind:
            raise Refused("unknown_schema", f"wanted {kind}, the header names {name}")
        try:
            return decode_body(value, start)  # type: ignore[arg-type]
        except Refused:
            raise
        except DECODE_ERRORS as error:
            raise _undecodable(kind, error) from error

    def _open(self, value: bytes | None, max_bytes: int) -> tuple[str, Decode, int]:
        if value is None or len(value) == 0:
            raise Refused("empty", "wanted a record, got no bytes")
        if not isinstance(value, bytes):
            raise Refused("undecodable", f"wanted bytes, got {type(value).__name__}")
        if len(value) > max_bytes:
            raise Refused("too_large", f"wanted at most {max_bytes} bytes, got {len(value)}")
        if value[:2] == _MAGIC:
            found, start = _DECODERS.get(value[2:_BODY]), _BODY
            named = f"fingerprint {value[2:_BODY].hex()}"
        elif value[0] == 0:
            found, start = self._by_id.get(value[1:_CONFLUENT_BODY]), _CONFLUENT_BODY
            named = f"schema id {int.from_bytes(value[1:_CONFLUENT_BODY], 'big')}"
        else:
            raise Refused("wrong_magic", f"wanted c301 or 00 at the start, got {value[:2].hex()}")
        if found is None:
            raise Refused("unknown_schema", f"{named} is not one of ours")
        return found[0], found[1], start


def _named(text: str) -> Definition:
    name, _, version = text.partition(":")
    release = TODAY if not version else RELEASED.get(int(version) if version.isdigit() else CURRENT, {})
    if name not in release:
        raise ValueError(f"schema_ids: wanted a record name such as Event or Event:1, got {text!r}")
    return release[name]


def _undecodable(kind: str, error: BaseException) -> Refused:
    return Refused("undecodable", f"{kind}: {type(error).__name__}: {error}"[:300])


_single_object = Codec()


def decode_event(value: bytes | None, max_bytes: int = MAX_EVENT_BYTES) -> Event:
    """`Codec.decode_event` without Confluent ids."""
    return _single_object.decode_event(value, max_bytes)


def decode(kind: str, value: bytes | None, max_bytes: int = MAX_RECORD_BYTES) -> Any:
    """`Codec.decode` without Confluent ids."""
    return _single_object.decode(kind, value, max_bytes)
