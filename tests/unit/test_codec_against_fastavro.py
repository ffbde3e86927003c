"""Our codec against fastavro, on every schema: the same bytes, the same values, in both directions."""

from __future__ import annotations

import copy
import io
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import decode, encode
from schemas.definitions import RELEASED, TODAY
from schemas.records import MESSAGES, PARTS
from schemas.refusal import Refused

HEADER_BYTES = 10
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=70)
PRIMITIVES = {
    "string": TEXTS,
    "bytes": st.binary(max_size=80),
    "int": st.integers(-(1 << 31), (1 << 31) - 1),
    "long": st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(0, 1 << 42),
    "double": st.floats(allow_nan=False),
    "boolean": st.booleans(),
}


def without_logical_types(node: Any) -> Any:
    """Times as plain longs, as our records hold them."""
    if isinstance(node, dict):
        return {key: without_logical_types(value) for key, value in node.items() if key != "logicalType"}
    return [without_logical_types(entry) for entry in node] if isinstance(node, list) else node


PARSED = {
    name: fastavro.parse_schema(without_logical_types(copy.deepcopy(definition.schema)))
    for name, definition in TODAY.items()
}


def values_of(node: Any) -> st.SearchStrategy[Any]:
    """Any value of a type, as fastavro's reader gives it."""
    if isinstance(node, list):
        return st.one_of([st.none() if branch == "null" else values_of(branch) for branch in node])
    if isinstance(node, str):
        return PRIMITIVES[node]
    kind = node["type"]
    if kind == "record":
        return st.fixed_dictionaries({field["name"]: values_of(field["type"]) for field in node["fields"]})
    if kind == "enum":
        return st.sampled_from(node["symbols"])
    if kind == "array":
        return st.lists(values_of(node["items"]), max_size=3)
    if kind == "map":
        return st.dictionaries(TEXTS, values_of(node["values"]), max_size=3)
    return PRIMITIVES[kind]


def as_record(name: str, plain: dict[str, Any]) -> Any:
    """fastavro's dictionary as one of our records, arrays as tuples."""
    kinds = {**MESSAGES, **PARTS}
    fields = {field["name"]: field["type"] for field in _record_node(name)["fields"]}
    return kinds[name](**{field: _as_value(fields[field], value) for field, value in plain.items()})


def _record_node(name: str) -> Any:
    if name in TODAY:
        return TODAY[name].schema
    for definition in TODAY.values():
        for field in definition.schema["fields"]:
            kind = field["type"]
            items = kind.get("items") if isinstance(kind, dict) else None
            if isinstance(items, dict) and items["name"] == name:
                return items
    raise KeyError(name)


def _as_value(kind: Any, value: Any) -> Any:
    if isinstance(kind, dict) and kind["type"] == "array":
        items = kind["items"]
        nested = isinstance(items, dict) and items["type"] == "record"
        return tuple(as_record(items["name"], entry) if nested else entry for entry in value)
    return value


def written_by_fastavro(name: str, plain: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, PARSED[name], plain)
    return out.getvalue()


@pytest.mark.parametrize("name", sorted(TODAY))
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_both_decode_the_same_values_from_the_same_bytes(name: str, data: st.DataObject) -> None:
    plain = data.draw(values_of(TODAY[name].schema))
    body = written_by_fastavro(name, plain)
    record = as_record(name, plain)
    assert fastavro.schemaless_reader(io.BytesIO(body), PARSED[name], None) == plain
    assert decode(name, b"\xc3\x01" + TODAY[name].fingerprint + body) == record


@pytest.mark.parametrize("name", sorted(TODAY))
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_fastavro_reads_what_we_write(name: str, data: st.DataObject) -> None:
    plain = data.draw(values_of(TODAY[name].schema))
    ours = encode(as_record(name, plain))
    assert fastavro.schemaless_reader(io.BytesIO(ours[HEADER_BYTES:]), PARSED[name], None) == plain
    assert ours[HEADER_BYTES:] == written_by_fastavro(name, plain)


@pytest.mark.parametrize("name", sorted(TODAY))
def test_the_fingerprint_is_the_one_that_fastavro_computes(name: str) -> None:
    form = fastavro.schema.to_parsing_canonical_form(fastavro.parse_schema(TODAY[name].schema))
    mark = bytes.fromhex(fastavro.schema.fingerprint(form, "CRC-64-AVRO"))
    assert TODAY[name].fingerprint == mark


@pytest.mark.parametrize("name", sorted(RELEASED[1]))
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_bytes_of_release_1_decode_to_what_fastavro_resolves(name: str, data: st.DataObject) -> None:
    released = RELEASED[1][name]
    writer = fastavro.parse_schema(without_logical_types(copy.deepcopy(released.schema)))
    out = io.BytesIO()
    fastavro.schemaless_writer(out, writer, data.draw(values_of(released.schema)))
    resolved = fastavro.schemaless_reader(io.BytesIO(out.getvalue()), writer, PARSED[name])
    found = decode(name, b"\xc3\x01" + released.fingerprint + out.getvalue())
    assert found == as_record(name, resolved)


def test_an_array_in_blocks_with_sizes_is_read_by_both() -> None:
    """fastavro writes one block; other writers split, and put a size behind a negative count."""
    plain = {
        "event_id": "e", "event_type": "view", "tenant": "t", "user_id": "u", "session_id": None,
        "item_id": "i", "event_time": 3, "received_time": 4, "rec_id": None,
        "items": [{"item_id": "Q", "position": None}, {"item_id": "RS", "position": 1}],
        "value": None, "query": None, "context": {}, "consent": "none",
    }  # fmt: skip
    body = written_by_fastavro("Event", plain)
    first, second = b"\x02Q\x00", b"\x04RS\x02\x02"
    one_block = b"\x04" + first + second + b"\x00"
    assert body.count(one_block) == 1
    blocks = body.replace(one_block, b"\x01\x06" + first + b"\x02" + second + b"\x00")
    assert fastavro.schemaless_reader(io.BytesIO(blocks), PARSED["Event"], None) == plain
    record = as_record("Event", plain)
    assert decode("Event", b"\xc3\x01" + TODAY["Event"].fingerprint + blocks) == record


def test_where_fastavro_takes_a_negative_union_branch_we_refuse() -> None:
    """The reason for a decoder of our own that is no matter of speed."""
    schema = {"type": "record", "name": "R", "fields": [{"name": "a", "type": ["null", "long"]}]}
    assert fastavro.schemaless_reader(io.BytesIO(b"\x01\x0e"), fastavro.parse_schema(schema), None) == {
        "a": 7
    }
    body = written_by_fastavro(
        "Control",
        {
            "control_id": "c", "kind": "republish", "tenant": None, "user_id": None, "epoch": 7,
            "consent": None, "issued_time": 1, "reason": "",
        },
    )  # fmt: skip
    header = b"\xc3\x01" + TODAY["Control"].fingerprint
    assert decode("Control", header + body).epoch == 7
    negative = body.replace(b"\x02\x0e", b"\x01\x0e")
    assert negative != body
    with pytest.raises(Refused) as refused:
        decode("Control", header + negative)
    assert refused.value.reason == "undecodable"
