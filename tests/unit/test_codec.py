"""Records survive the way through bytes, and bad bytes end in Refused, cheaply."""

import contextlib
import copy
import io
import json
import time
import tracemalloc
from pathlib import Path

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schema_samples import FULL_EVENT, SAMPLES, VIEW

from schemas import codec
from schemas.codec import Codec, decode, decode_event, encode
from schemas.decoder import compile_decoder, read_block
from schemas.definitions import RELEASED, TODAY, define
from schemas.encoder import write_long
from schemas.records import CONSENTS, EVENT_TYPES, MESSAGES, PARTS, Event, EventItem
from schemas.refusal import Refused

FIXTURES = Path(__file__).parents[1] / "fixtures" / "schemas"
HEADER = encode(VIEW)[:10]
KINDS = sorted(SAMPLES)
INT64_MIN = -(1 << 63)


def as_plain(value):
    """Records as fastavro wants them."""
    if hasattr(value, "_asdict"):
        return {name: as_plain(entry) for name, entry in value._asdict().items()}
    return [as_plain(entry) for entry in value] if isinstance(value, tuple) else value


def strip_logical_types(node):
    if isinstance(node, dict):
        return {key: strip_logical_types(value) for key, value in node.items() if key != "logicalType"}
    return [strip_logical_types(entry) for entry in node] if isinstance(node, list) else node


def fastavro_body(name, plain):
    out = io.BytesIO()
    fastavro.schemaless_writer(
        out, fastavro.parse_schema(strip_logical_types(copy.deepcopy(TODAY[name].schema))), plain
    )
    return out.getvalue()


def refused(call, *arguments):
    with pytest.raises(Refused) as caught:
        call(*arguments)
    return caught.value.reason


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_survives_the_way_through_bytes(kind):
    back = decode(kind, encode(SAMPLES[kind]))
    assert back == SAMPLES[kind]
    assert type(back) is MESSAGES[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_committed_with_release_1_are_read_by_today_s_code(kind):
    stored = (FIXTURES / "v1" / f"{kind}.bin").read_bytes()
    assert decode(kind, stored) == SAMPLES[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_those_that_fastavro_writes(kind):
    assert encode(SAMPLES[kind])[10:] == fastavro_body(kind, as_plain(SAMPLES[kind]))


def test_the_header_is_avro_s_single_object_header():
    assert define({"type": "record", "name": "int", "fields": []}).fingerprint != HEADER[2:]
    assert (
        fastavro.schema.fingerprint('"int"', "CRC-64-AVRO") == "8f5c393f1ad57572"
    )  # the specification's example
    assert HEADER[:2] == b"\xc3\x01"
    assert HEADER[2:] == TODAY["Event"].fingerprint


def test_records_have_the_fields_and_symbols_of_the_files_in_their_order():
    for name, definition in TODAY.items():
        assert list(MESSAGES[name]._fields) == [field["name"] for field in definition.schema["fields"]]
    event = {field["name"]: field["type"] for field in TODAY["Event"].schema["fields"]}
    assert list(PARTS["EventItem"]._fields) == [field["name"] for field in event["items"]["items"]["fields"]]
    assert tuple(event["event_type"]["symbols"]) == EVENT_TYPES
    assert tuple(event["consent"]["symbols"]) == CONSENTS
    control = {field["name"]: field["type"] for field in TODAY["Control"].schema["fields"]}
    assert tuple(control["consent"][1]["symbols"]) == CONSENTS


def least_bytes(node, inside=()):
    """Fewest bytes of a value; fails on a schema that holds itself."""
    kind = node["type"] if isinstance(node, dict) else node
    if isinstance(node, list):
        return 1 + min(least_bytes(branch, inside) for branch in node)
    if kind == "record":
        assert node["name"] not in inside, f"{node['name']} is recursive"
        return sum(least_bytes(field["type"], (*inside, node["name"])) for field in node["fields"])
    if kind in ("array", "map"):
        assert least_bytes(node["items"] if kind == "array" else node["values"], inside) > 0
        return 1
    return {"null": 0, "double": 8, "float": 4}.get(kind, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_no_schema_is_recursive_or_has_elements_of_no_bytes(kind):
    """A bomb needs one of the two: a few bytes that make millions of values."""
    assert least_bytes(TODAY[kind].schema) > 0


def test_every_field_says_what_it_means():
    def undocumented(node, path):
        if isinstance(node, list):
            return [name for branch in node for name in undocumented(branch, path)]
        if not isinstance(node, dict):
            return []
        found = [] if node.get("doc") or node["type"] in ("array", "map", "long") else [path]
        for field in node.get("fields", []):
            where = f"{path}.{field['name']}"
            found += ([] if field.get("doc") else [where]) + undocumented(field["type"], where)
        return found + undocumented(node.get("items"), path)

    assert [name for kind in KINDS for name in undocumented(TODAY[kind].schema, kind)] == []


# --- poison ---


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"{}", "wrong_magic"),
        (b"\xc3\x02" + HEADER[2:], "wrong_magic"),
        (b"\xc3", "wrong_magic"),
        (b"\xc3\x01", "unknown_schema"),
        (b"\xc3\x01\x01\x02", "unknown_schema"),
        (b"\xc3\x01" + b"\x07" * 8 + b"x", "unknown_schema"),
        (b"\0", "unknown_schema"),
        (b"\0\0\0\0\x01", "unknown_schema"),
        (HEADER, "undecodable"),
        ("text", "undecodable"),
        (["list"], "undecodable"),
        (bytearray(encode(VIEW)), "undecodable"),
    ],
)
def test_what_is_no_event_is_refused_with_its_reason(value, reason):
    assert refused(decode_event, value) == reason


