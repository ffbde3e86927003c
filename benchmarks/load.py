"""An open-loop load: events at a fixed rate, whether or not anyone keeps up.

`python -m benchmarks.load --rate 4000 --seconds 120` in a process of its own. An event's time is the moment at
which it was due, so a generator that falls behind shows in the freshness instead of hiding it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from clients.producer import EventProducer
from schemas.records import Event

SLICE_S = 0.01
LINGER_MS = 20
"""As a gateway would set it that sends for a whole shop: at 5 ms, the default for one server of many, requests of
20 events took the broker 15 CPU-us an event more."""
MIXES = {
    # Every event is ranked at once: the worst case.
    "click": (("click",), (1.0,)),
    # What a shop sees; views are ranked at most once a second and user.
    "shop": (("view", "click", "add_to_cart", "purchase"), (0.90, 0.07, 0.02, 0.01)),
}


def popular_items(model: Path) -> tuple[list[str], np.ndarray]:
    """Give a bundle's item ids and the probability of each, by popularity."""
    ids = json.loads((model / "item_ids.json").read_text(encoding="utf-8"))
    weights = np.load(model / "popularity.npy", allow_pickle=False).astype(np.float64) + 1.0
    return ids, weights / weights.sum()


def main() -> None:
    """Send the load and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", default="127.0.0.1:29092")
    parser.add_argument("--model", type=Path, required=True, help="a bundle, for its items")
    parser.add_argument("--rate", type=float, required=True, help="events a second")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--mix", choices=MIXES, default="click")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", default="load", help="first part of user ids")
    given = parser.parse_args()

    rng = np.random.default_rng(given.seed)
    items, weights = popular_items(given.model)
    total = int(given.rate * given.seconds)
    item_of = rng.choice(len(items), total, p=weights)
    user_of = rng.integers(0, given.users, total)
    types, shares = MIXES[given.mix]
    type_of = rng.choice(len(types), total, p=shares)
    sent, behind_ms = 0, 0.0
    with EventProducer(given.bootstrap, linger_ms=LINGER_MS) as producer:
        start_s = time.time() + 0.2
        while sent < total:
            due = min(total, int((time.time() - start_s) * given.rate))
            for number in range(sent, due):
                due_ms = int((start_s + number / given.rate) * 1000)
                event_type = types[type_of[number]]
                producer.send(
                    Event(
                        f"{given.name}-{due_ms}-{number}", event_type, "default",
                        f"{given.name}-{user_of[number]}", None, items[item_of[number]], due_ms, 0, None, (),
                        9.5 if event_type == "purchase" else None, None, {"device": "web"}, "personalization",
                    )
                )  # fmt: skip
            if due > sent:
                behind_ms = max(behind_ms, (time.time() - start_s - due / given.rate) * 1000)
            sent = max(sent, due)
            time.sleep(SLICE_S)
    seconds = time.time() - start_s
    result = {
        "events": sent,
        "events_per_s": round(sent / seconds, 1),
        "behind_ms_max": round(behind_ms, 1),
        "cpu_us_per_event": round(time.process_time() / sent * 1e6, 1),
    }
    json.dump(result, sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
