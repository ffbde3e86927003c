"""What each rule of list policies loses to the best fixed one, on simulated lists, and what the draw costs.

`python -m benchmarks.list_policies` prints JSON and keeps it in benchmarks/results/list_policies.json: rewards a list
lost to the best fixed list policy, by a posterior that is published every `PUBLISHED_EVERY` lists. In one world all
users like the same policy, in the other buyers like another than newcomers, and the best policy is one for all.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import synthetic_shop
from schemas.records import Credit, Posterior
from udfs.bandits.credit_sums import CreditSums
from udfs.bandits.list_policy import ListPolicy
from udfs.bandits.policy import SERVED
from udfs.bandits.shared_posterior import SharedPosterior
from udfs.bandits.user_context import context_units
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.list_policies import apply_list_policies, draw_list_policies
from udfs.ranking.rank import RankSettings, rank_columns
from udfs.ranking.snapshot import Snapshot, decode_states
from udfs.user_state import EMPTY, LIST_POLICY, PERSONALIZATION, SOURCES

POLICIES = (
    ListPolicy("plain"),
    ListPolicy("spread", diversity=0.5),
    ListPolicy("loyal", sources=(2.0, 0.0, 0.0, 1.0, 0.0)),
)
WORLDS = {
    "one best for all": ((0.20, 0.28, 0.12), (0.20, 0.28, 0.12)),
    "buyers like another": ((0.20, 0.28, 0.12), (0.20, 0.12, 0.32)),
}
"""Probability that a list of each policy earns 1, of a newcomer and of a buyer."""
LISTS, PUBLISHED_EVERY, SEEDS = 6_000, 200, 4
FLOOR = 0.05
RESULTS = Path(__file__).with_name("results") / "list_policies.json"


def of_user(buyer: int) -> Snapshot:
    """Return a newcomer's snapshot, or a buyer's."""
    state = EMPTY._replace(consent=PERSONALIZATION, n_events=2 + 60 * buyer, n_purchases=20 * buyer)
    return Snapshot("t/u", "t", "u", "v", 0, 1, state.encode())


def lost(rule: str, rates: tuple[tuple[float, ...], ...], seed: int) -> tuple[float, float]:
    """Return rewards a list lost to the best fixed list policy: over all lists, and over the last third.

    Parameters
    ----------
    rule
        One of `SERVED`.
    rates
        Of `WORLDS`.
    seed
        Of draws and answers.
    """
    rng, truth = np.random.default_rng(seed), np.array(rates)
    both = decode_states([of_user(0), of_user(1)])
    contexts = [
        tuple(context_units(*pair).tolist())
        for pair in zip(both.n_events.tolist(), both.n_purchases.tolist(), strict=True)
    ]
    best = float(truth.mean(axis=0).max())
    sums, shared, losses = CreditSums(), None, []
    for turn in range(0, LISTS, PUBLISHED_EVERY):
        buyers = rng.integers(0, 2, PUBLISHED_EVERY)
        states = decode_states([of_user(buyer) for buyer in buyers.tolist()])
        seeds = rng.integers(0, 2**63, PUBLISHED_EVERY).astype(np.uint64)
        found = draw_list_policies(POLICIES, rule, FLOOR, states, [shared] * PUBLISHED_EVERY, seeds)
        losses.append(best - float((found.probabilities * truth[buyers]).sum(axis=1).mean()))
        rewards = rng.random(PUBLISHED_EVERY) < truth[buyers, found.drawn]
        sums = sums.add(
            Credit("t", "u", "r", LIST_POLICY + POLICIES[arm].name, float(reward), 0, "c", contexts[buyer])
            for arm, reward, buyer in zip(
                found.drawn.tolist(), rewards.tolist(), buyers.tolist(), strict=True
            )
        )
        record = Posterior("t", turn + 1, sums.credits, 0, sums.posterior(14.0))
        shared = SharedPosterior.of(record, SOURCES)
    return float(np.mean(losses)), float(np.mean(losses[-len(losses) // 3 :]))


def cost_us(rule: str, policies: tuple[ListPolicy, ...]) -> float:
    """Return CPU-microseconds a user of 200 different ones, for the draw and what follows from it."""
    users = [
        Snapshot(
            "t/u", "t", "u", "v", 0, 1, EMPTY._replace(consent=PERSONALIZATION, n_events=number).encode()
        )
        for number in range(200)
    ]
    states, seeds, plays = decode_states(users), np.arange(200, dtype=np.uint64), np.full((200, 5), 0.2)
    credits = [
        Credit("t", "u", "r", LIST_POLICY + POLICIES[n % 3].name, n % 3 / 9, 0, "c") for n in range(900)
    ]
    record = Posterior("t", 1, 900, 0, CreditSums().add(credits).posterior(14.0))
    shared, found = [SharedPosterior.of(record, SOURCES)] * 200, []
    for _ in range(60):
        began_s = time.process_time()
        drawn = draw_list_policies(policies, rule, FLOOR, states, shared, seeds).drawn
        apply_list_policies(policies, drawn, plays, 0.15, 0.01)
        found.append((time.process_time() - began_s) / len(users) * 1e6)
    return round(float(np.min(found)), 3)


def ranking_us(rules: Sequence[str]) -> dict[str, float]:
    """Return CPU-microseconds a user of a whole ranking without sessions: without list policies, and by each rule."""
    hows = {"off": RankSettings()} | {
        rule: RankSettings(list_policies=POLICIES, list_rule=rule, list_floor=FLOOR) for rule in rules
    }
    credits = [
        Credit("default", "u", "r", LIST_POLICY + POLICIES[n % 3].name, n % 3 / 9, 0, "c") for n in range(900)
    ]
    record = Posterior("default", 1, 900, 0, CreditSums().add(credits).posterior(14.0))
    shared = {"default": SharedPosterior.of(record, SOURCES)}
    laps: dict[str, list[float]] = {name: [] for name in hows}
    with tempfile.TemporaryDirectory() as folder:
        bundle = synthetic_shop.write(Path(folder) / "1", 4_000, 32)
        snapshots = synthetic_shop.snapshots(bundle.items, 100, np.random.default_rng(1))
        view = CatalogueView(bundle)
        for _ in range(100):
            for name, how in hows.items():  # by turns
                began_s = time.process_time()
                rank_columns(bundle, snapshots, view, how, None, shared)
                laps[name].append((time.process_time() - began_s) / len(snapshots) * 1e6)
    return {name: round(float(np.median(found)), 2) for name, found in laps.items()}


def main() -> None:
    """Measure all rules."""
    worlds = {}
    for world, rates in WORLDS.items():
        truth = np.array(rates)
        runs = {rule: np.array([lost(rule, rates, seed) for seed in range(SEEDS)]) for rule in SERVED}
        worlds[world] = {
            "rates": {policy.name: list(truth[:, at]) for at, policy in enumerate(POLICIES)},
            "drawn evenly": round(float(truth.mean(axis=0).max() - truth.mean()), 4),
            "best for each": round(float(truth.mean(axis=0).max() - truth.max(axis=1).mean()), 4),
            "rewards_a_list_lost": {
                rule: {
                    "all lists": round(float(found[:, 0].mean()), 4),
                    "last third": round(float(found[:, 1].mean()), 4),
                }
                for rule, found in runs.items()
            },
        }
    report = {
        "command": "python -m benchmarks.list_policies",
        "lists": LISTS,
        "published_every": PUBLISHED_EVERY,
        "floor": FLOOR,
        "seeds": SEEDS,
        "worlds": worlds,
        "cpu_us_a_user": {"off": cost_us("thompson", ())}
        | {rule: cost_us(rule, POLICIES) for rule in SERVED},
        "ranking_cpu_us_a_user": ranking_us(SERVED),
    }
    text = json.dumps(report, indent=2)
    RESULTS.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
