"""Dead letters: each once, marked when sent back, recognised when they come back."""

import json
from typing import Any

import pytest
from schema_samples import SAMPLES
from typer.testing import CliRunner

from clients.producer import new_event
from flink_jobs.settings import Settings
from schemas.codec import Codec, encode
from schemas.records import Control, DeadLetter
from tailrace import redrive
from tailrace.cli import app
from tailrace.commands import dlq
from tailrace.dead_letters import (
    REDRIVEN_TO,
    TOPIC,
    Place,
    explain,
    fixed_key,
    hex_lines,
    read_letters,
    select,
)
from tailrace.topic_scan import Record, partition_of

CODEC = Codec()
EVENT = encode(new_event("click", "u/1", "i1", event_id="e1", event_time=1_000, consent="personalization"))


def letter(
    offset: int, reason: str = "wrong_magic", value: bytes = b"?", topic: str = "recs.events.v1"
) -> DeadLetter:
    return DeadLetter(topic, 3, offset, 1_000, b"default/u1", value, reason, "detail", "recommend")


def record(place: int, of: DeadLetter, redriven_to: str | None = None) -> Record:
    headers = () if redriven_to is None else ((REDRIVEN_TO, redriven_to.encode()),)
    return Record(TOPIC, 0, place, 2_000, None, encode(of), headers)


def test_a_letter_written_twice_by_a_restarted_job_is_listed_once() -> None:
    letters, unreadable = read_letters(
        [record(0, letter(5)), record(1, letter(5)), record(2, letter(6))], CODEC
    )
    assert [found.name for found in letters] == ["0:0", "0:2"]
    assert unreadable == 0


def test_the_mark_of_a_redrive_belongs_to_the_letter_and_is_none_itself() -> None:
    letters, _ = read_letters([record(0, letter(5)), record(1, letter(5), "recs.events.v1/3/90")], CODEC)
    assert [found.redriven_to for found in letters] == [Place("recs.events.v1", 3, 90)]
    assert not letters[0].came_back


def test_a_letter_from_the_place_it_was_sent_back_to_has_come_back() -> None:
    records = [
        record(0, letter(5)),
        record(1, letter(5), "recs.events.v1/3/90"),
        record(2, letter(90)),
        record(3, letter(91)),
    ]
    letters, _ = read_letters(records, CODEC)
    assert [found.came_back for found in letters] == [False, True, False]


def test_a_record_that_is_no_dead_letter_is_counted_not_fatal() -> None:
    letters, unreadable = read_letters(
        [Record(TOPIC, 0, 0, 1, None, b"\x00junk", ()), record(1, letter(5))], CODEC
    )
    assert (len(letters), unreadable) == (1, 1)


def test_letters_are_chosen_by_reason_by_place_and_by_origin() -> None:
    letters, _ = read_letters(
        [record(0, letter(5)), record(1, letter(6, "empty")), record(2, letter(7, "too_large"))], CODEC
    )
    assert [found.name for found in select(letters, ["empty"], [])] == ["0:1"]
    assert [found.name for found in select(letters, [], ["0:2", "recs.events.v1/3/5"])] == ["0:0", "0:2"]
    assert len(select(letters, [], [])) == 3


@pytest.mark.parametrize("reason", ["key_mismatch", "missing_key"])
def test_a_key_is_fixed_from_the_payload(reason: str) -> None:
    assert fixed_key(letter(5, reason, EVENT), CODEC) == b"default/u%2F1"


def test_a_key_is_not_invented_for_another_reason_or_an_unreadable_payload() -> None:
    assert fixed_key(letter(5, "too_large", EVENT), CODEC) is None
    assert fixed_key(letter(5, "key_mismatch", b"\xc3\x01nonsense"), CODEC) is None


def test_the_key_of_an_order_names_its_kind() -> None:
    order = encode(Control("c1", "republish", None, None, None, None, 1_000, ""))
    assert fixed_key(letter(5, "missing_key", order, "recs.control.v1"), CODEC) == b"*republish"


@pytest.mark.parametrize(
    ("topic", "kind", "key"),
    [("recs.sessions.v1", "SessionDelta", b"acme/u1"), ("recs.items.v1", "Item", None)],
)
def test_letters_of_every_topic_are_read(topic: str, kind: str, key: bytes | None) -> None:
    refused = letter(5, "key_mismatch", encode(SAMPLES[kind]), topic)
    assert explain(refused, CODEC) == (SAMPLES[kind]._asdict(), "")
    assert fixed_key(refused, CODEC) == key


def test_a_payload_is_explained_or_says_why_not() -> None:
    fields, why_not = explain(letter(5, value=EVENT), CODEC)
    assert fields is not None and fields["item_id"] == "i1" and why_not == ""
    assert explain(letter(5), CODEC) == (None, "wrong_magic: wanted c301 or 00 at the start, got 3f")


def test_bytes_are_shown_in_rows_of_sixteen_and_the_rest_is_counted() -> None:
    lines = list(hex_lines(bytes(range(40)), at_most=32))
    assert len(lines) == 3
    assert lines[1].startswith("00000010  10 11")
    assert lines[2] == "... 8 more bytes"


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"abc", 479470107),
    ],
)
def test_the_partition_of_a_key_is_that_of_kafkas_own_partitioner(key: bytes, hashed: int) -> None:
    assert partition_of(key, 1_000_003) == (hashed & 0x7FFF_FFFF) % 1_000_003


def test_a_letter_goes_back_with_the_bytes_of_its_key_to_its_partition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where they are no UTF-8."""
    sent: list[dict[str, Any]] = []

    class Broker:
        def __init__(self, config: dict[str, Any]) -> None:
            self.partitions = lambda: list(range(8))

        def produce(self, topic: str, **record: Any) -> None:
            sent.append({"topic": topic, **record})

        def flush(self, timeout_s: float) -> int:
            return 0

    class Reader(Broker):
        def __init__(self, settings: Settings, topic: str) -> None:
            super().__init__({})

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(redrive, "Producer", Broker)
    monkeypatch.setattr(redrive, "TopicReader", Reader)
    monkeypatch.setattr(dlq, "redrive_letters", redrive.redrive_letters)
    refused = letter(5, "key_mismatch", EVENT)._replace(key=b"default/\xff\x00")
    found, _ = read_letters([record(0, refused)], CODEC)
    monkeypatch.setattr(dlq, "_read", lambda settings, scan: (found, 0))
    shown = CliRunner().invoke(app, ["dlq", "show", "0:0", "--json"])
    assert json.loads(shown.output)["key_hex"] == "64656661756c742fff00"
    assert r"b'default/\xff\x00'" in CliRunner().invoke(app, ["dlq", "show", "0:0"]).output
    CliRunner().invoke(app, ["dlq", "redrive", "0:0"])
    (back,) = sent
    assert (back["key"], back["partition"], back["value"]) == (refused.key, 3, EVENT)
