"""The figures of the whole job on one machine: throughput, cost, freshness, bytes and recovery.

A stack of its own (home `<stack.home>/bench`, emptied first) runs the real broker, store, cluster, job and model;
the load comes from another process on the same cores. Everything is read off what the job left behind:
`recs.served.v1` for times, the kernel's accounting for CPU, the store and the checkpoint for bytes.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import redis

from benchmarks.loaded_job import LoadedJob, Window
from flink_jobs.settings import Settings
from tailrace import flink_client, model_switch
from tailrace.connections import ensure_topics

FRESHNESS_S, STEP_S, RECOVERY_S, SLICE_S = 120.0, 40.0, 45.0, 10.0
WARM_UP_RATE = 2_500.0
"""Below what any machine sustains: the JVM compiles for two minutes (then it still takes a
tenth of a core), and a backlog from then would be measured later."""
FRESHNESS_RATE = 4_000.0
SUSTAINED_P99_MS = 2_000.0


class Load(NamedTuple):
    """What is sent.

    Attributes
    ----------
    mix
        Of `benchmarks.load`: ``click``, where every event is ranked at once, or ``shop``.
    warm_up_s
        Seconds at `WARM_UP_RATE` before anything is measured.
    """

    mix: str = "click"
    warm_up_s: float = 120.0


def percentiles(values: np.ndarray) -> dict[str, float]:
    """Give p50, p99 and p999."""
    return {
        name: round(float(np.percentile(values, at)), 1)
        for name, at in (("p50", 50), ("p99", 99), ("p999", 99.9))
    }


def p99_by_slice(window: Window) -> list[float]:
    """Give the p99 of each `SLICE_S` of event time, ms: a stall shows as a peak, a backlog as a slope."""
    freshness_ms = window.freshness_ms()
    slices = (window.event_ms - window.event_ms.min()) // int(SLICE_S * 1000)
    return [round(float(np.percentile(freshness_ms[slices == at], 99)), 1) for at in np.unique(slices)]


def run(
    settings: Settings,
    epoch: int,
    progress: Callable[[str], None],
    ladder: Sequence[float],
    load: Load = Load(),  # noqa: B008 - frozen
) -> dict[str, Any]:
    """Run the whole bench and return its figures.

    Parameters
    ----------
    settings
        The user's; the bench changes only `stack.home`.
    epoch
        Of the bundle to serve, `<model.root>/<epoch>`.
    ladder
        Rates to try for the throughput, events/s, rising; the first that is not held is the last.
    """
    home = settings.stack.home.resolve() / "bench"
    root = settings.model.root.resolve()
    settings = settings.model_copy(
        update={
            "stack": settings.stack.model_copy(update={"home": home}),
            "model": settings.model.model_copy(update={"root": root}),
        }
    )
    bench = LoadedJob(settings, root / str(epoch), progress, load.mix)
    bench.stack.down(purge=True)
    bench.stack.up(progress=progress, tied=True)
    try:
        return _measure(bench, settings, epoch, ladder, load.warm_up_s)
    finally:
        bench.stack.down()


def _measure(
    bench: LoadedJob, settings: Settings, epoch: int, rates: Sequence[float], warm_up_s: float
) -> dict[str, Any]:
    store = redis.Redis.from_url(settings.redis.url)
    ensure_topics(settings)
    job_id = flink_client.submit(settings, "recommend", bench.jobmanager)
    flink_client.wait_until_running(bench.jobmanager, job_id, progress=bench.progress)
    model_switch.activate(settings, epoch, wait=True, timeout_s=300.0, say=bench.progress)
    store_empty_bytes = int(store.info("memory")["used_memory"])

    bench.progress(f"warm-up: {WARM_UP_RATE:,.0f} events/s for {warm_up_s:.0f} s")
    bench.load(WARM_UP_RATE, warm_up_s)
    bench.progress(f"freshness: {FRESHNESS_RATE:,.0f} events/s for {FRESHNESS_S:.0f} s")
    steady = bench.load(FRESHNESS_RATE, FRESHNESS_S)
    freshness = percentiles(steady.freshness_ms())
    bench.progress(f"freshness {freshness} ms, generator {steady.load}")

    ladder = []
    for rate in rates:
        bench.progress(f"throughput: {rate:,.0f} events/s for {STEP_S:.0f} s")
        step = bench.load(rate, STEP_S)
        second_half = step.freshness_ms()[step.event_ms > step.event_ms.min() + STEP_S * 500]
        ladder.append(
            {
                "offered_events_per_s": step.load["events_per_s"],
                "rankings_per_s": round(len(step.event_ms) / STEP_S, 1),
                "p99_ms": round(float(np.percentile(second_half, 99)), 1),
                "cpu_us_per_event": round(step.cpu_s / step.load["events"] * 1e6, 1),
            }
        )
        bench.progress(str(ladder[-1]))
        if ladder[-1]["p99_ms"] > SUSTAINED_P99_MS:
            break
    steady_rankings = round(len(steady.event_ms) / FRESHNESS_S, 1)
    at_freshness_rate = {
        "offered_events_per_s": FRESHNESS_RATE,
        "rankings_per_s": steady_rankings,
        "p99_ms": freshness["p99"],
    }
    held = [step for step in (at_freshness_rate, *ladder) if step["p99_ms"] <= SUSTAINED_P99_MS]
    nothing = {"offered_events_per_s": None, "rankings_per_s": None}
    best = max(held, key=lambda step: step["offered_events_per_s"], default=nothing)

    users = sum(1 for _ in store.scan_iter("usr:rec:meta:*", count=10_000))
    store_bytes = int(store.info("memory")["used_memory"]) - store_empty_bytes
    state_bytes = _state_bytes(bench.jobmanager, job_id)
    bench.progress(f"recovery: kill -9 of a TaskManager under 1,000 events/s ({users:,} users in state)")
    recovery_s = _recovery_s(bench)
    return {
        "bench": "smoke",
        "mix": bench.mix,
        "warm_up_s": warm_up_s,
        "sustained_events_per_s": best["offered_events_per_s"],
        "rankings_per_s": best["rankings_per_s"],
        "cpu_us_per_event": round(steady.cpu_s / steady.load["events"] * 1e6, 1),
        "freshness_ms": freshness,
        "freshness_p99_by_10_s_ms": p99_by_slice(steady),
        "bytes_per_user": {"rocksdb": round(state_bytes / users), "redis": round(store_bytes / users)},
        "recovery_s": recovery_s,
        "users": users,
        "steady": {"offered_events_per_s": FRESHNESS_RATE, "rankings_per_s": steady_rankings},
        "generator": steady.load,
        "ladder": ladder,
        "cores": os.cpu_count(),
    }


def _state_bytes(jobmanager: str, job_id: str) -> int:
    """Give the size of the users' state in the newest checkpoint, all of its files."""
    deadline = time.monotonic() + 60
    vertices = flink_client.rest(jobmanager, f"/jobs/{job_id}")["vertices"]
    users = next(vertex["id"] for vertex in vertices if vertex["name"].startswith("users"))
    while time.monotonic() < deadline:
        newest = flink_client.rest(jobmanager, f"/jobs/{job_id}/checkpoints")["latest"]["completed"]
        if newest is not None:
            detail = flink_client.rest(jobmanager, f"/jobs/{job_id}/checkpoints/details/{newest['id']}")
            return int(detail["tasks"][users]["state_size"])
        time.sleep(1)
    raise TimeoutError("no checkpoint completed within 60 s")


def _recovery_s(bench: LoadedJob) -> float:
    """Kill a TaskManager and give the seconds until lists of newer events stood again."""
    killed_ms = 0

    def kill() -> None:
        nonlocal killed_ms
        time.sleep(10)
        killed_ms = time.time_ns() // 1_000_000
        os.kill(bench.pids()[0], signal.SIGKILL)

    window = bench.load(1_000.0, RECOVERY_S, meanwhile=kill)
    after = np.sort(window.served_ms[window.served_ms >= killed_ms])
    silent = np.diff(np.concatenate([[killed_ms], after]))
    return round(float(after[int(np.argmax(silent))] - killed_ms) / 1000, 1)
