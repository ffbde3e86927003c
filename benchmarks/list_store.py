"""What storing a list costs, in this process and in the store: encoding and one call a batch, as a rank worker does.

Run `python -m benchmarks.list_store --url redis://127.0.0.1:26379/0 [--json]`. It empties no key but its own
users' (`bench-...`), which it deletes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import redis

from benchmarks import synthetic_shop
from flink_jobs.list_columns import BundleTexts, encode_entries
from flink_jobs.list_entry import KEPT
from flink_jobs.list_store import ListStore, connect
from schemas.redis_keys import format_version, user_keys
from udfs.model.bundle import Bundle
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.rank import RankSettings, rank_columns

ITEMS, DIMENSION = 4_000, 32


def measure(url: str, bundle: Bundle, users: int, batch_size: int, rounds: int) -> dict[str, float]:
    """CPU-us a user on both sides, of the best round each, and bytes a user in the store."""
    client = connect(url)
    store = ListStore(client, ttl_s=3_600, retry_limit_s=5)
    store.load_function()
    texts, view = BundleTexts.of(bundle), CatalogueView(bundle)
    made = synthetic_shop.snapshots(bundle.items, users, np.random.default_rng(1))
    made = [one._replace(key=f"default/bench-{n}", user_id=f"bench-{n}") for n, one in enumerate(made)]
    best = [float("inf")] * 3
    for offset in range(rounds):
        newer = [one._replace(version=format_version(0, offset, 0)) for one in made]
        batches = [
            rank_columns(bundle, newer[start : start + batch_size], view, RankSettings())
            for start in range(0, users, batch_size)
        ]
        before_there_s, before_here_s, before_s = (
            _server_cpu_s(client),
            time.process_time(),
            time.perf_counter(),
        )
        for batch in batches:
            replies = store.put_encoded(encode_entries(batch, texts, "default", 0, hash_tags=True))
            assert all(reply == KEPT for reply in replies)
        costs = (
            time.process_time() - before_here_s,
            _server_cpu_s(client) - before_there_s,
            time.perf_counter() - before_s,
        )
        best = [min(least, cost / users * 1e6) for least, cost in zip(best, costs, strict=True)]
    names = [one.user_id for one in made]
    held = sum(client.memory_usage(key) or 0 for name in names[:100] for key in user_keys("default", name))
    for name in names:
        client.delete(*user_keys("default", name))
    return {
        "users": users,
        "batch": batch_size,
        "python_cpu_us_per_user": round(best[0], 1),
        "store_cpu_us_per_user": round(best[1], 1),
        "wall_us_per_user": round(best[2], 1),
        "store_bytes_per_user": round(held / 100),
    }


def _server_cpu_s(client: redis.Redis) -> float:
    used = client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--users", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = synthetic_shop.write(Path(folder) / "1", ITEMS, DIMENSION)
        for batch_size in (1, 50, 400):
            rounds = 2 if batch_size == 1 else arguments.rounds
            figures = measure(arguments.url, bundle, arguments.users, batch_size, rounds)
            print(
                json.dumps(figures) if arguments.json else "  ".join(f"{k} {v}" for k, v in figures.items())
            )


if __name__ == "__main__":
    main()
