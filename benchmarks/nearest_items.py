"""What inverted lists find of the best items by inner product, and what both ways cost, by size of the catalogue.

Usage: ``python -m benchmarks.nearest_items [--items 8000,43000,200000] [--json] [--out FILE]``. Factors are made up:
60 tastes with items around them. CPU microseconds a query on one thread, the least of several rounds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from udfs.ranking.inner_product import GROUPS, best_scores, padded_columns, score_all
from udfs.ranking.inverted_lists import build_ivf, list_columns, measure_recall, search_lists

BEST, QUERIES, ROUNDS = 80, 64, 7
NPROBES = (4, 8, 16, 32)


def made_up_factors(n: int, dimension: int, seed: int = 0) -> NDArray[np.float32]:
    """Return float32 (n, d): items around 60 tastes."""
    rng = np.random.default_rng(seed)
    tastes = rng.normal(size=(60, dimension))
    factors = 0.25 * (tastes[rng.integers(0, 60, n)] + 0.7 * rng.normal(size=(n, dimension)))
    return factors.astype(np.float32)


def least_us(run: Callable[[], None]) -> float:
    """Return CPU microseconds a query of a call that makes `QUERIES` of them."""
    run()
    costs = []
    for _ in range(ROUNDS):
        began = time.process_time()
        run()
        costs.append(time.process_time() - began)
    return min(costs) / QUERIES * 1e6


def figures(n: int, dimension: int) -> dict[str, object]:
    """Return recall and cost of one size."""
    factors = made_up_factors(n, dimension)
    rng = np.random.default_rng(1)
    queries = [factors[rng.choice(n, 5, replace=False)].mean(axis=0) for _ in range(QUERIES)]
    transposed = padded_columns(factors)
    bias = np.full(transposed.shape[1], -np.inf, np.float32)
    bias[:n] = 0.0
    scores, keys = np.empty(len(bias), np.float32), np.empty(len(bias) + GROUPS + 1, np.uint64)

    def exact() -> None:
        for query in queries:
            score_all(query, transposed, bias, scores)
            best_scores(scores, BEST, keys)

    lists, _ = build_ivf(factors)
    columns = list_columns(lists, factors)
    allowed, excluded = np.ones(n, np.bool_), np.zeros(n, np.int32)
    room = np.empty(columns.centroids.shape[1] + n + GROUPS, np.float32)
    found = np.empty(n + columns.centroids.shape[1] + 1, np.uint64)
    by_nprobe = []
    for nprobe in NPROBES:

        def some(nprobe: int = nprobe) -> None:
            for query in queries:
                search_lists(query, columns, nprobe, BEST, allowed, excluded, 1, room, found)

        recall = measure_recall(factors, lists, nprobe, seed=2)
        by_nprobe.append({"nprobe": nprobe, "recall": round(recall, 4), "cpu_us": round(least_us(some), 1)})
    return {
        "items": n,
        "lists": len(lists.centroids),
        "exact_cpu_us": round(least_us(exact), 1),
        "inverted_lists": by_nprobe,
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", default="8000,43000,200000", help="sizes, with commas")
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--out", type=Path, help="write the JSON here too")
    arguments = parser.parse_args()
    sizes = [figures(int(n), arguments.dimension) for n in arguments.items.split(",")]
    report = {"bench": "nearest_items", "dimension": arguments.dimension, "best": BEST, "sizes": sizes}
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if arguments.json:
        print(json.dumps(report))
        return
    for size in sizes:
        print(f"{size['items']:>8,} items: all {size['exact_cpu_us']} CPU-us")
        for one in size["inverted_lists"]:  # type: ignore[attr-defined]
            print(
                f"{'':10}{one['nprobe']:>3} lists: {one['recall']:.3f} of the best {BEST}, {one['cpu_us']} CPU-us"
            )


if __name__ == "__main__":
    main()
