"""What a job refused, as it leaves for the dead letters."""

from __future__ import annotations

from flink_jobs.kafka_key import key_bytes
from schemas.codec import encode
from schemas.records import DeadLetter
from schemas.refusal import Refused


def dead_letter(
    topic: str, partition: int, offset: int, at_ms: int, key: str, payload: bytes, refused: Refused, job: str
) -> tuple[str, bytes]:
    """Give key and record of `recs.dead-letters.v1`.

    Parameters
    ----------
    topic, partition, offset, at_ms
        Where the record stood, and its timestamp in milliseconds since 1970 UTC.
    key
        As the SQL prefix gives it (`kafka_key.key_sql`); the record has the original bytes.
    payload
        The record's bytes.
    """
    raw_key = key_bytes(key)
    letter = DeadLetter(
        topic, partition, offset, at_ms, raw_key, payload, refused.reason, refused.detail, job
    )
    return raw_key.decode("utf-8", "replace"), encode(letter)
