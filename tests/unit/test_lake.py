"""The lake's files: nothing twice, nothing left out, whatever a kill leaves; and events read from them."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_export import sources
from model_export.lake.files import (
    RawRecord,
    compact,
    erase,
    files_of,
    next_offsets,
    read,
    retain,
    topics_in,
    write_run,
)
from model_export.lake.parity import compare
from schemas.codec import encode
from schemas.ids import user_key
from schemas.records import Control, Event, Item, ServedList
from schemas.redis_keys import format_version
from udfs.user_logic import LogicSettings, Position, UserLogic

TOPIC = "recs.events.v1"
DAY_MS = 86_400_000
NOON_MS = 1_700_049_600_000  # 2023-11-15 12:00 UTC


def raw(offset: int, at_ms: int = NOON_MS, partition: int = 0, key: bytes | None = b"k") -> RawRecord:
    return RawRecord(partition, offset, at_ms, key, b"value %d" % offset)


def everything(root: Path) -> list[RawRecord]:
    return list(read(files_of(root, TOPIC)))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.data())
@settings(max_examples=40, deadline=None)
def test_whatever_the_days_every_record_is_there_once_and_reading_goes_on_behind_it(
    tmp_path_factory: pytest.TempPathFactory, days: list[int], data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("lake")
    records = [raw(3 * number, NOON_MS + day * DAY_MS) for number, day in enumerate(days)]
    cuts = sorted(data.draw(st.lists(st.integers(1, len(records)), max_size=4)))
    for start, stop in zip([0, *cuts], [*cuts, len(records)], strict=True):
        if start < stop:
            write_run(root, TOPIC, records[start:stop])
            assert next_offsets(root, TOPIC) == {0: records[stop - 1].offset + 1}
    assert everything(root) == records
    compact(root, TOPIC, date(2100, 1, 1))
    assert everything(root) == records
    for file in files_of(root, TOPIC):
        assert all(
            datetime.fromtimestamp(record.timestamp_ms / 1000, UTC).date() == file.day
            for record in read([file])
        )


def test_other_readers_of_parquet_read_a_topics_folder(tmp_path: Path) -> None:
    write_run(tmp_path, TOPIC, [raw(0), raw(1, NOON_MS + DAY_MS)])
    write_run(tmp_path, TOPIC, [raw(0, partition=1, key=None)])
    table = ds.dataset(tmp_path / TOPIC, format="parquet", partitioning="hive").to_table()
    assert sorted(table["day"].to_pylist()) == ["2023-11-15", "2023-11-15", "2023-11-16"]
    assert table["value"].to_pylist().count(b"value 0") == 2
    assert topics_in(tmp_path) == [TOPIC]


def test_a_file_that_was_not_finished_is_no_file(tmp_path: Path) -> None:
    (file,) = write_run(tmp_path, TOPIC, [raw(0)])
    (file.path.parent / f".p0000-{1:020d}-{9:020d}.parquet").write_bytes(b"half")
    assert next_offsets(tmp_path, TOPIC) == {0: 1}
    assert everything(tmp_path) == [raw(0)]


def test_joining_that_is_cut_off_shows_nothing_twice(tmp_path: Path) -> None:
    for offset in range(4):
        write_run(tmp_path, TOPIC, [raw(offset)])
    parts = [file.path.read_bytes() for file in files_of(tmp_path, TOPIC)]
    names = [file.path for file in files_of(tmp_path, TOPIC)]
    assert compact(tmp_path, TOPIC, date(2024, 1, 1)) == (4, 1)
    for name, part in zip(names[2:], parts[2:], strict=True):
        name.write_bytes(part)  # as if the process had died before it deleted these
    assert everything(tmp_path) == [raw(offset) for offset in range(4)]
    compact(tmp_path, TOPIC, date(2024, 1, 1))
    assert len(list((tmp_path / TOPIC).rglob("*.parquet"))) == 1
    write_run(tmp_path, TOPIC, [raw(4)])
    assert compact(tmp_path, TOPIC, date(2023, 11, 15)) == (0, 0), "the day is not over"


def test_old_days_go_but_what_says_where_to_go_on_stays(tmp_path: Path) -> None:
    write_run(tmp_path, TOPIC, [raw(0, NOON_MS - 9 * DAY_MS), raw(1)])
    write_run(tmp_path, TOPIC, [raw(7, NOON_MS - 9 * DAY_MS, partition=1)])
    assert retain(tmp_path, TOPIC, date(2023, 11, 15)) == 1
    assert next_offsets(tmp_path, TOPIC) == {0: 2, 1: 8}
    assert [record.offset for record in everything(tmp_path)] == [1, 7]


def test_an_erased_key_is_in_no_byte_of_any_file_and_its_offsets_are_not_read_again(tmp_path: Path) -> None:
    secret = b"default/somebody-private"
    write_run(tmp_path, TOPIC, [raw(0), raw(1, key=secret), raw(2, key=None)])
    write_run(tmp_path, TOPIC, [raw(3, key=secret)])
    assert erase(tmp_path, TOPIC, secret) == 2
    assert [record.offset for record in everything(tmp_path)] == [0, 2]
    assert next_offsets(tmp_path, TOPIC) == {0: 4}
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or secret not in path.read_bytes()


def event(number: int, user: str = "u1", kind: str = "view", **fields: object) -> Event:
    at_ms = NOON_MS + 1_000 * number
    made = Event(
        f"e{number}", kind, "default", user, None, f"i{number % 7}", at_ms, at_ms, None, (), None, None, {},
        "personalization",
    )  # fmt: skip
    return made._replace(**fields)  # type: ignore[arg-type]


def write_events(root: Path, events: list[Event]) -> None:
    records = [
        RawRecord(0, number, one.event_time, user_key(one.tenant, one.user_id).encode(), encode(one))
        for number, one in enumerate(events)
    ]
    write_run(root, TOPIC, records)


def test_events_are_decoded_as_the_job_decodes_them_and_the_erased_are_left_out(tmp_path: Path) -> None:
    events = [
        event(0),
        event(1),
        event(1),
        event(2, "gone"),
        event(3, "back", consent="none"),
        event(4, "back"),
    ]
    write_events(tmp_path, events)
    write_run(tmp_path, TOPIC, [RawRecord(0, 90, NOON_MS, b"default/u1", b"no event")])
    write_run(tmp_path, TOPIC, [RawRecord(0, 91, NOON_MS, b"default/other", encode(event(9)))])
    order = Control("default/gone", "erase_user", None, None, None, None, 0, "a wish")
    lowered = Control("default/back", "set_consent", None, "essential", None, None, 0, "")
    write_run(
        tmp_path,
        "recs.control.v1",
        [
            RawRecord(0, 0, NOON_MS + 5_000, b"default/gone", encode(order)),
            RawRecord(0, 1, NOON_MS + 3_500, b"default/back", encode(lowered)),
        ],
    )
    item = Item("i1", "default", "a title", "", None, 2.0, True, False, {}, NOON_MS)
    write_run(tmp_path, "recs.items.v1", [RawRecord(0, 0, NOON_MS, b"default/i1", encode(item))])
    log = sources.read(tmp_path)
    assert list(log) == [events[0], events[1], events[5]]
    assert dict(log.skipped) == {"wrong_magic": 1, "duplicate": 1, "erased": 2, "key_mismatch": 1}
    assert len(log.file_sha256) == 64
    assert sources.catalogue(tmp_path) == [item]
    assert sources.catalogue(tmp_path, NOON_MS) == []


def test_states_are_made_again_bit_for_bit_and_a_changed_one_is_found(tmp_path: Path) -> None:
    from bundles import toy_items

    from udfs.ranking.item_index import ItemIndex
    from udfs.user_vector import refresh_embedding

    factors = ItemIndex.build(toy_items(60)).factors
    how, rng = LogicSettings(), np.random.default_rng(0)
    events = [event(n, f"u{rng.integers(5)}", item_id=f"item-{rng.integers(60)}") for n in range(200)]
    write_events(tmp_path, events)
    logic, states, served = UserLogic(how, {3: factors}), {}, []
    for number, one in enumerate(events):
        key = user_key(one.tenant, one.user_id)
        states[key] = logic.on_event(states.get(key), one, one.event_time, Position(0, number), 3).state
        if number % 3 == 0:
            shown = refresh_embedding(states[key], factors, 3).encode()
            version = format_version(0, number, 1)
            list_ = ServedList(
                "r", "default", one.user_id, version, one.event_time, 0, 3, "m", "", 0, (), shown
            )
            served.append(RawRecord(0, len(served), one.event_time, key.encode(), encode(list_)))
    write_run(tmp_path, "recs.served.v1", served)
    found = compare(tmp_path, how, lambda epoch: factors if epoch == 3 else None, 0)
    assert (found.lists, found.equal, found.share_equal, dict(found.not_compared)) == (67, 67, 1.0, {})

    other = compare(tmp_path, LogicSettings(session_gap_ms=1_500), lambda epoch: factors, 0)
    assert other.equal < 67 and {"n_sessions", "session_start_ms"} <= set(other.differ)
    assert other.examples
    assert compare(tmp_path, how, lambda epoch: None, 0).not_compared == {"epoch_not_here": 67}
    assert compare(tmp_path, how, lambda epoch: factors, 1).not_compared == {"another_generation": 67}