def test_the_fingerprint_of_a_recursive_schema_is_unknown():
    schema = {
        "type": "record",
        "name": "Node",
        "fields": [{"name": "next", "type": ["null", "Node"], "default": None}],
    }
    assert (
        refused(decode_event, b"\xc3\x01" + define(schema).fingerprint + b"\x02" * 50_000) == "unknown_schema"
    )


def test_a_record_of_another_kind_is_refused():
    assert refused(decode_event, encode(SAMPLES["Control"])) == "unknown_schema"
    assert refused(decode, "Control", encode(VIEW)) == "unknown_schema"


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_cut_off_anywhere_is_refused(kind):
    whole = encode(SAMPLES[kind])
    for size in range(len(whole)):
        assert refused(decode, kind, whole[:size]) in (
            "empty",
            "wrong_magic",
            "unknown_schema",
            "undecodable",
        )


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_behind_the_record_are_refused(kind):
    assert refused(decode, kind, encode(SAMPLES[kind]) + b"\0") == "trailing_bytes"


def test_invalid_utf_8_is_refused():
    broken = encode(VIEW).replace(b"user-123456", b"user-\xff\xfe456")
    assert refused(decode_event, broken) == "undecodable"
    assert refused(decode_event, encode(VIEW).replace(b"mobile", b"\xed\xa0\x80abc")) == "undecodable"


def event_body(event_type=b"\x02", items=b"\0", context=b"\0", union=b"\0", consent=b"\x04", size=b"\x02e"):
    times = write_long(1_763_700_000_000) * 2
    return (
        HEADER
        + size
        + event_type
        + b"\x02t\x02u"
        + union
        + b"\0"
        + times
        + b"\0"
        + items
        + b"\0\0"
        + context
        + consent
    )


def test_the_hand_written_body_is_good_until_a_part_is_bad():
    assert decode_event(event_body()).user_id == "u"
    blocks_with_sizes = write_long(-1) + write_long(5) + b"\x02i\0" + b"\0"
    assert decode_event(event_body(items=blocks_with_sizes)).items == (EventItem("i", None),)


@pytest.mark.parametrize(
    "bad",
    [
        {"event_type": b"\x14"},  # the symbol behind the last
        {"event_type": b"\x01"},  # -1: Python would count from the end
        {"consent": b"\x03"},
        {"union": b"\x04"},
        {"union": b"\x01"},
        {"size": b"\x01"},  # a text of -1 bytes
        {"size": b"\xff" * 9 + b"\x01e"},
        {"size": b"\xff" * 10 + b"\x01e"},  # more than 64 bits
        {"size": b"\xff" * 40},
        {"size": write_long(1 << 40) + b"e"},
    ],
)
def test_bad_symbols_branches_and_lengths_are_refused(bad):
    assert refused(decode_event, event_body(**bad)) == "undecodable"


