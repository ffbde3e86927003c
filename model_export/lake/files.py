"""Raw records in Parquet: one file a run of offsets of one partition and one day.

``<root>/<topic>/day=2026-11-21/p0003-00000000000000001000-00000000000000001999.parquet``

A file's name says which offsets it covers, and a file is there whole or not at all (written beside, then renamed). So
the files themselves say where reading goes on, nothing is written twice after a kill, and nothing is left out. Any
reader of Parquet reads a topic's folder; `day` is the record's own, in UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


class LakeError(OSError):
    """A file of the lake is cut short, or its disk is away; the message names it."""


SCHEMA = pa.schema(
    [
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp", pa.timestamp("ms", "UTC"), nullable=False),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
    ]
)
_NAME = re.compile(r"p(\d{4,})-(\d{20})-(\d{20})\.parquet")
_DAY = re.compile(r"day=(\d{4}-\d{2}-\d{2})")


class RawRecord(NamedTuple):
    """One record of a topic as the broker gave it; times in milliseconds since 1970 UTC."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


class LakeFile(NamedTuple):
    """One file; it covers all offsets of a partition from `first` to `last`, some of which may hold no record."""

    topic: str
    day: date
    partition: int
    first: int
    last: int
    path: Path


def files_of(root: Path, topic: str) -> list[LakeFile]:
    """Return a topic's files by partition and offset, less those that lie inside another: a kill has left them."""
    found = []
    for path in sorted((root / topic).glob("day=*/p*.parquet")):
        name, day = _NAME.fullmatch(path.name), _DAY.fullmatch(path.parent.name)
        if name is not None and day is not None:
            partition, first, last = map(int, name.groups())
            found.append(LakeFile(topic, date.fromisoformat(day[1]), partition, first, last, path))
    found.sort(key=lambda file: (file.partition, file.first, -file.last))
    kept: list[LakeFile] = []
    for file in found:
        if not (kept and kept[-1].partition == file.partition and file.last <= kept[-1].last):
            kept.append(file)
    return kept


def topics_in(root: Path) -> list[str]:
    """Return the topics that the lake holds."""
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def next_offsets(root: Path, topic: str) -> dict[int, int]:
    """Return for each partition the offset behind what is in the lake."""
    result: dict[int, int] = {}
    for file in files_of(root, topic):
        result[file.partition] = max(result.get(file.partition, 0), file.last + 1)
    return result


def write_run(root: Path, topic: str, records: Sequence[RawRecord]) -> list[LakeFile]:
    """Write records of one partition, in the order of their offsets: a file for each run of one day."""
    return [
        _write(
            root, topic, day, records_[0].partition, records_[0].offset, records_[-1].offset, _table(records_)
        )
        for day, run in groupby(records, key=lambda record: _day(record.timestamp_ms))
        if (records_ := list(run))
    ]


def read(files: Iterable[LakeFile]) -> Iterator[RawRecord]:
    """Yield the records of files, one file after the other."""
    for file in files:
        table = _table_of(file.path, SCHEMA)
        times = table["timestamp"].cast(pa.int64()).to_pylist()
        yield from map(
            RawRecord,
            table["partition"].to_pylist(),
            table["offset"].to_pylist(),
            times,
            table["key"].to_pylist(),
            table["value"].to_pylist(),
        )


def compact(root: Path, topic: str, before: date) -> tuple[int, int]:
    """Join the files of each partition and earlier day into one; return how many there were and are.

    The joined file stands before the parts are deleted; if that is cut off, `files_of` sees the joined one alone and
    the next call deletes the rest. A reader that lists the folder by itself may see records twice meanwhile.
    """
    were = are = 0
    everything = files_of(root, topic)
    for (_, day), group in groupby(
        sorted(everything, key=lambda file: (file.partition, file.day, file.first)),
        key=lambda file: (file.partition, file.day),
    ):
        files = list(group)
        if day >= before:
            continue
        # Only files whose offsets follow one another: a name must not claim what lies in another day's file.
        for run in _adjacent(files, everything):
            were, are = were + len(run), are + 1
            if len(run) > 1:
                table = pa.concat_tables(_table_of(file.path) for file in run)
                _write(root, topic, day, run[0].partition, run[0].first, run[-1].last, table)
                for file in run:
                    file.path.unlink()
    _delete_covered(root, topic)
    return were, are


def retain(root: Path, topic: str, since: date) -> int:
    """Delete the files of days before `since`, but each partition's newest, which says where to go on."""
    files = files_of(root, topic)
    newest = {file.partition: file for file in files}
    gone = [file for file in files if file.day < since and newest[file.partition] != file]
    for file in gone:
        file.path.unlink()
    return len(gone)


def erase(root: Path, topic: str, key: bytes) -> int:
    """Take all records under a key out of a topic's files; return how many there were.

    The files keep their names, so their offsets are not read again.
    """
    erased = 0
    for file in files_of(root, topic):
        table = _table_of(file.path)
        keep = pc.fill_null(pc.not_equal(table["key"], pa.scalar(key, pa.binary())), True)
        left = table.filter(keep)
        if len(left) < len(table):
            erased += len(table) - len(left)
            _write(root, topic, file.day, file.partition, file.first, file.last, left)
    return erased


def _table_of(path: Path, schema: pa.Schema | None = None) -> pa.Table:
    try:
        return pq.read_table(path, schema=schema, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise LakeError(f"{path} cannot be read: {error}") from error


def _adjacent(files: list[LakeFile], everything: Sequence[LakeFile]) -> Iterator[list[LakeFile]]:
    """Split one day's files where another day's file of the same partition lies between them."""
    others = [file for file in everything if file.partition == files[0].partition]
    place = {file.path: number for number, file in enumerate(others)}
    run: list[LakeFile] = []
    for file in files:
        if run and place[file.path] != place[run[-1].path] + 1:
            yield run
            run = []
        run.append(file)
    yield run


def _delete_covered(root: Path, topic: str) -> None:
    kept = {file.path for file in files_of(root, topic)}
    for path in (root / topic).glob("day=*/p*.parquet"):
        if _NAME.fullmatch(path.name) and path not in kept:
            path.unlink()


def _table(records: Sequence[RawRecord]) -> pa.Table:
    columns = zip(*records, strict=True)
    return pa.table(
        [pa.array(list(column), field.type) for column, field in zip(columns, SCHEMA, strict=True)], SCHEMA
    )


def _write(
    root: Path, topic: str, day: date, partition: int, first: int, last: int, table: pa.Table
) -> LakeFile:
    folder = root / topic / f"day={day.isoformat()}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"p{partition:04d}-{first:020d}-{last:020d}.parquet"
    building = folder / f".{path.name}"
    pq.write_table(table, building, compression="zstd")
    building.rename(path)
    return LakeFile(topic, day, partition, first, last, path)


def _day(timestamp_ms: int) -> date:
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).date()
