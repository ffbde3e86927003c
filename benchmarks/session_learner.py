"""What the learn job costs a click, and a rank worker that follows it, on simulated clicks.

Usage: ``python -m benchmarks.session_learner [--clicks 100000] [--json] [--out FILE]``. One thread; CPU time. States
are dictionaries: what RocksDB and Kafka cost beside is not in the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.neighbours import ASKED, simulated_clicks
from benchmarks.user_logic import least_us
from flink_jobs.learner_state import KeptLearner
from udfs.neighbours.item_table import ItemTable
from udfs.neighbours.scan_arrays import Queries
from udfs.online.published_ranker import PublishedRanker
from udfs.online.session_learner import CANDIDATES, LearnerSettings, SessionLearner

SHARE = 30
"""Candidates that the session source may bring: .15 of 200."""
ROUNDS = 100
MEASURED = 20_480
"""Clicks: ten versions."""


class _Map(dict[Any, Any]):
    put = dict.__setitem__
    remove = dict.__delitem__


class _Value:
    data: bytes | None = None

    def value(self) -> bytes | None:
        return self.data

    def update(self, data: bytes) -> None:
        self.data = data


def figures(clicks: int) -> dict[str, float]:
    """Return name → CPU microseconds or bytes, after so many clicks."""
    keys, items, queries = simulated_clicks(clicks + MEASURED)
    hashes = items.astype(np.uint64)
    learner = SessionLearner()
    parts = learner.learn(keys[:clicks], hashes[:clicks])
    began_s = time.process_time()
    newest = learner.learn(keys[clicks:], hashes[clicks:])
    learn_us = (time.process_time() - began_s) / MEASURED * 1e6
    table = ItemTable()
    table.add(learner.items.hashes)
    worker = PublishedRanker(table.add)
    for part in parts:
        worker.take(part)
    began_s = time.process_time()
    for part in newest:
        worker.take(part)
    take_us = (time.process_time() - began_s) / MEASURED * 1e6

    rows = table.add(queries.items.astype(np.uint64))
    late = np.arange(clicks, clicks + MEASURED)
    asked = late[queries.stop[late] > queries.start[late]][:ASKED]
    part_of = Queries(rows, queries.start[asked], queries.stop[asked], keys[asked])
    index = learner.ranker.index
    wide = index.query(part_of, CANDIDATES)

    def learnt_order() -> None:
        found = index.query(part_of, CANDIDATES)
        np.argsort(-worker.probabilities(found, part_of), axis=1, kind="stable")

    kept = KeptLearner(LearnerSettings(), 1, _Value(), blocks := _Map(), _Map())
    kept.learner = learner
    began_s = time.process_time()
    kept.learn(keys[:0], hashes[:0])
    nothing_us = (time.process_time() - began_s) * 1e6
    began_s = time.process_time()
    kept._copy()
    first_ms = (time.process_time() - began_s) * 1e3
    size = sum(len(block) for block in blocks.values())
    return {
        "learn a click": round(learn_us, 1),
        "keep a batch": round(nothing_us, 1),
        "first copy, ms": round(first_ms, 1),
        "copy, bytes": size,
        "published, bytes a click": round(sum(len(part.data) for part in newest) / MEASURED, 1),
        "a worker takes versions, a click": round(take_us, 2),
        "neighbours' order, a session": round(
            least_us(lambda: index.query(part_of, SHARE), len(asked), ROUNDS), 1
        ),
        "learnt order, a session": round(least_us(learnt_order, len(asked), ROUNDS), 1),
        "of it features and scores": round(
            least_us(lambda: worker.probabilities(wide, part_of), len(asked), ROUNDS), 1
        ),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What the learn job costs, and who follows it")
    parser.add_argument("--clicks", type=int, default=100_000, help="clicks learnt before")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--out", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    with threadpool_limits(limits=1, user_api="blas"):  # as in a worker: more threads spin, and cost more
        found = figures(arguments.clicks)
    report = {"load": round(os.getloadavg()[0], 1), "cpu_us": found}
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if arguments.json:
        print(json.dumps(report))
        return
    for name, value in found.items():
        print(f"{name:<36}{value:>14,}")


if __name__ == "__main__":
    main()
