"""What the sequence source costs a ranking: the network's pass over 20 items, and the search among those it knows.

Usage: ``python -m benchmarks.sequence_network [--items 4000,8000] [--width 64] [--json] [--out FILE]``. Weights are
drawn, not trained: their cost is the same. CPU microseconds a user on one thread, the least of several rounds, and
the same of everything before the ranker, with the source and without.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import synthetic_shop
from model_export.gru import GruWeights, gru_graph
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.onnx_ranker import CPU
from udfs.ranking.prepare import prepare
from udfs.ranking.rank_settings import RankSettings
from udfs.ranking.retrieval import find_history
from udfs.ranking.sequence_network import SequenceNetwork
from udfs.ranking.sequence_source import SCORED_BY_SEQUENCE, find_by_sequence, read_tokens
from udfs.ranking.snapshot import decode_states

SHARE, ROUNDS = 0.10, 15


def drawn_network(items: int, known: int, width: int, seed: int = 0) -> SequenceNetwork:
    """Return a network that nobody trained, of the first `known` of `items` items."""
    rng = np.random.default_rng(seed)
    shapes = (known + 1, width), (3 * width, width), (3 * width, width), (3 * width,), (3 * width,)
    weights = GruWeights(*((0.1 * rng.standard_normal(shape)).astype(np.float32) for shape in shapes))
    weights.table[0] = 0.0
    return SequenceNetwork(
        gru_graph(weights), np.arange(known, dtype=np.int32), weights.table[1:], items, CPU
    )


def least_us(run: Callable[[], object], users: int) -> float:
    """Return CPU microseconds a user of a call that is about so many."""
    run()
    costs = []
    for _ in range(ROUNDS):
        began = time.process_time()
        run()
        costs.append(time.process_time() - began)
    return round(min(costs) / users * 1e6, 1)


def figures(folder: Path, items: int, users: int, width: int) -> dict[str, float]:
    """Return the costs for a shop of so many items, all of them known."""
    bundle = synthetic_shop.write(folder / str(items), items, 32)
    network = drawn_network(items, items, width)
    model = replace(bundle.items.settings, weight_sequence=0.2, share_sequence=SHARE, share_embedding=0.2)
    index = replace(bundle.items, settings=model, sequence=network)
    plain = replace(bundle.items, settings=model)
    shots = synthetic_shop.snapshots(bundle.items, users, np.random.default_rng(1))
    states = decode_states(shots)
    history = find_history(index, states)
    view, plain_view, settings = CatalogueView(index), CatalogueView(plain), RankSettings()
    tokens, lengths = read_tokens(states, history, network.tokens)
    most = SCORED_BY_SEQUENCE * int(settings.candidates * SHARE)
    return {
        "items": items,
        "read_items": round(float(lengths.mean()), 1),
        "network_cpu_us": least_us(lambda: network.states(tokens, lengths), users),
        "source_cpu_us": least_us(
            lambda: find_by_sequence(network, states, history, view.allowed, most), users
        ),
        "without_cpu_us": least_us(lambda: prepare(plain, shots, plain_view, settings, 1), users),
        "with_cpu_us": least_us(lambda: prepare(index, shots, view, settings, 1), users),
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", default="4000,8000", help="sizes, with commas")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--users", type=int, default=96, help="ranked in one batch")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--out", type=Path, help="write the JSON here too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sizes = [
            figures(Path(folder), int(n), arguments.users, arguments.width)
            for n in arguments.items.split(",")
        ]
    report = {
        "bench": "sequence_network",
        "width": arguments.width,
        "batch": arguments.users,
        "sizes": sizes,
    }
    text = json.dumps(report, indent=1)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    if arguments.json:
        print(text)
        return
    for size in sizes:
        print(", ".join(f"{name} {value}" for name, value in size.items()))


if __name__ == "__main__":
    main()
