"""What a session step costs in the similarity job, as a slope between two sizes.

Usage: ``python -m benchmarks.similarity [--sizes 200000,800000] [--out FILE]``. A stack of its own on free ports:
broker, store, cluster. Steps of simulated sessions are sent as fast as the broker takes them, and CPU seconds are
read when all of them stand in the items' state. What starts and ticks cost alike at both sizes falls out. The sweep
and publishing go on by the clock, so a slower machine pays more of them for each step.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import redis
from confluent_kafka import Producer

from benchmarks.loaded_job import cpu_seconds
from flink_jobs.settings import Settings, load
from schemas import topics
from schemas.codec import encode
from schemas.ids import item_hash, user_key
from schemas.records import SessionDelta
from schemas.redis_keys import stats_key
from tailrace import flink_client
from tailrace.connections import ensure_topics
from tailrace.job_counts import sum_counts
from tailrace.stack import LocalStack
from tailrace.stack.local import PORT_SETTINGS

ITEMS, USERS = 40_000, 50_000
EVENTS_A_SESSION = 6.0
COUNTRIES = [f"country-{number}" for number in range(30)]
START_MS = 1_763_700_000_000
MOST_THREADS = 12
AT_ONCE = 400
"""Sessions that run side by side: their steps come mixed, as users' do."""


