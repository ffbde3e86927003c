"""What a table that devices have learnt brings as a source: `python -m benchmarks.federated_source --data FILE`.

Users' devices learn pairs of items from what lies before the first measured stretch (popularity first, then pairs of
the most popular items, the whole way of devices and a model line), and `train` gets the table. Two shops: one whose
server has everybody's events too, and one that has those of every fourth user, while all devices take part. Measured
as `tailrace train` does it: on sessions before the cut that the measured ranker has not learnt from, and behind it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from math import inf
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model_export import sources
from model_export.protocols.federated import DAY_MS, DELTA
from model_export.protocols.federated_table import learn
from model_export.sources.event_log import EventLog, midnight_ms
from model_export.stretches import stretch_edges
from model_export.train import train
from model_export.train_settings import TrainReport, TrainSettings
from udfs.federate.pair_table import PairTable, table_of
from udfs.privacy.terms import Mode

EPSILONS: Final = (None, inf, 10.0)
PARTS: Final = ("held_out", "after_cut")


def device_amounts(log: EventLog, until_ms: int) -> tuple[np.ndarray, list[str]]:
    """How much each user took of each item before a time, (n_users, n_items), halved every 180 days, and the ids."""
    known = log.before(until_ms)
    users, rows = np.unique(np.array(known.columns["user_id"]), return_inverse=True)
    items, columns = np.unique(np.array(known.columns["item_id"]), return_inverse=True)
    amounts = np.zeros((len(users), len(items)))
    np.maximum.at(amounts, (rows, columns), 0.5 ** ((until_ms - known.times_ms) / DAY_MS / 180.0))
    return amounts, items.tolist()


def learnt(amounts: np.ndarray, ids: list[str], epsilon: float, seed: int, at_ms: int) -> PairTable:
    """The table of all devices; `epsilon` is that of a user over both contributions."""
    found = learn(amounts, Mode.CENTRAL, epsilon, DELTA, seed)
    record = found.records[1]._replace(released_time=at_ms)
    return table_of([record], [ids[row] for row in found.top.tolist()])


def figures(report: TrainReport) -> dict[str, Any]:
    """The metrics that are compared, with the ranker's importance of the blend that the source is in."""
    kept: dict[str, Any] = {
        part: {
            **{name: report.metrics[part]["model"][name] for name in ("all", "new_items")},
            "candidate_recall": report.metrics[part]["candidate_recall"],
        }
        for part in PARTS
    }
    return kept | {
        "served": report.metrics["after_cut"]["served"],
        "within": report.metrics["held_out_within"],
    }


def part_of(data: Path, every: int, to: Path) -> Path:
    """Write the lines of every so many customers."""
    table = pq.read_table(data)
    ids = pc.fill_null(pc.cast(table["CustomerID"], "int64", safe=False), -1)
    keep = np.asarray(ids) % every == 0
    pq.write_table(table.filter(keep), to)
    return to


def measure(data: Path, until: str, server_share: int, seed: int, say: Any) -> dict[str, Any]:
    """Train without a table and with one of each epsilon; every `server_share`th user is known to the server."""
    log = sources.read(data)
    settings = TrainSettings()
    before_ms = stretch_edges(settings, log, midnight_ms(until))[0]
    amounts, ids = device_amounts(log, before_ms)
    result: dict[str, Any] = {"devices": len(amounts), "server_has_every": server_share}
    with tempfile.TemporaryDirectory() as folder:
        known = data if server_share == 1 else part_of(data, server_share, Path(folder) / "part.parquet")
        for number, epsilon in enumerate(EPSILONS, start=1):
            table = None if epsilon is None else learnt(amounts, ids, epsilon, seed, before_ms - 1)
            report = train(
                settings, known, until, number, root=Path(folder) / "models", seed=seed, federated=table
            )
            name = "none" if epsilon is None else "no noise" if epsilon == inf else f"epsilon {epsilon:g}"
            result[name] = figures(report)
            say(f"server has every {server_share}. user, {name}: {json.dumps(result[name])}")
    return result


def main(arguments: list[str] | None = None) -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="Online Retail as parquet")
    parser.add_argument("--until", default="2011-11-01")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    began_s = time.process_time()
    shops = [
        measure(given.data, given.until, share, given.seed, lambda text: print(text, file=sys.stderr))
        for share in (1, 4)
    ]
    report = {
        "until": given.until, "mode": "central", "delta": DELTA, "seed": given.seed, "shops": shops,
        "cpu_s": round(time.process_time() - began_s, 1),
    }  # fmt: skip
    text = json.dumps(report, indent=1)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
