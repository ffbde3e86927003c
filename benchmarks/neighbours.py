"""What next-item ranking costs a session, part by part, on simulated clicks at two sizes of the index.

Usage: ``python -m benchmarks.neighbours [--clicks 200000,800000] [--json] [--out FILE]``. One thread; the least CPU
time over rounds of the same sessions. An item's ring is full after 256 sessions, so the cost should hardly rise.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np

from benchmarks.user_logic import least_us
from udfs.neighbours.scan_arrays import Queries
from udfs.online.ranker_learning import Lists, click_probabilities, scored_gradient
from udfs.online.session_ranker import SessionRanker

ITEMS, CLICKS_A_SESSION, AT_ONCE = 43_000, 4.9, 400
ASKED = 64


def simulated_clicks(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Queries]:
    """Return session keys, items and the session before each click: sessions of geometric length, mixed.

    Two in three clicks stay in the department (200 items) of the session's first; items follow a power law.
    """
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, ITEMS + 1) ** 0.8
    popular = rng.choice(ITEMS, count, p=weights / weights.sum())
    keys, items = np.zeros(count, np.uint64), np.zeros(count, np.int32)
    running: list[tuple[int, int, list[int]]] = []
    opened = 0
    flat: list[int] = []
    start, stop = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for at, place in enumerate(rng.integers(0, AT_ONCE, count).tolist()):
        while len(running) < AT_ONCE:
            running.append((opened, int(rng.geometric(1 / CLICKS_A_SESSION)), []))
            opened += 1
        key, length, before = running[place]
        item = int(popular[at])
        if before and item % 3:
            item = before[0] // 200 * 200 + item % 200
        keys[at], items[at] = key, min(item, ITEMS - 1)
        start[at] = len(flat)
        flat += before
        stop[at] = len(flat)
        before.append(int(items[at]))
        if len(before) >= length:
            running.pop(place)
    return keys, items, Queries(np.array(flat, np.int32), start, stop, keys)


def figures(clicks: int) -> dict[str, float]:
    """Return name → CPU microseconds a session, after so many clicks."""
    keys, items, queries = simulated_clicks(clicks + 20_000)
    ranker = SessionRanker(ITEMS)
    ranker.index.observe_all(keys[:clicks], items[:clicks])
    late = np.arange(clicks, clicks + 20_000)
    asked = late[queries.stop[late] > queries.start[late]][:ASKED]
    part = Queries(queries.items, queries.start[asked], queries.stop[asked], keys[asked])
    candidates = ranker.index.query(part, ranker.settings.candidates)
    features = ranker.features(candidates, part)
    scores, hidden = ranker.learner.weights.scores_and_hidden(features)
    probabilities = click_probabilities(scores, candidates.counts)
    lists = Lists(features, candidates.counts, np.zeros(len(asked), np.int32))
    gradient = scored_gradient(ranker.learner.weights, lists, hidden, scores, probabilities)
    settings = ranker.settings.embeddings
    twice = np.resize(asked, settings.batch)  # one step on new clicks, and its replays
    taught = Queries(queries.items, queries.start[twice], queries.stop[twice], keys[twice])
    whole = Queries(queries.items, queries.start[late], queries.stop[late], keys[late])
    predicted = int((whole.stop > whole.start).sum())
    return {
        "scan": least_us(lambda: ranker.index.query(part, ranker.settings.candidates), len(asked)),
        "features": least_us(lambda: ranker.features(candidates, part), len(asked)),
        "scores": least_us(lambda: ranker.learner.weights.scores(features), len(asked)),
        "gradient": least_us(
            lambda: scored_gradient(ranker.learner.weights, lists, hidden, scores, probabilities), len(asked)
        ),
        "step of the weights": least_us(lambda: ranker.learner.apply(gradient), len(asked)),
        "item vectors learn": least_us(lambda: ranker.embeddings.learn(taught, items[twice]), len(twice)),
        "predict": least_us(lambda: ranker.predict(part), len(asked)),
        "predict and learn": least_us(lambda: ranker.predict_and_learn(whole, items[late]), predicted),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="CPU microseconds of next-item ranking, part by part")
    parser.add_argument("--clicks", default="200000,800000", help="clicks in the index: two sizes")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--out", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.clicks.split(",")]
    report = {
        "load": round(os.getloadavg()[0], 1),
        "sessions asked at once": ASKED,
        "cpu_us": {str(size): figures(size) for size in sizes},
    }
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if arguments.json:
        print(json.dumps(report))
        return
    print(f"{'clicks in the index':<24}" + "".join(f"{size:>12,}" for size in sizes))
    by_size = list(report["cpu_us"].values())  # type: ignore[attr-defined]
    for name in by_size[0]:
        print(f"{name:<24}" + "".join(f"{found[name]:>12.1f}" for found in by_size))


if __name__ == "__main__":
    main()