def session_steps(count: int, seed: int) -> Iterator[SessionDelta]:
    """Yield steps of sessions of geometric length, items by a power law around the session's own department."""
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, ITEMS + 1) ** 0.9
    popular = rng.choice(ITEMS, 1 << 20, p=weights / weights.sum())
    kinds = rng.choice(("view", "click", "add_to_cart", "purchase"), 1 << 20, p=(0.90, 0.07, 0.02, 0.01))
    lengths = rng.geometric(1 / EVENTS_A_SESSION, 1 << 18)
    running: list[tuple[str, int, int, list[str]]] = []
    made = session = 0
    while made < count:
        while len(running) < AT_ONCE:
            user = f"bench-{seed}-{session % USERS}"
            running.append((user, session // USERS + 1, int(lengths[session % len(lengths)]), []))
            session += 1
        place = int(popular[(made * 7) % len(popular)]) % len(running)
        user, ordinal, length, items = running[place]
        number = int(popular[made % len(popular)])
        if items and number % 3:  # two in three from the same department
            number = int(items[0].removeprefix("item-")) // 200 * 200 + number % 200
        item = f"item-{number}"
        at_ms = START_MS + made * 2
        previous = b"".join(item_hash(one).to_bytes(8, "little") for one in items[-10:])
        yield SessionDelta(
            "default", user, ordinal, START_MS, len(items), item, str(kinds[made % len(kinds)]), at_ms,
            previous, 0, made, 0, COUNTRIES[int(len(COUNTRIES) * (hash_share(user) ** 2))],
        )  # fmt: skip
        items.append(item)
        made += 1
        if len(items) >= length:
            running.pop(place)


def hash_share(user: str) -> float:
    """Give a number in [0, 1) that a user keeps: the square of it favours a few countries."""
    return item_hash(user) / 2**64


class SimilarityBench:
    """The job on its stack."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stack = LocalStack(settings)
        self.store = redis.Redis.from_url(settings.redis.url, decode_responses=True)
        self.jobmanager = flink_client.local_jobmanager(settings)
        self._sent = 0

    def submit(self) -> str:
        """Start the job."""
        ensure_topics(self.settings)
        folder = self.settings.stack.home
        config = folder / "tailrace.toml"
        tree = json.loads(self.settings.model_dump_json(exclude_unset=True))
        config.write_text(
            "".join(
                f"[{section}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
                for section, values in tree.items()
            ),
            encoding="utf-8",
        )
        job_id = flink_client.submit(self.settings, "similarity", self.jobmanager, config)
        flink_client.wait_until_running(self.jobmanager, job_id)
        return job_id

    def counts(self) -> dict[str, int]:
        """Give the job's totals."""
        return sum_counts(self.store.hgetall(stats_key("similarity"))).total

    def apply(self, count: int, seed: int) -> dict[str, float]:
        """Send steps, wait until they stand, and give CPU seconds and wall seconds."""
        producer = Producer(
            {
                "bootstrap.servers": self.settings.kafka.bootstrap_servers,
                "compression.type": "lz4",
                "linger.ms": 20,
                "queue.buffering.max.messages": 2_000_000,
                "queue.buffering.max.kbytes": 2_000_000,
                "log_level": 0,
            }
        )
        before, store_before, start_s = self._cpu_s(), self._store_cpu_s(), time.monotonic()
        for number, delta in enumerate(session_steps(count, seed)):
            key = user_key(delta.tenant, delta.user_id)
            producer.produce(topics.SESSIONS.name, key=key, value=encode(delta))
            if not number % 10_000:
                producer.poll(0)
        producer.flush()
        self._sent += count
        while True:
            now = self.counts()
            if now.get("session_steps") == self._sent and now["contributions"] == now.get("applied"):
                break
            if time.monotonic() - start_s > 900:
                raise TimeoutError(f"after 900 s: {self._sent} steps were sent, there are {now}")
            time.sleep(0.2)
        return {
            "steps": count,
            "cpu_s": round(self._cpu_s() - before, 2),
            "store_cpu_s": round(self._store_cpu_s() - store_before, 2),
            "seconds": round(time.monotonic() - start_s, 1),
        }

    def thread_cpu_s(self) -> Counter[str]:
        """Give CPU seconds of the TaskManagers' threads, by the first 15 letters of their names (Linux)."""
        found: Any = Counter()
        for pid in self._taskmanagers():
            for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
                with suppress(OSError):  # a thread that has ended since
                    name, _, rest = stat.read_text(encoding="utf-8", errors="replace").rpartition(") ")
                    user, system = rest.split()[11:13]
                    name = name.partition("(")[2].partition("#")[0].partition(" (")[0]
                    ticks = int(user) + int(system)
                    found[re.sub(r"[^A-Za-z]+$", "", name)] += ticks / os.sysconf("SC_CLK_TCK")
        return found

    def _taskmanagers(self) -> list[int]:
        services = self.stack.status().services
        return [one.pid for one in services if one.name.startswith("taskmanager") and one.pid]

    def _cpu_s(self) -> float:
        return cpu_seconds(self._taskmanagers())

    def _store_cpu_s(self) -> float:
        used = self.store.info("cpu")
        return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def measure(settings: Settings, sizes: tuple[int, int]) -> dict[str, Any]:
    """Run the job on a fresh stack and give the figures."""
    bench = SimilarityBench(settings)
    bench.stack.up(tied=True)
    try:
        bench.submit()
        warm = bench.apply(sizes[0], seed=0)
        small = bench.apply(sizes[0], seed=1)
        before = bench.thread_cpu_s()
        large = bench.apply(sizes[1], seed=2)
        threads = bench.thread_cpu_s() - before
        totals = bench.counts()
        items = bench.store.hlen("similarity:items")
    finally:
        bench.stack.down(purge=True)
    steps = large["steps"] - small["steps"]
    return {
        "bench": "similarity",
        "cpu_us_per_step": round((large["cpu_s"] - small["cpu_s"]) / steps * 1e6, 1),
        "store_cpu_us_per_step": round((large["store_cpu_s"] - small["store_cpu_s"]) / steps * 1e6, 1),
        "contributions_per_step": round(totals["contributions"] / totals["session_steps"], 2),
        "items_written": items,
        "cpu_us_per_step_of_large_run": round(large["cpu_s"] / large["steps"] * 1e6, 1),
        "of_that_by_thread": {
            name: round(used / large["steps"] * 1e6, 1) for name, used in threads.most_common(MOST_THREADS)
        },
        "runs": [warm, small, large],
        "cores": os.cpu_count(),
    }


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="200000,800000", help="steps of the small and the large run")
    parser.add_argument("--out", type=Path, help="write the figures to this file too")
    given = parser.parse_args()
    small, large = (int(size) for size in given.sizes.split(","))
    with tempfile.TemporaryDirectory() as home:
        ports = free_ports()
        settings = load(
            environment={},
            stack={"home": home, **ports},
            kafka={"bootstrap_servers": f"127.0.0.1:{ports['kafka_port']}"},
            redis={"url": f"redis://127.0.0.1:{ports['redis_port']}/0"},
        )
        figures = measure(settings, (small, large))
    if given.out is not None:
        given.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures))


def free_ports() -> dict[str, int]:
    """Give a free port for each of the stack's."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in PORT_SETTINGS]
    ports = {name: each.getsockname()[1] for name, each in zip(PORT_SETTINGS, sockets, strict=True)}
    for each in sockets:
        each.close()
    return ports


if __name__ == "__main__":
    main()
