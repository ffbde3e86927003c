"""What one event costs in the keyed step, part by part, on one thread.

Usage: ``python -m benchmarks.user_logic [--json]``. Figures are CPU microseconds, the least of several
rounds: a busy machine shows up as cache misses, not as waiting.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from schemas.codec import Codec, encode
from schemas.ids import category_hash, item_hash
from schemas.records import Event, EventItem
from schemas.validation import effective_time, validate_event
from udfs.bandit import arm_probabilities_batch
from udfs.item_factors import ItemFactors, fold_in_rows
from udfs.user_logic import LogicSettings, Position, UserLogic
from udfs.user_state import UserState

EPOCH = 1
_CATEGORIES = 60
DAY_MS = 86_400_000
START_MS = 1_700_000_000_000
SHOP_MIX = ("view",) * 90 + ("click",) * 7 + ("add_to_cart",) * 2 + ("purchase",)


def simulated_model(items: int, dim: int) -> tuple[list[str], ItemFactors]:
    """Return item ids in row order and a model of random vectors."""
    rng = np.random.default_rng(0)
    ids = sorted((f"item-{number}" for number in range(items)), key=item_hash)
    factors = (0.3 * rng.normal(size=(items, dim))).astype(np.float32)
    category = [category_hash(f"category-{row % _CATEGORIES}") for row in range(items)]
    return ids, ItemFactors(
        np.array([item_hash(item) for item in ids], np.uint64),
        factors,
        factors.T @ factors,
        np.array(category, np.uint32),
    )


def shopper(ids: list[str], user: str, days: int, active: float, seed: int) -> Iterator[Event]:
    """Yield a user's events in time order: sessions of 1 to 8 events, with ten items shown.

    Seven items in ten are of the user's five favourite categories (every 60th item, as the ids come).

    Parameters
    ----------
    active
        Probability of a session on a day.
    """
    rng = np.random.default_rng(seed)
    favourites = rng.integers(0, _CATEGORIES, 5)
    for day in range(days):
        if rng.random() >= active:
            continue
        at_ms = START_MS + day * DAY_MS + int(rng.integers(0, DAY_MS // 2))
        rec_id = f"{user}-{day}"
        shown = tuple(EventItem(str(item), place) for place, item in enumerate(rng.choice(ids, 10)))
        for number in range(int(rng.integers(1, 9)) + 1):
            kind = str(rng.choice(SHOP_MIX)) if number else "impression"
            yield Event(
                f"{rec_id}-{number}",
                kind,
                "default",
                user,
                None,
                _choose(rng, ids, favourites) if number else None,
                at_ms + number * 40_000,
                at_ms + number * 40_000 + 200,
                None if number else rec_id,
                () if number else shown,
                19.9 if kind == "purchase" else None,
                None,
                {"device": "phone"},
                "personalization",
            )


def _choose(rng: np.random.Generator, ids: list[str], favourites: NDArray[np.int64]) -> str:
    if rng.random() < 0.7:
        return str(rng.choice(ids[int(rng.choice(favourites)) :: _CATEGORIES]))
    return str(rng.choice(ids))


def simulated_state_bytes(users: int, seed: int) -> list[int]:
    """Return the bytes of each simulated shopper's state after three months."""
    ids, model = simulated_model(items=2_000, dim=32)
    logic = UserLogic(LogicSettings(), {EPOCH: model})
    sizes = []
    for user in range(users):
        state = None
        for offset, event in enumerate(shopper(ids, f"u{user}", 90, 0.03, seed * 100_000 + user)):
            state = logic.on_event(state, event, event.event_time, Position(0, offset), EPOCH).state
        if state is not None:
            sizes.append(len(logic.refresh_embedding(state, EPOCH).encode()))
    return sizes


def least_us(work: Callable[[], object], units: int, rounds: int = 9) -> float:
    """Return the least CPU microseconds a unit over some rounds; the first, which compiles, is left out."""
    work()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return round(min(times) / units * 1e6, 2)


