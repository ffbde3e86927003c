"""Clicks of a batch of records: what the codec says of each, whichever way it was read."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.codec import Codec, encode
from schemas.records import EVENT_TYPES, SessionDelta
from schemas.refusal import Refused
from udfs.ranking.click_records import Clicks, clicks_of, read_click

CODEC = Codec({7: "SessionDelta", 8: "SessionDelta:1"})
DELTA = SessionDelta(
    "default", "u1", 3, 9, 2, "item-1", "click", 1_763_700_000_000, b"12345678", 1, 5, 0, "France"
)
IDS = st.one_of(
    st.text("abz019-_ %/{}\x00é木\U0001f600", min_size=0, max_size=12),
    st.integers(60, 70).map(lambda n: "x" * n),  # a length of 64 takes two bytes
    st.text("ab", min_size=120, max_size=140),
)
WHOLE = st.integers(-(2**63), 2**63 - 1)
DELTAS = st.builds(
    SessionDelta,
    IDS, IDS, st.one_of(st.integers(0, 10**6), WHOLE), WHOLE, st.integers(0, 99), IDS, st.sampled_from(EVENT_TYPES),
    st.one_of(st.integers(1_763_700_000_000, 1_763_800_000_000), WHOLE), st.binary(max_size=80), st.integers(0, 9),
    WHOLE, st.integers(0, 3), st.one_of(st.just(""), st.text(max_size=8)),
)  # fmt: skip


def slowly(records: list[bytes]) -> Clicks:
    """One record after the other, by the codec."""
    found, refused = [], 0
    for record in records:
        try:
            found.append(read_click(record, CODEC))
        except Refused:
            refused += 1
    keys, items, times = zip(*found, strict=True) if found else ((), (), ())
    return Clicks(np.array(keys, np.uint64), np.array(items, np.uint64), max(times, default=0), refused)


def check(records: list[bytes]) -> Clicks:
    found, wanted = clicks_of(records, CODEC), slowly(records)
    np.testing.assert_array_equal(found.session_keys, wanted.session_keys)
    np.testing.assert_array_equal(found.item_hashes, wanted.item_hashes)
    assert found[2:] == (max(wanted.newest_ms, 0), wanted.refused)
    return found


@given(st.lists(DELTAS, max_size=12))
@example(
    [DELTA, DELTA._replace(user_id="a/b"), DELTA._replace(item_id="é"), DELTA._replace(session_ordinal=0)]
)
@settings(deadline=None)
def test_a_batch_gives_what_its_records_give_one_by_one(deltas: list[SessionDelta]) -> None:
    assert len(check([encode(delta) for delta in deltas]).session_keys) == len(deltas)


@given(st.lists(st.tuples(DELTAS, st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=8))
@settings(deadline=None)
def test_a_changed_byte_or_a_cut_end_is_judged_as_the_codec_judges_it(
    changed: list[tuple[SessionDelta, int, int]],
) -> None:
    records = []
    for delta, place, byte in changed:
        whole = bytearray(encode(delta))
        records += [bytes(whole[: place % (len(whole) + 1)]), bytes(whole) + b"\x00"]
        whole[place % len(whole)] = byte
        records.append(bytes(whole))
    check([*records, encode(DELTA)])


def test_every_byte_of_a_record_changed_to_every_value_is_judged_as_the_codec_judges_it() -> None:
    whole = encode(DELTA)
    for place in range(len(whole)):
        check([whole[:place] + bytes([byte]) + whole[place + 1 :] for byte in range(256)])


def test_other_headers_and_no_bytes_go_through_the_codec() -> None:
    body = encode(DELTA)[10:]
    older = body[: -1 - len("France")]
    records = [b"\x00\x00\x00\x00\x07" + body, b"\x00\x00\x00\x00\x08" + older, b"", b"\x01", encode(DELTA)]
    found = check(records)
    assert found.session_keys.tolist() == [found.session_keys[0]] * 3
    assert found.refused == 2


def test_no_records_give_no_clicks() -> None:
    found = clicks_of([], CODEC)
    assert (len(found.session_keys), found.newest_ms, found.refused) == (0, 0, 0)
