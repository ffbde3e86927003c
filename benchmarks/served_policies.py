"""What each served policy loses to the best source, on simulated users whose answers are known.

`python -m benchmarks.served_policies` prints JSON and keeps it in benchmarks/results/served_policies.json: clicks a
slot lost to the best fixed source over all rounds, with each user's own credits alone and with the shared posterior,
which is published every `PUBLISHED_EVERY` rounds. A list has four slots, and each slot is credited at once. And what
the probabilities cost.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from schemas.records import Credit, Posterior
from udfs.bandit import credit_arm
from udfs.bandits.credit_sums import CreditSums
from udfs.bandits.policy import SERVED
from udfs.bandits.shared_posterior import SharedPosterior
from udfs.bandits.shares import draw
from udfs.bandits.user_context import context_units
from udfs.ranking.play_shares import play_probabilities
from udfs.ranking.snapshot import Snapshot, decode_states
from udfs.user_state import EMPTY, PERSONALIZATION, SOURCES

RATES = (0.10, 0.04, 0.06, 0.16, 0.03)
"""Clicks a slot of each source, in the order of `SOURCES`: the ranker, which the prior trusts, is not the best."""
USERS, ROUNDS, SLOTS, PUBLISHED_EVERY = 60, 1_500, 4, 150
FLOOR = 0.02
SEEDS = 2
RESULTS = Path(__file__).with_name("results") / "served_policies.json"


def regret(policy: str, seed: int, shares: bool) -> float:
    """Return clicks a slot lost to the best fixed source, over all rounds.

    Parameters
    ----------
    policy
        One of `SERVED`.
    seed
        Of draws and answers.
    shares
        Whether users know what all users taught.
    """
    rng, rates = np.random.default_rng(seed), np.array(RATES)
    arms: list[tuple[bytes, bytes]] = [(b"", b"")] * USERS
    base = EMPTY._replace(consent=PERSONALIZATION, n_events=20, n_purchases=1)
    context = tuple(context_units(base.n_events, base.n_purchases).tolist())
    sums, lost = CreditSums(), 0.0
    shared: SharedPosterior | None = None
    for turn in range(ROUNDS):
        alpha, beta = arms[turn % USERS]
        state = base._replace(arm_alpha=alpha, arm_beta=beta).encode()
        states = decode_states([Snapshot("t/u", "t", "u", "v", 0, 1, state)])
        chances = play_probabilities(states, FLOOR, policy, [shared])[0]
        lost += float(chances @ (rates.max() - rates))
        for slot in range(SLOTS):
            arm = draw(chances, str(seed), 10 * turn + slot)
            reward = float(rng.random() < rates[arm])
            alpha, beta = credit_arm(alpha, beta, arm, reward)
            sums = sums.add([Credit("t", "u", "r", SOURCES[arm], reward, 0, "c", context)])
        arms[turn % USERS] = alpha, beta
        if shares and turn % PUBLISHED_EVERY == PUBLISHED_EVERY - 1:
            record = Posterior("t", turn, sums.credits, 0, sums.posterior(14.0))
            shared = SharedPosterior.of(record, SOURCES)
    return lost / ROUNDS


def cost_us(policy: str) -> float:
    """Return CPU-microseconds a user of 200, a third of whom have credits of their own."""
    states = []
    for number in range(200):
        alpha, beta = credit_arm(b"", b"", number % 5, 0.5) if number % 3 == 0 else (b"", b"")
        state = EMPTY._replace(consent=PERSONALIZATION, n_events=number, arm_alpha=alpha, arm_beta=beta)
        states.append(Snapshot("t/u", "t", "u", "v", 0, 1, state.encode()))
    columns, found = decode_states(states), []
    for _ in range(30):
        began_s = time.process_time()
        play_probabilities(columns, FLOOR, policy)
        found.append((time.process_time() - began_s) / len(states) * 1e6)
    return round(float(np.median(found)), 2)


def main() -> None:
    """Measure all policies."""
    found = {
        policy: {
            name: round(float(np.mean([regret(policy, seed, shares) for seed in range(SEEDS)])), 4)
            for name, shares in (("own credits alone", False), ("with the shared posterior", True))
        }
        for policy in SERVED
    }
    report = {
        "command": "python -m benchmarks.served_policies",
        "rates": dict(zip(SOURCES, RATES, strict=True)),
        "floor": FLOOR,
        "users": USERS,
        "lists": ROUNDS,
        "seeds": SEEDS,
        "least_by_floor": round(FLOOR * sum(max(RATES) - rate for rate in RATES), 4),
        "ranker_always": round(max(RATES) - RATES[0], 4),
        "clicks_a_slot_lost": found,
        "cpu_us_a_user": {policy: cost_us(policy) for policy in SERVED},
    }
    text = json.dumps(report, indent=2)
    RESULTS.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
