"""What it costs to rank one user, stage by stage, on one thread, without Redis and Avro.

Usage: ``python -m benchmarks.ranking [--json] [--items 4000] [--users 100] [--content] [--rules] [--arrivals 0]``.
Figures are CPU microseconds a user, the least of several rounds: a busy machine shows up as cache misses, not as
waiting.
"""

import argparse
import json
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import synthetic_shop
from model_export.train_settings import SHARE_RULES, WEIGHT_RULES
from udfs.model.bundle import Bundle
from udfs.ranking.candidates import RULES, SESSIONS, quota
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.exploration import fill_slots, list_seed
from udfs.ranking.feature_kernel import compute_features
from udfs.ranking.first_stage import pick_finalists
from udfs.ranking.item_index import ItemIndex, frozen
from udfs.ranking.item_links import ItemLinks
from udfs.ranking.live_sessions import LiveSessions, one_session
from udfs.ranking.play_shares import play_probabilities
from udfs.ranking.prepare import find_content
from udfs.ranking.rank import RankSettings, rank_batch
from udfs.ranking.retrieval import find_history, retrieve
from udfs.ranking.rule_source import SCORED_BY_RULES, find_by_rules
from udfs.ranking.snapshot import Snapshot, decode_states

GOAL_US = 110.0

RULES_PER_ITEM = 20
ROUNDS = 200


def figures(
    bundle: Bundle,
    snapshots: list[Snapshot],
    sessions: LiveSessions,
    settings: RankSettings,
    catalogue: CatalogueView,
) -> dict[str, float]:
    """Return CPU microseconds a user of every stage, and of all of `rank_batch`.

    Stages run one after the other as in `rank_batch`, so that each finds the caches as the one before left them;
    ``rest`` is what `rank_batch` does beside them: seeds, the rules' check, making the lists.
    """
    users, index = len(snapshots), catalogue.index
    seeds = np.array([list_seed(one.key, one.version, bundle.epoch) for one in snapshots], np.uint64)
    most = quota(index, SESSIONS, settings.candidates)
    laps: dict[str, list[float]] = {}
    started = 0.0

    def lap(name: str) -> None:
        nonlocal started
        now = time.process_time()
        laps.setdefault(name, []).append(now - started)
        started = time.process_time()

    for _ in range(ROUNDS):
        started = time.process_time()
        states = decode_states(snapshots)
        lap("decode")
        history = find_history(index, states)
        lap("history")
        live = sessions.find(index, snapshots, states, catalogue.allowed, most)
        lap("sessions")
        content = find_content(index, history, catalogue.allowed, settings.candidates)
        if content is not None:
            lap("content")
        rules = None
        if index.rules is not None:
            limit = SCORED_BY_RULES * quota(index, RULES, settings.candidates)
            rules = find_by_rules(index.rules, history, catalogue.allowed, limit)
            lap("rules")
        candidates = retrieve(
            index,
            states,
            history,
            live,
            catalogue.allowed,
            settings.candidates,
            settings.rebuy_after_ms,
            content=content,
            rules=rules,
        )
        lap("retrieval")
        finalists = pick_finalists(index, candidates, settings.finalists)
        lap("first_stage")
        features = compute_features(index, states, history, candidates, finalists, catalogue.price_log)
        lap("features")
        scores = bundle.ranker.score(features, settings.finalists)
        lap("ranker")
        probabilities = play_probabilities(states, settings.exploration_floor)
        lap("arm_probabilities")
        fill_slots(
            scores,
            index.columns.category,
            candidates,
            finalists,
            probabilities,
            seeds,
            settings.diversity,
            settings.list_size,
        )
        lap("slots")
    del states, history, candidates, finalists, features, scores, probabilities
    for _ in range(ROUNDS):
        started = time.process_time()
        rank_batch(bundle, snapshots, catalogue, settings, sessions)
        lap("total")
    least = {name: min(times) / users * 1e6 for name, times in laps.items()}
    total = least.pop("total")
    return least | {"rest": total - sum(least.values()), "total": total}


def learn_sessions(bundle: Bundle, count: int, rng: np.random.Generator) -> tuple[LiveSessions, float]:
    """Return a source that has learnt sessions of near items, the popular ones more often, and CPU-us a click."""
    n = len(bundle.items)
    first = np.minimum(rng.exponential(n / 8, (count, 1)), n - 1).astype(np.int64)
    rows = (first + rng.integers(0, 40, (count, 5))) % n
    hashes = bundle.items.columns.hashes[bundle.items.columns.popular_order[rows]].ravel()
    keys = np.repeat(rng.integers(0, 2**63, count).astype(np.uint64), 5)
    one_session(bundle.items)  # compiles
    live, started = LiveSessions(), time.process_time()
    for at in range(0, len(keys), 500):
        live.observe(keys[at : at + 500], hashes[at : at + 500])
    return live, (time.process_time() - started) / len(keys) * 1e6


def with_rules(index: ItemIndex, rng: np.random.Generator) -> ItemIndex:
    """Return an index in which each item is followed by 20 others, drawn: their cost is that of rules learnt."""
    n = len(index)
    steps = 1 + rng.permutation(n - 1)[:RULES_PER_ITEM]
    table = ItemLinks(
        np.arange(n + 1, dtype=np.int64) * RULES_PER_ITEM,
        ((np.arange(n)[:, None] + steps) % n).astype(np.int32).ravel(),
        np.tile(np.linspace(0.2, 0.01, RULES_PER_ITEM, dtype=np.float32), n),
    )
    share = index.settings.share_embedding - SHARE_RULES
    settings = replace(
        index.settings, weight_rules=WEIGHT_RULES, share_rules=SHARE_RULES, share_embedding=share
    )
    return replace(index, settings=settings, rules=ItemLinks(*(frozen(value) for value in table)))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=4_000)
    parser.add_argument("--dimension", type=int, default=32)
    parser.add_argument("--users", type=int, default=100, help="ranked in one batch")
    parser.add_argument("--sessions", type=int, default=40_000, help="of others, five items each")
    parser.add_argument("--content", action="store_true", help="a bundle with a vocabulary")
    parser.add_argument("--rules", action="store_true", help="a bundle with sequential rules")
    parser.add_argument("--arrivals", type=int, default=0, help="new items that joined it")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = synthetic_shop.write(
            Path(folder) / "1", arguments.items, arguments.dimension, with_content=arguments.content
        )
        if arguments.rules:
            bundle = replace(bundle, items=with_rules(bundle.items, np.random.default_rng(4)))
        catalogue = CatalogueView(bundle, arguments.arrivals)
        for item in synthetic_shop.arrivals(arguments.arrivals, np.random.default_rng(3)):
            catalogue.apply(item)
        started = time.process_time()
        catalogue.settle()
        joining_ms = (time.process_time() - started) * 1e3
        snapshots = synthetic_shop.snapshots(bundle.items, arguments.users, np.random.default_rng(1))
        sessions, learning_us = learn_sessions(bundle, arguments.sessions, np.random.default_rng(2))
        costs = figures(bundle, snapshots, sessions, RankSettings(), catalogue)
    report = {
        "items": arguments.items,
        "dimension": arguments.dimension,
        "batch": arguments.users,
        "vocabulary": arguments.content,
        "rules": arguments.rules,
        "arrivals": len(catalogue.index) - len(bundle.items),
        "joining_ms": round(joining_ms, 2),
        "provider": bundle.ranker.provider,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "goal_us": GOAL_US,
        "learn_a_click_us": round(learning_us, 2),
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
