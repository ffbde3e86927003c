"""The bytes of a user: what stands where, how many there are at most, and what is refused."""

import doctest
import re
import struct
from pathlib import Path

import pytest
from user_examples import golden_states

import udfs.user_state
from udfs.user_state import (
    EMPTY,
    HEADER,
    HEADER_BYTES,
    MAX_ARMS,
    MAX_BOUGHT,
    MAX_DIM,
    MAX_EVENT_IDS,
    MAX_INTERACTIONS,
    MAX_INTERESTS,
    MAX_PENDING,
    MAX_SEEN,
    MAX_STATE_BYTES,
    VERSION,
    StateError,
    UserState,
)

DOCS = Path(__file__).parents[2] / "docs" / "state.md"
FULL = EMPTY._replace(
    consent=2,
    flags=0x0102,
    embedding_epoch=0x03040506,
    first_ms=-1,
    last_ms=2,
    newest_offset=3,
    newest_partition=4,
    n_events=5,
    n_sessions=6,
    session_events=7,
    session_start_ms=8,
    session_last_ms=9,
    interests_ms=10,
    n_views=11,
    n_carts=12,
    n_purchases=13,
    spend=0.5,
    shards=14,
    item_hashes=b"a" * 8 * MAX_INTERACTIONS,
    bought_hashes=b"b" * 8 * MAX_BOUGHT,
    seen_hashes=b"c" * 8 * MAX_SEEN,
    pending_hashes=b"d" * 8 * MAX_PENDING,
    item_seconds=b"e" * 4 * MAX_INTERACTIONS,
    bought_seconds=b"f" * 4 * MAX_BOUGHT,
    bought_counts=b"g" * 4 * MAX_BOUGHT,
    pending_seconds=b"h" * 4 * MAX_PENDING,
    interest_categories=b"i" * 4 * MAX_INTERESTS,
    interest_weights=b"j" * 4 * MAX_INTERESTS,
    arm_alpha=b"k" * 4 * MAX_ARMS,
    arm_beta=b"l" * 4 * MAX_ARMS,
    embedding=b"m" * 2 * MAX_DIM,
    event_ids=b"n" * 6 * MAX_EVENT_IDS,
    item_types=b"o" * MAX_INTERACTIONS,
)


def test_a_user_whose_every_list_is_full_takes_exactly_the_documented_bound():
    assert len(FULL.encode()) == MAX_STATE_BYTES == 2866
    assert UserState.decode(FULL.encode()) == FULL


def test_every_header_field_stands_at_its_offset():
    data = FULL.encode()

    def at(offset: int, code: str) -> object:
        return struct.unpack_from("<" + code, data, offset)[0]

    assert data[:10] == bytes((2, 2, 50, 64, 64, 4, 16, 8, 64, 32))
    assert at(10, "H") == FULL.flags
    assert at(12, "I") == FULL.embedding_epoch
    longs = {16: "first_ms", 24: "last_ms", 32: "newest_offset"}
    longs |= {56: "session_start_ms", 64: "session_last_ms", 72: "interests_ms"}
    for offset, name in longs.items():
        assert at(offset, "q") == getattr(FULL, name), name
    ints = {40: "newest_partition", 44: "n_events", 48: "n_sessions", 52: "session_events"}
    ints |= {80: "n_views", 84: "n_carts", 88: "n_purchases", 96: "shards"}
    for offset, name in ints.items():
        assert at(offset, "I") == getattr(FULL, name), name
    assert at(92, "f") == FULL.spend
    assert data[100:120] == bytes(20)
    assert HEADER_BYTES == HEADER.size == 120


def test_columns_follow_the_header_in_the_order_of_the_table():
    letters = re.sub(r"(.)\1*", r"\1", FULL.encode()[HEADER_BYTES:].decode())
    assert letters == "abcdefghijklmno"


def test_an_unknown_version_is_an_error_that_names_both():
    data = bytes((VERSION + 1,)) + EMPTY.encode()[1:]
    with pytest.raises(StateError, match=rf"version {VERSION + 1} found.*reads version {VERSION}"):
        UserState.decode(data)


@pytest.mark.parametrize(
    "data", [b"", b"\x01", EMPTY.encode()[:-1], EMPTY.encode() + b"x", FULL.encode()[:-1]]
)
def test_a_length_that_disagrees_with_the_counts_is_refused(data):
    with pytest.raises(StateError, match="user state: "):
        UserState.decode(data)


def test_a_state_cannot_be_changed_in_place():
    with pytest.raises(AttributeError):
        EMPTY.n_events = 1


def test_the_documented_byte_table_is_that_of_the_code():
    documented = re.findall(r"^\| (\d+) \| (\w+) \| `(\w+)`", DOCS.read_text(), re.MULTILINE)
    types = {"B": "u8", "H": "u16", "I": "u32", "q": "i64", "f": "f32"}
    codes = "".join(code * int(count or 1) for count, code in re.findall(r"(\d*)([BHIqf])", HEADER.format))
    names = ["version", "consent", "n_interactions", "n_bought", "n_seen", "n_pending", "n_interests"]
    names += ["n_arms", "dim", "n_event_ids", *UserState._fields[1:18]]
    offset, expected = 0, []
    for code, name in zip(codes, names, strict=True):
        expected.append((str(offset), types[code], name))
        offset += struct.calcsize("<" + code)
    assert documented == expected
    columns = re.findall(
        r"^\| (u8|u32|u64|f16|f32|6 bytes) \| `(\w+)` \| (\d+) \|", DOCS.read_text(), re.MULTILINE
    )
    widths = {"u8": 1, "u32": 4, "u64": 8, "f16": 2, "f32": 4, "6 bytes": 6}
    expected_columns = [(name, len(getattr(FULL, name))) for name in UserState._fields[18:]]
    assert [(name, widths[width] * int(cap)) for width, name, cap in columns] == expected_columns


def test_the_figures_in_the_docs_are_computed():
    assert doctest.testfile(str(DOCS), module_relative=False).attempted >= 2
    assert doctest.testfile(str(DOCS), module_relative=False).failed == 0
    assert doctest.testmod(udfs.user_state).failed == 0


def test_a_typical_user_takes_less_than_900_bytes():
    assert len(golden_states()["typical"].encode()) < 900