def figures(events: int = 3_000, items: int = 40_000, dim: int = 32) -> dict[str, float]:
    """Return name → CPU microseconds a unit."""
    ids, model = simulated_model(items, dim)
    logic = UserLogic(LogicSettings(), {EPOCH: model})
    mix = [event for event in shopper(ids, "u", 2_000, 1.0, 7) if event.event_type != "impression"][:events]
    blobs = [encode(event) for event in mix]
    codec = Codec({})
    position = Position(0, 1)
    states: list[UserState] = []

    def steps() -> None:
        state: UserState | None = None
        states.clear()
        for event in mix:
            state = logic.on_event(state, event, event.event_time, position, EPOCH).state
            if state is not None:
                states.append(state)

    def whole_step() -> None:
        data: bytes | None = None
        for blob in blobs:
            event = codec.decode_event(blob, 65_536)
            validate_event(event, "default/u")
            at_ms, _ = effective_time(event)
            state = None if data is None else UserState.decode(data)
            step = logic.on_event(state, event, at_ms, position, EPOCH)
            data = None if step.state is None else step.state.encode()

    result = {"on_event, shop mix": least_us(steps, len(mix))}
    encoded = [state.encode() for state in states]
    full = states[-1]
    result["state bytes of that user"] = len(encoded[-1])
    result["decode state"] = least_us(lambda: [UserState.decode(data) for data in encoded], len(encoded))
    result["encode state"] = least_us(lambda: [state.encode() for state in states], len(states))
    result["decode event (Avro)"] = least_us(
        lambda: [codec.decode_event(b, 65_536) for b in blobs], len(blobs)
    )
    result["validate event"] = least_us(lambda: [validate_event(e, "default/u") for e in mix], len(mix))
    result["whole step: decode event, validate, decode, on_event, encode"] = least_us(whole_step, len(mix))
    for kind in ("view", "click", "add_to_cart", "purchase", "search", "rating"):
        event = mix[-1]._replace(event_id="one more", event_type=kind, event_time=mix[-1].event_time + 1_000)
        result[f"on_event, {kind}, same item"] = least_us(
            lambda event=event: [  # type: ignore[misc]
                logic.on_event(full, event, event.event_time, position, EPOCH) for _ in range(2_000)
            ],
            2_000,
        )
    result["refresh_embedding, d=32"] = least_us(
        lambda: [logic.refresh_embedding(full, EPOCH) for _ in range(200)], 200
    )
    for width in (32, 64):
        _, wide = simulated_model(items, width)
        result[f"fold_in_rows, 50 items, d={width}, batch of 100"] = least_us(_fold(wide), 100)
    alpha, beta = np.random.default_rng(0).uniform(1, 90, (2, 100, 5))
    result["arm_probabilities_batch, 5 arms, batch of 100"] = least_us(
        lambda: arm_probabilities_batch(alpha, beta, 0.01), 100
    )
    return result


def _fold(model: ItemFactors) -> Callable[[], object]:
    rng = np.random.default_rng(1)
    rows = rng.integers(0, len(model.hashes), 5_000)
    weights = rng.choice(np.array([1, 1, 3, 5], np.float32), 5_000)
    offsets = np.arange(0, 5_001, 50)
    return lambda: fold_in_rows(
        model.factors, model.gram, rows, weights, offsets, model.alpha, model.regularization
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="CPU microseconds of the keyed step, part by part")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args()
    report = {
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
        "median state bytes": statistics.median(simulated_state_bytes(200, 1)),
        "cpu_us": figures(),
    }
    if arguments.json:
        print(json.dumps(report, indent=1))
        return
    for name, value in report["cpu_us"].items():  # type: ignore[attr-defined]
        print(f"{value:8.2f}  {name}")
    print(f"load {report['load']}; median state {report['median state bytes']} bytes")


if __name__ == "__main__":
    main()
