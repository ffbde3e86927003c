"""The Complete Journey: the lines of a grocer's receipts as purchase events.

One line is one event: user = household_id, item = product_id, session = basket_id, value = sales_value, event_id =
``basket/line``. All lines of a receipt have its time to the second; they get consecutive milliseconds in file order.
Names and categories of products lie in a file beside it, ``products.parquet``; without it there are none.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from model_export.sources.event_log import EventLog, columns_of, file_sha256, spread_equal_times
from schemas.records import Item

NAME = "complete-journey"
COLUMNS = ("household_id", "basket_id", "product_id", "quantity", "sales_value", "transaction_timestamp")
PRODUCTS = "products.parquet"
LAST_PRICES = 20


def read(path: Path) -> EventLog:
    """Return the purchases of the file in time order; lines without a quantity are left out and counted."""
    lines = _lines(path)
    empty = int((lines["quantity"] <= 0).sum())
    lines = lines[lines["quantity"] > 0]
    position = lines.groupby("basket_id", sort=False).cumcount().to_numpy()
    households = lines["household_id"].to_numpy(np.int64)
    times = spread_equal_times(_milliseconds(lines), households)
    order = np.lexsort((np.arange(len(times)), times))
    lines, position, times = lines.iloc[order], position[order], times[order]
    baskets = lines["basket_id"].astype(str).tolist()
    columns = columns_of(
        len(lines),
        event_id=[f"{basket}/{line}" for basket, line in zip(baskets, position.tolist(), strict=True)],
        event_type=["purchase"] * len(lines),
        user_id=lines["household_id"].astype(str).tolist(),
        session_id=baskets,
        item_id=lines["product_id"].astype(str).tolist(),
        event_time=times.tolist(),
        value=lines["sales_value"].round(2).tolist(),
    )
    skipped = {"quantity_not_positive": empty} if empty else {}
    return EventLog(NAME, times, columns, skipped, file_sha256(path))


def catalogue(path: Path, before_ms: int | None = None) -> list[Item]:
    """Return the products sold before `before_ms`, ordered by id.

    Title: product type and package size. Category: the product category. Price: the median of what a piece cost on
    the last 20 lines. Everything is in stock; `updated_time` is the last sale.
    """
    lines = _lines(path)
    lines = lines[lines["quantity"] > 0]
    if before_ms is not None:
        lines = lines[_milliseconds(lines) < before_ms]
    lines = lines.assign(price=lines["sales_value"] / lines["quantity"])
    prices = lines.groupby("product_id").tail(LAST_PRICES).groupby("product_id")["price"].median()
    last = pd.Series(_milliseconds(lines), lines["product_id"].to_numpy()).groupby(level=0).max()
    titles, categories = _names(path)
    items = [
        Item(
            item_id=str(product),
            tenant="default",
            title=titles.get(product, str(product)),
            category=categories.get(product, ""),
            brand=None,
            price=float(price),
            in_stock=True,
            blocked=False,
            attributes={},
            updated_time=int(last[product]),
        )
        for product, price in prices.items()
    ]
    return sorted(items, key=lambda item: item.item_id)


def _names(path: Path) -> tuple[dict[int, str], dict[int, str]]:
    """Return product to title, and product to category."""
    beside = path.with_name(PRODUCTS)
    if not beside.is_file():
        return {}, {}
    wanted = ["product_id", "product_category", "product_type", "package_size"]
    table = pd.read_parquet(beside, columns=wanted).fillna("")
    ids = table["product_id"].tolist()
    titles = (table["product_type"] + " " + table["package_size"]).str.strip().tolist()
    categories = table["product_category"].tolist()
    return dict(zip(ids, titles, strict=True)), dict(zip(ids, categories, strict=True))


def _lines(path: Path) -> Any:
    """Return the file's lines in time order: one table, read once for its events and its catalogues."""
    return _read_lines(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _read_lines(path: Path, _changed_ns: int) -> Any:
    if path.suffix == ".parquet":
        lines = pd.read_parquet(path, columns=list(COLUMNS))
    else:
        lines = pd.read_csv(path, usecols=list(COLUMNS), parse_dates=["transaction_timestamp"])
    return lines.sort_values("transaction_timestamp", kind="stable")


def _milliseconds(lines: Any) -> Any:
    return lines["transaction_timestamp"].to_numpy("datetime64[ms]").astype(np.int64)
