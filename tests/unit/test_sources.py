"""Readers of event files: what becomes an event, what is left out and counted, in which order."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from model_export import sources
from model_export.sources import native, online_retail, rees46
from model_export.sources.categories import CATEGORIES, category_of_title
from model_export.sources.event_log import EventLog, SourceError, columns_of, midnight_ms, spread_equal_times
from schemas.codec import encode
from schemas.ids import user_key
from schemas.records import EVENT_TYPES, Event
from schemas.validation import validate_event

VIEWS = {"event_id": "e", "event_type": "view", "user_id": "u"}
ONLINE_RETAIL = Path(__file__).parents[2] / "datasets/online-retail/online_retail.parquet"


@pytest.fixture(scope="module")
def online_retail_log() -> EventLog:
    return sources.read(ONLINE_RETAIL)


def retail_file(folder: Path, rows: list[tuple[object, ...]]) -> Path:
    table = pd.DataFrame(rows, columns=list(online_retail.COLUMNS))
    table["InvoiceDate"] = pd.to_datetime(table["InvoiceDate"])
    path = folder / "retail.parquet"
    table.to_parquet(path)
    return path


def line(
    invoice: str = "500001", item: str = "12345", customer: float | None = 7.0, **changed: object
) -> tuple[object, ...]:
    row: dict[str, object] = {
        "InvoiceNo": invoice,
        "StockCode": item,
        "Description": "RED MUG",
        "Quantity": 2,
        "InvoiceDate": "2011-01-01 10:00",
        "UnitPrice": 1.25,
        "CustomerID": customer,
        "Country": "France",
    }
    return tuple((row | changed).values())


def test_every_line_of_online_retail_is_an_event_or_counted(online_retail_log: EventLog) -> None:
    assert len(online_retail_log) + sum(online_retail_log.skipped.values()) == 541_909
    assert online_retail_log.skipped == {
        "anonymous": 133_840,
        "cancellation": 9_288,
        "not_a_product": 2_411,
        "price_not_positive": 33,
    }


def test_the_shipped_file_is_the_one_its_readme_names(online_retail_log: EventLog) -> None:
    assert online_retail_log.file_sha256 in (ONLINE_RETAIL.parent / "README.md").read_text()


def test_events_of_online_retail_pass_validation(online_retail_log: EventLog) -> None:
    for event in online_retail_log.events(0, 500):
        validate_event(event, user_key(event.tenant, event.user_id))
        assert encode(event)


def test_a_users_times_strictly_increase_and_ids_are_unique(online_retail_log: EventLog) -> None:
    users = np.array(online_retail_log.columns["user_id"])
    order = np.argsort(users, kind="stable")
    same = users[order][1:] == users[order][:-1]
    assert (np.diff(online_retail_log.times_ms[order])[same] > 0).all()
    assert (np.diff(online_retail_log.times_ms) >= 0).all()
    assert len(set(online_retail_log.columns["event_id"])) == len(online_retail_log)


def test_lines_of_an_invoice_get_consecutive_milliseconds_in_file_order(tmp_path: Path) -> None:
    path = retail_file(tmp_path, [line(item="11111"), line(item="22222a"), line(item="33333")])
    events = list(sources.read(path))
    start = int(pd.Timestamp("2011-01-01 10:00").timestamp() * 1000)
    assert [event.event_time for event in events] == [start, start + 1, start + 2]
    assert [event.item_id for event in events] == ["11111", "22222A", "33333"]
    assert [event.event_id for event in events] == ["500001/0", "500001/1", "500001/2"]


def test_a_line_becomes_the_documented_event(tmp_path: Path) -> None:
    (event,) = sources.read(retail_file(tmp_path, [line()]))
    assert event.value == 2.5
    assert (event.user_id, event.session_id, event.event_type) == ("7", "500001", "purchase")
    assert event.context == {"country": "France"}
    assert event.consent == "personalization"
    assert event.received_time == event.event_time


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"invoice": "C500001"}, "cancellation"),
        ({"item": "POST"}, "not_a_product"),
        ({"item": "BANK CHARGES"}, "not_a_product"),
        ({"customer": None}, "anonymous"),
        ({"UnitPrice": 0.0}, "price_not_positive"),
        ({"Quantity": -3}, "quantity_not_positive"),
    ],
)
def test_a_line_that_is_no_purchase_is_counted_by_reason(
    tmp_path: Path, changed: dict[str, object], reason: str
) -> None:
    log = sources.read(retail_file(tmp_path, [line(), line(**changed), line()]))  # type: ignore[arg-type]
    assert log.skipped == {reason: 1}
    assert log.columns["event_id"] in (["500001/0", "500001/2"], ["500001/0", "500001/1"])


def test_the_catalogue_knows_only_what_was_sold_before_the_cut(tmp_path: Path) -> None:
    rows = [
        line(),
        line(Description="RED MUG", UnitPrice=3.0, InvoiceDate="2011-02-01 10:00"),
        line(Description="BROKEN", UnitPrice=9.0, InvoiceDate="2011-03-01 10:00"),
        line(item="99999", InvoiceDate="2011-03-01 00:00"),
    ]
    path = retail_file(tmp_path, rows)
    assert len(sources.catalogue(path)) == 2
    (item,) = sources.catalogue(path, midnight_ms("2011-03-01"))
    assert (item.item_id, item.title, item.category, item.price) == (
        "12345",
        "RED MUG",
        "mugs and cups",
        2.125,
    )


def test_online_retails_catalogue_has_few_uncategorised_items() -> None:
    items = sources.catalogue(ONLINE_RETAIL)
    assert [item.item_id for item in items] == sorted({item.item_id for item in items})
    assert {item.category for item in items} <= set(CATEGORIES)
    assert sum(item.category == "other" for item in items) / len(items) < 0.06
    assert all(item.price is not None and item.price > 0 for item in items)


@pytest.mark.parametrize("title", ["PINK CANDLES", "SET OF 3 CANDLES", "CANDLE IN A BOX", "candle"])
def test_a_category_is_the_head_noun_in_any_form(title: str) -> None:
    assert category_of_title(title) == "candles"


def test_iteration_is_fast_enough_for_a_replay(online_retail_log: EventLog) -> None:
    began = time.process_time()
    count = sum(1 for _ in online_retail_log)
    assert count / (time.process_time() - began) > 10_000


def test_rees46_keeps_types_sessions_and_the_order_within_a_second(tmp_path: Path) -> None:
    row = {
        "event_time": "2019-10-01 00:00:05 UTC",
        "event_type": "view",
        "product_id": 1,
        "category_id": 9,
        "category_code": "toys.cars",
        "brand": "acme",
        "price": 5.0,
        "user_id": 3,
        "user_session": "s",
    }
    rows = [
        row | {"event_type": "cart"},
        row | {"event_type": "purchase"},
        row | {"event_time": "2019-10-01 00:00:01 UTC", "category_code": None, "brand": None},
        row | {"event_type": "wishlist"},
    ]
    path = tmp_path / "oct.csv.gz"
    pd.DataFrame(rows).to_csv(path, index=False)
    assert sources.detect(path) is rees46
    log = sources.read(path)
    assert log.columns["event_type"] == ["view", "add_to_cart", "purchase"]
    assert np.diff(log.times_ms).tolist() == [4_000, 1]
    assert log.columns["value"] == [None, None, 5.0]
    assert log.columns["event_id"] == ["3/1569888001/0", "3/1569888005/0", "3/1569888005/1"]
    assert log.skipped == {"unknown_event_type": 1}
    (item,) = sources.catalogue(path)
    assert (item.title, item.category, item.brand, item.price) == ("acme cars", "toys.cars", "acme", 5.0)


def test_native_lines_are_events_and_bad_lines_are_counted(tmp_path: Path) -> None:
    good = {"event_id": "b", "event_type": "view", "user_id": "u", "item_id": "i", "event_time": 20}
    lines = [
        json.dumps(good),
        json.dumps(good | {"event_id": "a", "event_time": 10, "consent": "personalization"}),
        "{broken",
        json.dumps({"event_id": "x"}),
        json.dumps(good | {"event_time": "soon"}),
    ]
    path = tmp_path / "shop.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write("\n".join(lines))
    assert sources.detect(path) is native
    log = sources.read(path)
    assert [event.event_id for event in log] == ["a", "b"]
    assert [event.consent for event in log] == ["personalization", "none"]
    assert log.skipped == {"bad_value": 1, "missing_field": 1, "not_an_object": 1}
    assert [item.item_id for item in sources.catalogue(path)] == ["i"]
    (tmp_path / "shop.items.jsonl").write_text(
        json.dumps({"item_id": "i", "title": "Mug", "price": 2, "updated_time": 1})
    )
    assert sources.catalogue(path)[0].title == "Mug"


def test_a_file_of_unknown_columns_is_refused_with_what_each_source_wants(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(SourceError, match=r"columns a, b: online-retail needs Inv.*rees46 needs event_time"):
        sources.detect(path)


def test_a_missing_file_and_an_unknown_ending_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        sources.detect(tmp_path / "none.csv")
    (tmp_path / "x.xlsx").write_bytes(b"x")
    with pytest.raises(SourceError, match="must end in"):
        sources.detect(tmp_path / "x.xlsx")


def test_a_log_out_of_order_or_of_uneven_columns_is_refused() -> None:
    times = np.array([2, 1], np.int64)
    with pytest.raises(SourceError, match="not in time order"):
        EventLog("x", times, columns_of(2, **VIEWS, event_time=[2, 1]))
    with pytest.raises(SourceError, match="other lengths"):
        EventLog("x", times[:1], columns_of(1, **VIEWS, event_time=[2, 1]))


def test_before_takes_events_earlier_than_the_cut_only() -> None:
    columns = columns_of(4, **VIEWS | {"event_id": list("abcd")}, event_time=[1, 5, 5, 9])
    log = EventLog("x", np.array([1, 5, 5, 9]), columns)
    assert [event.event_id for event in log.before(5)] == ["a"]
    assert [event.event_id for event in log.events(1, 3)] == ["b", "c"]
    assert log.sha256() != log.before(9).sha256()


def test_equal_times_of_different_users_stay_equal() -> None:
    assert spread_equal_times(np.array([5, 5, 5]), np.array([1, 2, 1])).tolist() == [5, 5, 6]


def test_columns_follow_the_schema() -> None:
    assert tuple(columns_of(0, **VIEWS, event_time=[])) == Event._fields
    assert set(rees46.EVENT_TYPES.values()) <= set(EVENT_TYPES)
