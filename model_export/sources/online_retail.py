"""Online Retail: the lines of a gift shop's invoices as purchase events (datasets/online-retail/README.md).

One purchased line is one event: user = CustomerID, item = StockCode in capitals, value = unit price x
quantity, session = invoice, event_id = ``invoice/line`` with lines counted over the whole invoice, so that
an id stays the same whatever is left out. The file counts in minutes; a customer's lines of one minute get
consecutive milliseconds in file order.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from model_export.sources.categories import category_of_title
from model_export.sources.event_log import EventLog, columns_of, file_sha256, spread_equal_times
from schemas.records import Item

NAME = "online-retail"
COLUMNS = (
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
)
# Products are five digits and a variant letter or two; POST, D, M, BANK CHARGES, gift_0001_20, DCGS0003 ...
# are postage, discounts, corrections, vouchers and promotional items.
PRODUCT_CODE = r"\d{5}[A-Za-z]{0,2}"
LAST_PRICES = 20


def read(path: Path) -> EventLog:
    """Return the purchases of the file in time order, and the count of the lines left out by reason."""
    lines = _lines(path)
    reasons = _reasons(lines)
    skipped = {str(name): int(count) for name, count in reasons[reasons != ""].value_counts().items()}
    position = lines.groupby("InvoiceNo", sort=False).cumcount().to_numpy()
    keep = (reasons == "").to_numpy()
    lines, position = lines[keep], position[keep]
    customers = lines["CustomerID"].to_numpy(np.int64)
    times = spread_equal_times(_milliseconds(lines), customers)
    order = np.lexsort((np.arange(len(times)), times))
    lines, position, times = lines.iloc[order], position[order], times[order]
    invoices = lines["InvoiceNo"].tolist()
    contexts = {country: {"country": country} for country in lines["Country"].unique()}
    columns = columns_of(
        len(lines),
        event_id=[f"{invoice}/{line}" for invoice, line in zip(invoices, position.tolist(), strict=True)],
        event_type=["purchase"] * len(lines),
        user_id=list(map(str, customers[order].tolist())),
        session_id=invoices,
        item_id=lines["StockCode"].str.upper().tolist(),
        event_time=times.tolist(),
        value=(lines["UnitPrice"] * lines["Quantity"]).round(2).tolist(),
        context=[contexts[country] for country in lines["Country"].tolist()],
    )
    return EventLog(NAME, times, columns, dict(sorted(skipped.items())), file_sha256(path))


def catalogue(path: Path, before_ms: int | None = None) -> list[Item]:
    """Return the products sold before `before_ms`, ordered by id.

    Title: the most frequent description (ties: the alphabetically first). Category: the title's head noun.
    Price: the median unit price of the last 20 lines. Everything is in
    stock; `updated_time` is the last sale.
    """
    lines = _lines(path)
    lines = lines[_reasons(lines) == ""]
    if before_ms is not None:
        lines = lines[_milliseconds(lines) < before_ms]
    lines = lines.assign(
        item=lines["StockCode"].str.upper(), title=lines["Description"].fillna("").str.strip()
    )
    counts = lines.groupby(["item", "title"]).size().reset_index(name="count")
    counts = counts.sort_values(["item", "count", "title"], ascending=[True, False, True])
    titles = counts.drop_duplicates("item").set_index("item")["title"]
    prices = lines.groupby("item").tail(LAST_PRICES).groupby("item")["UnitPrice"].median()
    last = pd.Series(_milliseconds(lines), lines["item"].to_numpy()).groupby(level=0).max()
    return [
        Item(
            item_id=item,
            tenant="default",
            title=title,
            category=category_of_title(title),
            brand=None,
            price=float(prices[item]),
            in_stock=True,
            blocked=False,
            attributes={},
            updated_time=int(last[item]),
        )
        for item, title in titles.items()
    ]


def _lines(path: Path) -> Any:
    """Return the file's lines in time order: one table, read once for its events and its catalogues."""
    return _read_lines(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _read_lines(path: Path, _changed_ns: int) -> Any:
    if path.suffix == ".parquet":
        lines = pd.read_parquet(path, columns=list(COLUMNS))
    else:
        lines = pd.read_csv(path, usecols=list(COLUMNS), dtype={"InvoiceNo": str, "StockCode": str})
        lines["InvoiceDate"] = pd.to_datetime(lines["InvoiceDate"])
    return lines.sort_values("InvoiceDate", kind="stable")


def _milliseconds(lines: Any) -> npt.NDArray[np.int64]:
    times: npt.NDArray[Any] = lines["InvoiceDate"].to_numpy("datetime64[ms]")
    return times.astype(np.int64)


def _reasons(lines: Any) -> Any:
    """Return why each line becomes no event, '' if it becomes one; the first reason that holds."""
    return pd.Series(
        np.select(
            [
                lines["InvoiceNo"].str.startswith("C"),
                ~lines["StockCode"].str.fullmatch(PRODUCT_CODE),
                lines["CustomerID"].isna(),
                lines["Quantity"] <= 0,
                ~(lines["UnitPrice"] > 0),
            ],
            ["cancellation", "not_a_product", "anonymous", "quantity_not_positive", "price_not_positive"],
            "",
        ),
        lines.index,
    )
