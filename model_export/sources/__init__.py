"""Files of events, or the lake's folder: which source can read a file, its events in time order, its catalogue.

Examples
--------
>>> log = read("datasets/online-retail/online_retail.parquet")  # doctest: +SKIP
>>> next(iter(log)).item_id  # doctest: +SKIP
'85123A'
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import ModuleType
from typing import IO

import pyarrow.parquet as pq

from model_export.sources import complete_journey, lake, native, online_retail, rees46
from model_export.sources.event_log import EventLog, SourceError
from schemas.records import Item

SOURCES: tuple[ModuleType, ...] = (online_retail, rees46, complete_journey)

__all__ = ["EventLog", "SourceError", "catalogue", "detect", "read"]


def detect(path: Path | str) -> ModuleType:
    """Return the source that reads a file, by its columns.

    Raises
    ------
    SourceError
        When there is no such file or no source has its columns; the text lists what each wants.
    """
    path = Path(path)
    if lake.is_lake(path):
        return lake
    if not path.is_file():
        raise SourceError(
            f"{path}: there is no such file; give a .parquet, .csv or .jsonl file of events, or the folder of a lake"
        )
    name = path.name.removesuffix(".gz")
    try:
        if name.endswith(".jsonl"):
            found, wanted = _first_keys(path), {native.NAME: native.NEEDED}
        elif name.endswith(".parquet"):
            found, wanted = pq.read_schema(path).names, {source.NAME: source.COLUMNS for source in SOURCES}
        elif name.endswith(".csv"):
            found, wanted = _header(path), {source.NAME: source.COLUMNS for source in SOURCES}
        else:
            raise SourceError(f"{path}: the name must end in .parquet, .csv, .jsonl, .csv.gz or .jsonl.gz")
    except SourceError:
        raise
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error
    for source in (*SOURCES, native):
        if source.NAME in wanted and set(wanted[source.NAME]) <= set(found):
            return source
    lines = "; ".join(f"{name} needs {', '.join(columns)}" for name, columns in wanted.items())
    raise SourceError(f"{path}: no source reads the columns {', '.join(found) or '(none)'}: {lines}")


def read(path: Path | str) -> EventLog:
    """Return the events of a file in time order, by the source that `detect` finds."""
    return detect(path).read(Path(path))  # type: ignore[no-any-return]


def catalogue(path: Path | str, before_ms: int | None = None) -> list[Item]:
    """Return the items of a file as known before `before_ms`, ordered by id."""
    return detect(path).catalogue(Path(path), before_ms)  # type: ignore[no-any-return]


def _first_keys(path: Path) -> list[str]:
    with _open(path) as file:
        line = file.readline()
    parsed = json.loads(line) if line.strip() else {}
    return list(parsed) if isinstance(parsed, dict) else []


def _header(path: Path) -> list[str]:
    with _open(path) as file:
        return [name.strip() for name in file.readline().split(",")]


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")
