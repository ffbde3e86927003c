"""Examples of what users saw and did: read from their topic, or kept in a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import fastavro

from flink_jobs.settings import Settings
from schemas.codec import Codec, encode
from schemas.records import Example
from schemas.refusal import Refused
from schemas.topics import EXAMPLES
from tailrace.errors import ExitCode, UserError
from tailrace.topic_scan import TopicReader

_KEPT = fastavro.parse_schema(
    {"type": "record", "name": "Kept", "fields": [{"name": "value", "type": "bytes"}]}
)
"""A record of a file: the topic's bytes as they are, so that a file is read by the same codec."""


def from_topic(settings: Settings, at_most: int | None = None) -> Iterator[Example]:
    """Yield the committed examples of the topic, each list once.

    Parameters
    ----------
    at_most
        Newest records of each partition; None: all.

    Raises
    ------
    UserError
        TR-300 or TR-342 where there is no broker or topic.
    """
    codec, seen = Codec(settings.kafka.schema_ids), set()
    with TopicReader(settings, EXAMPLES.name) as reader:
        for record in reader.read_all(at_most):
            try:
                example = cast(Example, codec.decode("Example", record.value))
            except Refused:
                continue
            if example.rec_id not in seen:
                seen.add(example.rec_id)
                yield example


def from_file(path: Path) -> Iterator[Example]:
    """Yield the examples of a file that `keep` wrote.

    Raises
    ------
    UserError
        TR-710 for a file that is none.
    """
    codec = Codec({})
    try:
        with path.open("rb") as file:
            for kept in fastavro.reader(file):
                yield cast(Example, codec.decode("Example", cast(dict[str, bytes], kept)["value"]))
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise UserError(
            "TR-710",
            f"{path}: not a file of examples: {error}",
            fix="tailrace eval policy logged --keep FILE",
            exit_code=ExitCode.USAGE,
        ) from error


def keep(examples: Iterable[Example], path: Path) -> None:
    """Write examples into a file: an Avro container of the topic's bytes."""
    with path.open("wb") as file:
        fastavro.writer(file, _KEPT, [{"value": encode(one)} for one in examples], codec="deflate")
