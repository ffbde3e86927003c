"""What storing a user's list costs, in this process and in the store.

Run `python -m benchmarks.list_store --url redis://127.0.0.1:26379/0 [--json]`. It empties no key but its own
users' (`bench-...`), which it deletes.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence

import redis

from flink_jobs.list_store import ListEntry, ListStore, connect
from schemas.records import ServedItem, ServedList
from schemas.redis_keys import format_version, user_keys

SOURCES = ("ranker", "ranker", "ranker", "embedding", "neighbours", "repeat", "popular")


def make_batch(users: Sequence[str], offset: int, rng: random.Random) -> list[ListEntry]:
    """Lists as the recommend job makes them: 10 items, 20 session items, 12 features."""
    batch = []
    for user in users:
        scores = sorted((round(rng.random(), 6) for _ in range(10)), reverse=True)
        items = [
            ServedItem(
                f"item-{rng.randrange(100_000)}-{slot}", score, rng.choice(SOURCES), round(rng.random(), 4)
            )
            for slot, score in enumerate(scores)
        ]
        served = ServedList(
            f"{rng.getrandbits(64):016x}", "default", user, format_version(0, offset, 0),
            1_763_700_000_000, 0, 3, "2026-11-21a", "control", 17, items, b"x" * 600,
        )  # fmt: skip
        session = [f"item-{rng.randrange(100_000)}" for _ in range(20)]
        batch.append(ListEntry(served, session, {f"feature_{n}": round(rng.random(), 5) for n in range(12)}))
    return batch


def measure(url: str, users: int, batch_size: int, rounds: int) -> dict[str, float]:
    """CPU-µs a user on both sides, of the best round each, and bytes a user in the store."""
    client = connect(url)
    store = ListStore(client, ttl_s=3_600, retry_limit_s=5)
    store.load_function()
    rng = random.Random(1)
    names = [f"bench-{number}" for number in range(users)]
    best = [float("inf")] * 3
    for offset in range(rounds):
        rng.shuffle(names)
        batches = [
            make_batch(names[start : start + batch_size], offset, rng)
            for start in range(0, users, batch_size)
        ]
        before_there_s, before_here_s, before_s = (
            _server_cpu_s(client),
            time.process_time(),
            time.perf_counter(),
        )
        for batch in batches:
            assert all(outcome.state == "kept" for outcome in store.put(batch))
        costs = (
            time.process_time() - before_here_s,
            _server_cpu_s(client) - before_there_s,
            time.perf_counter() - before_s,
        )
        best = [min(least, cost / users * 1e6) for least, cost in zip(best, costs, strict=True)]
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
    for batch_size in (1, 50, 400):
        rounds = 2 if batch_size == 1 else arguments.rounds
        figures = measure(arguments.url, arguments.users, batch_size, rounds)
        print(json.dumps(figures) if arguments.json else "  ".join(f"{k} {v}" for k, v in figures.items()))


if __name__ == "__main__":
    main()
