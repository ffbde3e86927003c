"""What a record of feedback costs in the keyed step, decoding and a user's state read and written included.

Usage: ``python -m benchmarks.feedback [--json]``. CPU microseconds on one thread, the least of some rounds, by kind
of record; a list pays for settling older ones. One user a batch, so a live micro-batch costs less. Nothing here says
that the join is right.
"""

import argparse
import json
import os
import time
from typing import NamedTuple

import numpy as np

from schemas.codec import Codec, encode
from schemas.records import Event, EventItem, ServedItem, ServedList
from schemas.validation import effective_time, validate_event
from udfs.feedback.feedback_logic import FeedbackLogic
from udfs.feedback.feedback_state import FeedbackState

START_MS, MINUTE_MS, DAY_MS = 1_700_000_000_000, 60_000, 86_400_000
SNAPSHOT_BYTES = 700
ROUNDS = 3


class Sent(NamedTuple):
    """A record as it stands in its topic; `kind` is the event's type, or `list`."""

    at_ms: int
    key: str
    kind: str
    value: bytes


def log(users: int, days: int, seed: int) -> list[Sent]:
    """Return a shop's records in order of time: six lists a user and day, eight views each, one click in five."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(users * days * 6):
        user, visit = f"u{number % users}", number // users
        at_ms = START_MS + visit * DAY_MS // 6 + int(rng.integers(10 * MINUTE_MS))
        slots = tuple(
            ServedItem(f"item-{item}", 0.5, ("ranker", "popular")[item % 2], 0.9)
            for item in rng.permutation(200)[:10].tolist()
        )
        served = ServedList(
            f"r{number}",
            "default",
            user,
            "v",
            at_ms,
            at_ms,
            1,
            "m",
            "default",
            1,
            slots,
            bytes(SNAPSHOT_BYTES),
        )
        made.append(Sent(at_ms, f"default/{user}", "list", encode(served)))
        shown = tuple(EventItem(slot.item_id, place) for place, slot in enumerate(slots))
        made.append(_event(number, user, "impression", at_ms + 1_000, None, f"r{number}", shown))
        made += [
            _event(number * 10 + view, user, "view", at_ms + 2_000 + view, "item-1", None, ())
            for view in range(8)
        ]
        if rng.random() < 0.2:
            made.append(_event(number, user, "click", at_ms + 9_000, slots[0].item_id, f"r{number}", ()))
    return sorted(made)


def _event(
    number: int,
    user: str,
    kind: str,
    at_ms: int,
    item: str | None,
    rec: str | None,
    items: tuple[EventItem, ...],
) -> Sent:
    event = Event(
        f"{kind}-{number}", kind, "default", user, None, item, at_ms, at_ms, rec, items, None, None, {},
        "personalization",
    )  # fmt: skip
    return Sent(at_ms, f"default/{user}", kind, encode(event))


def run(records: list[Sent]) -> tuple[dict[str, float], float]:
    """Return CPU microseconds a record by kind, and the mean bytes of a user at the end."""
    logic, codec = FeedbackLogic(), Codec({})
    states: dict[str, bytes] = {}
    spent: dict[str, list[int]] = {}
    for at_ms, key, kind, value in records:
        began_ns = time.thread_time_ns()
        clock_ms = at_ms - 1_000
        if kind == "view":  # that names no list: the shell looks no further
            validate_event(codec.decode_event(value), key)
            spent.setdefault(kind, []).append(time.thread_time_ns() - began_ns)
            continue
        data = states.get(key)
        state = None if data is None else FeedbackState.decode(data)
        if kind == "list":
            step = logic.on_list(state, codec.decode("ServedList", value), clock_ms)  # type: ignore[arg-type]
        else:
            event = codec.decode_event(value)
            validate_event(event, key)
            step = logic.on_event(state, event, effective_time(event)[0], clock_ms)
        for made in (*step.examples, *step.credits):
            encode(made)
        if step.state is not None:
            states[key] = step.state.encode()
        spent.setdefault(kind, []).append(time.thread_time_ns() - began_ns)
    cost = {kind: float(np.mean(times)) / 1_000 for kind, times in spent.items()}
    cost["all"] = sum(map(sum, spent.values())) / 1_000 / len(records)
    return cost, sum(map(len, states.values())) / len(states)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="CPU microseconds of a record of feedback")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args()
    records = log(users=50, days=5, seed=0)
    rounds = [run(records) for _ in range(ROUNDS)]
    cost = {kind: round(min(one[kind] for one, _ in rounds), 1) for kind in rounds[0][0]}
    report = {
        "load": round(os.getloadavg()[0], 1),
        "records": len(records),
        "state bytes a user": round(rounds[0][1]),
    }
    if arguments.json:
        print(json.dumps({**report, "cpu_us": cost}))
        return
    for kind, value in cost.items():
        print(f"{value:8.1f}  {kind}")
    print(", ".join(f"{name} {value:,}" for name, value in report.items()))


if __name__ == "__main__":
    main()