@pytest.mark.parametrize("field", ["items", "context"])
@pytest.mark.parametrize(
    "count", [4, 10_000_000, 1 << 31, (1 << 63) - 1, -10_000_000, INT64_MIN, INT64_MIN + 1]
)
@pytest.mark.parametrize("block_size", [b"", write_long(0), write_long(-1), write_long((1 << 63) - 1)])
def test_a_block_count_that_lies_is_refused_at_once(field, count, block_size):
    bomb = event_body(**{field: write_long(count) + block_size})
    tracemalloc.start()
    started = time.process_time()
    assert refused(decode_event, bomb) == "undecodable"
    took_s = time.process_time() - started
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took_s < 1.0  # reading ten million items takes many
    assert peak < 100_000


def test_a_block_of_more_elements_than_bytes_is_refused_before_the_first_is_read():
    assert read_block(write_long(3) + b"abc", 0) == (3, 1)
    with pytest.raises(ValueError, match="block of 4 elements in 3 bytes"):
        read_block(write_long(4) + b"abc", 0)


def test_the_largest_array_that_fits_costs_bounded_time_and_memory():
    count = 32_000
    big = event_body(items=write_long(count) + b"\0\0" * count + b"\0")
    assert len(big) < codec.MAX_EVENT_BYTES
    tracemalloc.start()
    decoded = decode_event(big)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(decoded.items) == count
    assert peak < 8_000_000


def test_ten_megabytes_are_refused_unread():
    large = HEADER + b"\x02" * 10_000_000
    started = time.process_time()
    assert refused(decode_event, large) == "too_large"
    assert time.process_time() - started < 1.0
    assert refused(decode_event, encode(VIEW), 20) == "too_large"


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(KINDS), st.binary(max_size=200))
def test_random_bytes_behind_a_good_header_only_give_a_record_or_refused(kind, body):
    try:
        record = decode(kind, encode(SAMPLES[kind])[:10] + body)
    except Refused as verdict:
        assert verdict.reason in ("undecodable", "trailing_bytes")
    else:
        assert type(record) is MESSAGES[kind]


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(KINDS), st.data())
def test_a_record_with_changed_bytes_only_gives_a_record_or_refused(kind, data):
    whole = bytearray(encode(SAMPLES[kind]))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Refused):
        decode(kind, bytes(whole))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=64))
def test_random_bytes_only_give_refused(value):
    assert refused(decode_event, value)


# --- agreement with the reference ---

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=90)
longs = st.integers(INT64_MIN, -INT64_MIN - 1)
events = st.builds(
    Event,
    texts,
    st.sampled_from(EVENT_TYPES),
    texts,
    texts,
    st.none() | texts,
    st.none() | texts,
    longs | st.integers(0, 1 << 42),
    longs | st.integers(0, 1 << 42),
    st.none() | texts,
    st.lists(st.builds(EventItem, texts, st.none() | st.integers(-(1 << 31), (1 << 31) - 1)), max_size=3).map(
        tuple
    ),
    st.none() | st.floats(allow_nan=False),
    st.none() | texts,
    st.dictionaries(texts, texts, max_size=3),
    st.sampled_from(CONSENTS),
)


@settings(max_examples=400, deadline=None)
@given(events)
def test_any_event_is_written_as_fastavro_writes_it_and_read_back(event):
    written = encode(event)
    assert written[10:] == fastavro_body("Event", as_plain(event))
    assert decode_event(written, 1 << 20) == event


# --- evolution ---


def evolve(name, **added):
    schema = copy.deepcopy(TODAY[name].schema)
    schema["fields"] += [{"name": field, **rest} for field, rest in added.items()]
    return schema


def test_a_newer_schema_s_bytes_are_read_without_what_it_added():
    newer = define(
        evolve(
            "Credit",
            note={"type": ["null", "string"], "default": None},
            tags={"type": {"type": "array", "items": "string"}, "default": []},
        )
    )
    body = encode(SAMPLES["Credit"])[10:] + b"\x02\x04ab" + b"\x02\x02c\0"
    assert compile_decoder(newer, TODAY["Credit"])(body, 0) == SAMPLES["Credit"]


