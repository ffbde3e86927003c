"""What every source is read into: a time-ordered table of events, one Python list a column.

Columns rather than records, because training wants arrays and a replay wants `Event` tuples: `map(Event,
*columns)` makes them at more than a million a second, and a table of a million lines stays small.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.records import Event


class SourceError(ValueError):
    """A file that cannot be read as events; the text says where, wanted, got and what to do."""


@dataclass(frozen=True)
class EventLog:
    """Events of one file in time order. Rows of one user have strictly increasing times.

    Parameters
    ----------
    name
        The source's name, e.g. ``online-retail``.
    times_ms
        int64 (n,), milliseconds since 1970 UTC, non-decreasing.
    columns
        The fields of `Event`, in its order, each a list of length n or one value for all rows (`Constant`).
    skipped
        Why rows of the file became no event: reason to count.
    file_sha256
        Of the file as it stands on disk.
    """

    name: str
    times_ms: npt.NDArray[np.int64]
    columns: Mapping[str, Sequence[Any]]
    skipped: Mapping[str, int] = field(default_factory=dict)
    file_sha256: str = ""

    def __post_init__(self) -> None:
        if tuple(self.columns) != Event._fields:
            raise SourceError(f"{self.name}: columns {tuple(self.columns)} are not Event's {Event._fields}")
        wrong = {name: len(column) for name, column in self.columns.items() if len(column) != len(self)}
        if wrong:
            raise SourceError(f"{self.name}: columns of other lengths than {len(self)}: {wrong}")
        if len(self) > 1 and bool((np.diff(self.times_ms) < 0).any()):
            raise SourceError(f"{self.name}: events are not in time order")

    def __len__(self) -> int:
        return len(self.times_ms)

    def __iter__(self) -> Iterator[Event]:
        return map(Event, *(_iterate(column) for column in self.columns.values()))

    def events(self, start: int = 0, stop: int | None = None) -> Iterator[Event]:
        """Iterate over the rows from `start` to before `stop`."""
        return islice(iter(self.part(start, stop)), None)

    def part(self, start: int = 0, stop: int | None = None) -> EventLog:
        """Return the rows from `start` to before `stop` as a log of its own."""
        rows = slice(start, stop)
        return replace(
            self,
            times_ms=self.times_ms[rows],
            columns={name: column[rows] for name, column in self.columns.items()},
        )

    def before(self, cut_ms: int) -> EventLog:
        """Return the rows earlier than `cut_ms`."""
        return self.part(0, self.position(cut_ms))

    def position(self, cut_ms: int) -> int:
        """Return the number of rows earlier than `cut_ms`."""
        return int(np.searchsorted(self.times_ms, cut_ms, side="left"))

    def sha256(self) -> str:
        """Return a hash of the events that training reads, whatever file and format they came from."""
        digest = hashlib.sha256(self.times_ms.astype("<i8").tobytes())
        for name in ("event_type", "tenant", "user_id", "item_id", "session_id", "value"):
            digest.update("\x1f".join(map(str, _iterate(self.columns[name]))).encode())
            digest.update(b"\x1e")
        return digest.hexdigest()


class Constant(Sequence[Any]):
    """One value for every row of a column."""

    def __init__(self, value: Any, length: int) -> None:
        self.value = value
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Constant(self.value, len(range(*index.indices(self.length))))
        return self.value

    def __iter__(self) -> Iterator[Any]:
        return repeat(self.value, self.length)


def _iterate(column: Sequence[Any]) -> Iterator[Any]:
    return iter(column)


def columns_of(length: int, **given: Any) -> dict[str, Sequence[Any]]:
    """Return all of `Event`'s columns: those given, and `Event`'s usual value for the rest.

    `received_time` is the event's own time, so that no replayed event is clamped; consent is
    `personalization`, because the shop that shared the file had it.
    """
    usual: dict[str, Any] = {
        "tenant": "default",
        "session_id": None,
        "item_id": None,
        "rec_id": None,
        "items": (),
        "value": None,
        "query": None,
        "context": {},
        "consent": "personalization",
        "received_time": given.get("event_time"),
    }
    columns: dict[str, Sequence[Any]] = {}
    for name in Event._fields:
        column = given[name] if name in given else usual[name]
        columns[name] = column if isinstance(column, list) else Constant(column, length)
    return columns


def spread_equal_times(times_ms: npt.NDArray[np.int64], users: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Give a user's events of one instant distinct consecutive milliseconds, in file order.

    Files count in minutes or seconds; the order of a user's events must be defined all the same.

    Parameters
    ----------
    times_ms
        int64 (n,) with steps of a second or more between different values.
    users
        (n,) user codes.

    Returns
    -------
    int64 (n,).

    Examples
    --------
    >>> spread_equal_times(np.array([0, 0, 0, 1000]), np.array([1, 2, 1, 1])).tolist()
    [0, 0, 1, 1000]
    """
    order = np.lexsort((np.arange(len(times_ms)), times_ms, users))
    starts = np.ones(len(order), bool)
    starts[1:] = (np.diff(times_ms[order]) != 0) | (users[order][1:] != users[order][:-1])
    first = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    spread = np.empty(len(order), np.int64)
    spread[order] = times_ms[order] + np.arange(len(order)) - first
    return spread


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def midnight_ms(day: date | str) -> int:
    """Return the first millisecond of a day, UTC.

    Examples
    --------
    >>> midnight_ms("2011-11-01")
    1320105600000
    """
    parsed = date.fromisoformat(day) if isinstance(day, str) else day
    return int(datetime(parsed.year, parsed.month, parsed.day, tzinfo=UTC).timestamp() * 1000)
