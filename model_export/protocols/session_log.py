"""A file of session clicks, split into periods as the protocol wants them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from udfs.neighbours.scan_arrays import Queries

COLUMNS = ("session", "item", "period")


class SessionLogError(ValueError):
    """A file that the protocol cannot use; the text says where, wanted, got."""


class Clicks(NamedTuple):
    """B clicks in their order, each with the session so far."""

    items: npt.NDArray[np.int32]  # (B,) the row that was clicked
    queries: Queries  # the B sessions before the click; an empty one is not predicted

    @property
    def predicted(self) -> npt.NDArray[np.bool_]:
        """Bool (B,): whether the protocol predicts this click."""
        return self.queries.stop > self.queries.start


@dataclass(frozen=True)
class SessionLog:
    """Clicks in time order.

    Parameters
    ----------
    sessions, items, periods
        int64, int32 and int64 (n,): session, row of the item, period.
    item_ids
        The item of each row, in the order of their first click.
    context, start, stop
        The clicks that the protocol keeps, by period and session: the session so far of click c is
        ``context[start[c]:stop[c]]``.
    kept
        bool (n,): what the protocol keeps of a test period.
    first_period
        int64 (items,): the period of each item's first click.
    sha256
        Of the file.
    """

    sessions: npt.NDArray[np.int64]
    items: npt.NDArray[np.int32]
    periods: npt.NDArray[np.int64]
    item_ids: npt.NDArray[np.int64]
    context: npt.NDArray[np.int32]
    start: npt.NDArray[np.int64]
    stop: npt.NDArray[np.int64]
    kept: npt.NDArray[np.bool_]
    first_period: npt.NDArray[np.int64]
    sha256: str

    def clicks(self, period: int, batch: int, *, predicted_only: bool = False) -> Iterator[Clicks]:
        """Iterate over a period's clicks in their order.

        Parameters
        ----------
        period
            Which.
        batch
            Most clicks at once.
        predicted_only
            Leave out clicks that are not predicted: for models that do not learn meanwhile.
        """
        rows = np.flatnonzero(self.periods == period)
        if predicted_only:
            rows = rows[self.stop[rows] > self.start[rows]]
        for at in range(0, len(rows), batch):
            part = rows[at : at + batch]
            keys = self.sessions[part].astype(np.uint64)
            yield Clicks(self.items[part], Queries(self.context, self.start[part], self.stop[part], keys))

    def predicted(self, period: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Return item and session of each predicted click of a period, in their order."""
        chosen = (self.periods == period) & (self.stop > self.start)
        return self.items[chosen], self.sessions[chosen]

    def known(self, period: int) -> npt.NDArray[np.bool_]:
        """Bool (items,): the items that were clicked before a period."""
        return self.first_period < period

    def counts(self, period: int) -> dict[str, int]:
        """Return the size of a period as the protocol sees it."""
        inside = self.periods == period
        return {
            "clicks": int(inside.sum()),
            "kept": int((inside & self.kept).sum()),
            "sessions": len(np.unique(self.sessions[inside & self.kept])),
            "predictions": int((inside & (self.stop > self.start)).sum()),
            "known_items": int(self.known(period).sum()),
        }


def read_session_log(path: Path, sample: float = 1.0, seed: int = 0) -> SessionLog:
    """Read a Parquet file with columns session, item and period (whole numbers), rows in time order.

    Parameters
    ----------
    path
        The file.
    sample
        Share of the sessions to keep, drawn by `seed`.
    seed
        Of the draw.

    Raises
    ------
    SessionLogError
        If there is no such file, a column is missing, or periods go back.
    """
    if not path.is_file():
        raise SessionLogError(f"{path}: there is no such file")
    try:
        names = pq.read_schema(path).names
        missing = [name for name in COLUMNS if name not in names]
        if missing:
            raise SessionLogError(
                f"{path}: wanted the columns {', '.join(COLUMNS)}; {', '.join(missing)} is missing"
            )
        table = pq.read_table(path, columns=list(COLUMNS))
    except (OSError, ValueError) as error:
        if isinstance(error, SessionLogError):
            raise
        raise SessionLogError(f"{path}: cannot be read as Parquet: {error}") from error
    sessions, ids, periods = (table.column(name).to_numpy().astype(np.int64) for name in COLUMNS)
    if len(periods) and bool((np.diff(periods) < 0).any()):
        raise SessionLogError(f"{path}: rows must be in time order, but column period goes back")
    if sample < 1.0 and len(sessions):
        known, session = np.unique(sessions, return_inverse=True)
        chosen = (np.random.default_rng(seed).random(len(known)) < sample)[session]
        sessions, ids, periods = sessions[chosen], ids[chosen], periods[chosen]
    if not len(sessions):
        raise SessionLogError(f"{path}: no clicks are left")
    return _split(sessions, ids, periods, hashlib.sha256(path.read_bytes()).hexdigest())


def _split(
    sessions: npt.NDArray[np.int64], ids: npt.NDArray[np.int64], periods: npt.NDArray[np.int64], sha256: str
) -> SessionLog:
    known, first, code = np.unique(ids, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    row_of = np.empty(len(known), np.int64)
    row_of[order] = np.arange(len(known))
    items = row_of[code].astype(np.int32)
    first_period = periods[first[order]]

    # A session that goes on in the next period is another one there: a period knows nothing of its own future.
    _, group = np.unique(np.stack([periods, sessions]), axis=1, return_inverse=True)
    group = group.reshape(-1)
    kept = (periods == periods.min()) | (first_period[items] < periods)
    kept &= np.bincount(group, weights=kept)[group] >= 2
    rows = np.flatnonzero(kept)
    rows = rows[np.argsort(group[rows], kind="stable")]
    opens = np.concatenate([[True], np.diff(group[rows]) != 0]) if len(rows) else np.zeros(0, bool)
    starts = np.flatnonzero(opens)
    start, stop = np.zeros((2, len(items)), np.int64)
    start[rows] = starts[np.cumsum(opens) - 1]
    stop[rows] = np.arange(len(rows))
    return SessionLog(
        sessions, items, periods, known[order], items[rows], start, stop, kept, first_period, sha256
    )