def test_a_schema_with_an_added_default_reads_the_bytes_of_version_1(monkeypatch):
    newer = define(
        evolve(
            "Credit",
            weight={"type": "double", "default": 0.5},
            facts={"type": {"type": "map", "values": "string"}, "default": {}},
            blob={"type": "bytes", "default": "\u00ff"},
            parts={"type": {"type": "array", "items": "long"}, "default": []},
        )
    )
    stored = (FIXTURES / "v1" / "Credit.bin").read_bytes()
    read = compile_decoder(RELEASED[1]["Credit"], newer)
    first, second = read(stored, 10), read(stored, 10)
    assert tuple(first) == (*SAMPLES["Credit"], 0.5, {}, b"\xff", ())
    assert first[-3] is not second[-3]  # a default map is not shared between records


def test_an_unknown_symbol_becomes_the_default():
    newer = copy.deepcopy(TODAY["Event"].schema)
    newer["fields"][1]["type"]["symbols"].append("wishlist")
    body = encode(VIEW._replace(event_type="dwell"))[10:].replace(
        b"1234\x12\x0edefault", b"1234\x14\x0edefault"
    )
    assert compile_decoder(define(newer), TODAY["Event"])(body, 0) == VIEW._replace(event_type="unknown")


def test_a_field_added_without_a_default_cannot_be_compiled():
    with pytest.raises(ValueError, match=r"Credit\.weight was added without a default"):
        compile_decoder(TODAY["Credit"], define(evolve("Credit", weight={"type": "double"})))


# --- Confluent's header ---


def encode_confluent(record, schema_id):
    return b"\0" + schema_id.to_bytes(4, "big") + encode(record)[10:]


def test_a_confluent_header_is_read_through_the_static_map():
    reader = Codec({1: "Event", 9: "Event:1", 6: "Control"})
    assert reader.decode_event(encode_confluent(VIEW, 1)) == VIEW
    assert reader.decode_event(encode_confluent(VIEW, 9)) == VIEW
    assert reader.decode_event(encode(FULL_EVENT)) == FULL_EVENT
    assert refused(reader.decode_event, encode_confluent(VIEW, 2)) == "unknown_schema"
    assert refused(reader.decode_event, encode_confluent(SAMPLES["Control"], 6)) == "unknown_schema"


@pytest.mark.parametrize("text", ["Evnt", "Event:2", "Event:x", ""])
def test_a_schema_id_that_names_nothing_is_an_error_at_start(text):
    with pytest.raises(ValueError, match="schema_ids"):
        Codec({1: text})


# --- encoding errors ---


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("user_id", 7, "Event.user_id: wanted string, got 7"),
        ("user_id", "\ud800", "Event.user_id: wanted text that UTF-8 can carry"),
        ("event_type", "wiew", "Event.event_type: wanted one of unknown, view"),
        ("event_time", 1.5, "Event.event_time: wanted long, got 1.5"),
        ("event_time", 1 << 63, "Event.event_time: wanted 64 bits"),
        ("value", "1", "Event.value: wanted double, got '1'"),
        ("items", ("i",), "Event.items: wanted EventItem of 2 fields"),
        ("items", (7,), "Event.items: wanted EventItem, got 7"),
        ("items", (EventItem("i", 1 << 40),), "EventItem.position: wanted 32 bits"),
        ("items", 7, "Event.items: wanted a sequence, got 7"),
        ("context", {"a": 1}, "Event.context: wanted string, got 1"),
        ("context", 7, "Event.context: wanted a mapping, got 7"),
        ("context", None, "Event.context: wanted a mapping, got None"),
        ("items", None, "Event.items: wanted a sequence, got None"),
        ("consent", None, "Event.consent: wanted one of none"),
    ],
)
def test_a_record_that_cannot_be_written_says_field_wanted_and_got(field, value, says):
    with pytest.raises(Refused, match=r"^bad_value: ") as caught:
        encode(VIEW._replace(**{field: value}))
    assert says in caught.value.detail


def test_the_files_are_valid_avro():
    for definition in TODAY.values():
        fastavro.parse_schema(json.loads(json.dumps(definition.schema)))
