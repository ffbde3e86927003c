"""REES46 shop logs: views, carts and purchases with category, brand and price.

Columns event_time, event_type, product_id, category_id, category_code, brand, price, user_id, user_session;
Parquet or CSV, also compressed. The file counts in seconds: a user's events of one second get consecutive
milliseconds in file order, and the event_id is ``user/second/number within that second``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from model_export.sources.event_log import EventLog, columns_of, file_sha256, spread_equal_times
from schemas.records import Item

NAME = "rees46"
COLUMNS = (
    "event_time",
    "event_type",
    "product_id",
    "category_id",
    "category_code",
    "brand",
    "price",
    "user_id",
    "user_session",
)
EVENT_TYPES = {
    "view": "view",
    "cart": "add_to_cart",
    "remove_from_cart": "remove_from_cart",
    "purchase": "purchase",
}


def read(path: Path) -> EventLog:
    """Return the events of the file in time order, and the count of the rows left out by reason."""
    rows = _rows(path)
    kinds = rows["event_type"].map(EVENT_TYPES)
    reasons = np.select(
        [kinds.isna(), rows["user_id"].isna() | rows["product_id"].isna(), rows["event_time"].isna()],
        ["unknown_event_type", "missing_id", "missing_time"],
        "",
    )
    keep = reasons == ""
    names, counts = np.unique(reasons[~keep], return_counts=True)
    rows, kinds = rows[keep], kinds[keep]
    users = rows["user_id"].to_numpy(np.int64)
    seconds_ms = _milliseconds(rows)
    times = spread_equal_times(seconds_ms, users)
    order = np.lexsort((np.arange(len(times)), times))
    rows, kinds, users, times, seconds_ms = (
        rows.iloc[order],
        kinds.iloc[order],
        users[order],
        times[order],
        seconds_ms[order],
    )
    sessions = rows["user_session"].astype(object).where(rows["user_session"].notna(), None)
    number = (times - seconds_ms).tolist()
    columns = columns_of(
        len(rows),
        event_id=[
            f"{user}/{second}/{n}"
            for user, second, n in zip(users.tolist(), (seconds_ms // 1000).tolist(), number, strict=True)
        ],
        event_type=kinds.tolist(),
        user_id=list(map(str, users.tolist())),
        session_id=sessions.tolist(),
        item_id=list(map(str, rows["product_id"].tolist())),
        event_time=times.tolist(),
        value=[
            float(price) if kind == "purchase" and price == price else None
            for kind, price in zip(kinds.tolist(), rows["price"].tolist(), strict=True)
        ],
    )
    skipped = {str(name): int(count) for name, count in zip(names, counts, strict=True)}
    return EventLog(NAME, times, columns, skipped, file_sha256(path))


def catalogue(path: Path, before_ms: int | None = None) -> list[Item]:
    """Return the products seen before `before_ms`, ordered by id.

    Category: the last category code, else ``category <id>``. Price: the median of the last 20 positive
    prices. The file has no titles: brand and the category's last word stand in.
    """
    rows = _rows(path)
    times = _milliseconds(rows)
    if before_ms is not None:
        rows, times = rows[times < before_ms], times[times < before_ms]
    rows = rows.assign(time_ms=times)
    prices = (
        rows[rows["price"] > 0]
        .groupby("product_id")
        .tail(20)
        .groupby("product_id")["price"]
        .median()
        .to_dict()
    )
    items = []
    for row in rows.drop_duplicates("product_id", keep="last").sort_values("product_id").itertuples():
        brand = row.brand if isinstance(row.brand, str) else None
        category = row.category_code if isinstance(row.category_code, str) else f"category {row.category_id}"
        items.append(
            Item(
                item_id=str(row.product_id),
                tenant="default",
                title=" ".join(filter(None, (brand, category.rsplit(".", 1)[-1]))),
                category=category,
                brand=brand,
                price=prices.get(row.product_id),
                in_stock=True,
                blocked=False,
                attributes={},
                updated_time=int(row.time_ms),
            )
        )
    return sorted(items, key=lambda item: item.item_id)


def _rows(path: Path) -> Any:
    rows = (
        pd.read_parquet(path, columns=list(COLUMNS))
        if path.suffix == ".parquet"
        else pd.read_csv(path, usecols=list(COLUMNS))
    )
    text = rows["event_time"]
    if text.dtype == object:
        text = text.str.removesuffix(" UTC")
    rows["event_time"] = pd.to_datetime(text, utc=True, errors="coerce")
    return rows.sort_values("event_time", kind="stable")


def _milliseconds(rows: Any) -> npt.NDArray[np.int64]:
    times: npt.NDArray[Any] = rows["event_time"].dt.tz_localize(None).to_numpy("datetime64[ms]")
    return times.astype(np.int64)
