"""Lists as they were served: looked for in recs.served.v1 from its end, then in the lake."""

from __future__ import annotations

from flink_jobs.settings import Settings
from schemas import topics
from schemas.codec import Codec
from schemas.records import ServedList
from schemas.refusal import Refused
from tailrace.errors import UserError
from tailrace.topic_scan import TopicReader, partition_of

SERVED = topics.SERVED.name
SCAN = 50_000


def find_served(settings: Settings, key: str, rec_id: str) -> ServedList | None:
    """Give the record of a list, else the newest of the user, from the end of the user's partition."""
    codec, newest = Codec(settings.kafka.schema_ids), None
    with TopicReader(settings, SERVED) as reader:
        partition = partition_of(key.encode(), len(reader.partitions()))
        for record in reader.read_backwards(partition, SCAN):
            if record.key != key.encode():
                continue
            served = _decode(codec, record.value)
            if served is not None and served.rec_id == rec_id:
                return served
            newest = newest or served
    return newest


def stored_list(settings: Settings, key: str, rec_id: str) -> ServedList:
    """Give the record of exactly this list, from the topic or the lake.

    Raises
    ------
    UserError
        TR-323 when neither holds it.
    """
    try:
        found = find_served(settings, key, rec_id)
    except UserError:  # no broker, or no topic yet: the lake may still know it
        found = None
    if found is None or found.rec_id != rec_id:
        found = _in_lake(settings, key, rec_id)
    if found is None:
        raise UserError(
            "TR-323",
            f"list {rec_id!r}: not of {key!r} among the last {SCAN:,} records of {SERVED}, and not in the lake",
            "it is another user's or tenant's, or older than both reach",
            "tailrace recs USER, which shows the rec_id of the list there is; tailrace lake ls",
        )
    return found


def _in_lake(settings: Settings, key: str, rec_id: str) -> ServedList | None:
    from model_export.lake.files import files_of, read  # pyarrow takes a moment

    codec = Codec(settings.kafka.schema_ids)
    for record in read(reversed(files_of(settings.lake.root, SERVED))):
        if record.key == key.encode():
            served = _decode(codec, record.value)
            if served is not None and served.rec_id == rec_id:
                return served
    return None


def _decode(codec: Codec, value: bytes | None) -> ServedList | None:
    try:
        found = codec.decode("ServedList", value or b"")
    except Refused:
        return None
    assert isinstance(found, ServedList)
    return found
