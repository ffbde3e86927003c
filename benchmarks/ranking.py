"""What it costs to rank one user, stage by stage, on one thread, without Redis and Avro.

Usage: ``python -m benchmarks.ranking [--json] [--items 4000] [--users 100]``. Figures are CPU microseconds a
user, the least of several rounds: a busy machine shows up as cache misses, not as waiting.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import synthetic_shop
from udfs.model.bundle import Bundle
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.exploration import fill_slots, list_seed, play_probabilities
from udfs.ranking.feature_kernel import compute_features
from udfs.ranking.first_stage import pick_finalists
from udfs.ranking.rank import RankSettings, prepare, rank_batch
from udfs.ranking.retrieval import find_history, retrieve
from udfs.ranking.snapshot import Snapshot, decode_states

GOAL_US = 110.0


def least_us(work: Callable[[], object], units: int, rounds: int = 15, seconds: float = 0.15) -> float:
    """Return CPU microseconds a unit of `work`, which does `units` of them."""
    work()
    started = time.process_time()
    work()
    repeats = max(1, int(seconds / max(time.process_time() - started, 1e-6)))
    best = float("inf")
    for _ in range(rounds):
        started = time.process_time()
        for _ in range(repeats):
            work()
        best = min(best, time.process_time() - started)
    return best / repeats / units * 1e6


def figures(bundle: Bundle, snapshots: list[Snapshot], settings: RankSettings) -> dict[str, float]:
    """Return CPU microseconds a user of every stage, and of all of `rank_batch`."""
    users, index = len(snapshots), bundle.items
    catalogue = CatalogueView(bundle)
    found = prepare(index, snapshots, catalogue, settings, bundle.epoch)
    states, history, candidates, finalists, features = found
    scores = bundle.ranker.score(features, settings.finalists)
    probabilities = play_probabilities(states, settings.exploration_floor)
    seeds = np.array([list_seed(one.key, one.version, bundle.epoch) for one in snapshots], np.uint64)
    category = index.columns.category
    stages: dict[str, Callable[[], object]] = {
        "decode": lambda: decode_states(snapshots),
        "history": lambda: find_history(index, states),
        "retrieval": lambda: retrieve(
            index, states, history, catalogue.allowed, settings.candidates, settings.rebuy_after_ms
        ),
        "first_stage": lambda: pick_finalists(index, candidates, settings.finalists),
        "features": lambda: compute_features(
            index, states, history, candidates, finalists, catalogue.price_log
        ),
        "ranker": lambda: bundle.ranker.score(features, settings.finalists),
        "arm_probabilities": lambda: play_probabilities(states, settings.exploration_floor),
        "slots": lambda: fill_slots(
            scores,
            category,
            candidates,
            finalists,
            probabilities,
            seeds,
            settings.diversity,
            settings.list_size,
        ),
    }
    result = {name: least_us(work, users) for name, work in stages.items()}
    total = least_us(lambda: rank_batch(bundle, snapshots, catalogue, settings), users)
    return result | {"rest": total - sum(result.values()), "total": total}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=4_000)
    parser.add_argument("--dimension", type=int, default=32)
    parser.add_argument("--users", type=int, default=100, help="ranked in one batch")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = synthetic_shop.write(Path(folder) / "1", arguments.items, arguments.dimension)
        snapshots = synthetic_shop.snapshots(bundle.items, arguments.users, np.random.default_rng(1))
        costs = figures(bundle, snapshots, RankSettings())
    report = {
        "items": arguments.items,
        "dimension": arguments.dimension,
        "batch": arguments.users,
        "provider": bundle.ranker.provider,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "goal_us": GOAL_US,
        "cpu_us": {name: round(cost, 2) for name, cost in costs.items()},
    }
    if arguments.json:
        print(json.dumps(report, indent=1))
        return
    print(f"{arguments.items} items, d={arguments.dimension}, batches of {arguments.users}: CPU-us a user")
    for name, cost in costs.items():
        print(f"  {name:18}{cost:8.2f}")


if __name__ == "__main__":
    main()
