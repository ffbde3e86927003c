"""A fleet of simulated devices that learn one head: honest, late, repeated, broken and greedy ones.

Everything is drawn from a seed. A wave is what comes while one version is the newest, and fills one cohort exactly:
so the versions do not depend on the order in which brokers and windows deliver a wave, and a plain run of the same
logic over the same arrivals says what a job must publish, to the bit.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import inf, sqrt
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clients.edge.examples import Examples
from clients.edge.logistic_head import LogisticHead, sigmoid
from schemas.codec import encode
from schemas.ids import user_key
from schemas.records import EdgeModel, EdgeUpdate
from schemas.refusal import Refused
from udfs.federate.audit import PlainRun, device_update
from udfs.federate.ledger import BudgetLogic
from udfs.federate.line_settings import LineSettings
from udfs.federate.release import Seed
from udfs.privacy.gaussian import compose, epsilon_of
from udfs.privacy.quantise import WIDTHS
from udfs.privacy.terms import Mode

EXAMPLES_PER_DEVICE: Final = 20
TEST_EXAMPLES: Final = 20_000
HOT_SHARE: Final = 0.02
"""Of a cohort: users who contribute to every version, and go on when their budget is spent."""
GREEDY_VERSIONS: Final = 3.5
"""How many contributions the budget of a user holds."""
OVERSIZED_BYTES: Final = 1_500_000


class Arrival(NamedTuple):
    """One record for `edge.updates.v1`."""

    key: str
    value: bytes


@dataclass
class FleetCounts:
    """What was sent and what must become of it.

    Attributes
    ----------
    sent
        Arrivals by what they are.
    refused
        Reason to count, as the plain run refuses.
    spent
        User key to the mu of every contribution that was let through.
    """

    sent: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    spent: dict[str, list[float]] = field(default_factory=dict)


class Fleet:
    """Devices, their data, and the plain run beside them.

    Parameters
    ----------
    line
        What they learn.
    clients
        How many devices, one a user.
    seed
        Of everything that is drawn here.
    noise
        What the job makes its noise with.
    name
        Prefix of users' names, to keep two fleets apart.
    dropout, late, repeated
        Share of devices that train and never send, send behind later versions, and send again.
    """

    def __init__(
        self,
        line: LineSettings,
        clients: int,
        seed: int,
        noise: Seed,
        *,
        name: str = "fleet",
        dropout: float = 0.05,
        late: float = 0.08,
        repeated: float = 0.3,
    ) -> None:
        self.line = line
        self.counts = FleetCounts()
        self._name = name
        self._rng = np.random.default_rng(seed)
        self._shares = (dropout, late, repeated)
        self._key = self._rng.bytes(32)
        self._truth = self._rng.standard_normal(line.dimension) * (3.0 / sqrt(line.dimension))
        self._trainer = LogisticHead(epochs=3, learning_rate=1.0, l2=0.0)
        self._clients = self._rng.permutation(clients).tolist()
        self._next = 0
        self._late: list[tuple[int, EdgeUpdate]] = []  # wave in which it arrives, and the update
        self._again: list[EdgeUpdate] = []
        self._test = self._examples(TEST_EXAMPLES)
        self.budget_epsilon = budget_of(line)
        self._logic = BudgetLogic({line.name: line}, self.budget_epsilon, line.delta, 1 << 50)
        self.plain = PlainRun(line, noise, self._logic, self.budget_epsilon)

    def wave(self, model: EdgeModel) -> tuple[list[Arrival], EdgeModel]:
        """Give what arrives while `model` is the newest version, and the version that must follow."""
        weights = np.frombuffer(model.weights, "<f8")
        arrivals: list[Arrival] = []
        again, self._again = self._again, []
        due = [update for wave, update in self._late if wave <= model.version]
        self._late = [(wave, update) for wave, update in self._late if wave > model.version]
        hot = int(HOT_SHARE * self.line.cohort_size)
        queue: list[tuple[str, EdgeUpdate]] = [("repeat", update) for update in again]
        queue += [("late", update) for update in due]
        queue += [("hot", self._update(f"hot-{n}", model, weights)) for n in range(hot)]
        released: EdgeModel | None = None
        while released is None:
            if not queue:
                arrivals += self._broken(model, weights) if self._rng.random() < 0.02 else []
                queue = self._fresh(model, weights)
                continue
            kind, update = queue.pop(0)
            self.counts.sent[kind] += 1
            arrivals.append(_arrival(update))
            released = self._take(update) or released
            if kind != "repeat" and self._rng.random() < self._shares[2]:
                self._again.append(update)
                self.counts.sent["repeat"] += 1
                arrivals.append(_arrival(update))  # its twin comes with the next wave
                self._take(update)
        if queue:  # what a device had ready when the cohort was full comes late
            self._late += [(model.version + 1, update) for _, update in queue]
        arrivals += self._broken(model, weights)
        return arrivals, released

    def accuracy(self, model: EdgeModel) -> float:
        """Share of unseen examples that a version tells right."""
        features, labels = self._test
        told = np.frombuffer(model.weights, "<f8") @ features.T > 0.0
        return float((told == (labels > 0.5)).mean())

    def oracle_epsilon(self, key: str) -> float:
        """Epsilon of all that was let through of a user, composed without a ledger."""
        return epsilon_of(compose(self.counts.spent.get(key, [])), self.line.delta)

    def _fresh(self, model: EdgeModel, weights: NDArray[np.float64]) -> list[tuple[str, EdgeUpdate]]:
        """One device trains; now and then it is lost, or slow."""
        client = self._clients[self._next % len(self._clients)]
        update_round = self._next // len(self._clients)
        self._next += 1
        draw = self._rng.random()
        dropout, late, _ = self._shares
        if draw < dropout:
            self.counts.sent["lost"] += 1
            return []
        update = self._update(f"{client}-{update_round}", model, weights)
        if draw < dropout + late:
            self._late.append((model.version + int(self._rng.integers(1, 4)), update))
            return []
        return [("fresh", update)]

    def _update(self, device: str, model: EdgeModel, weights: NDArray[np.float64]) -> EdgeUpdate:
        delta = self._trainer.delta(weights, self._examples(EXAMPLES_PER_DEVICE))
        line = self.line._replace(first_clip_norm=model.next_clip_norm)
        made = device_update(line, f"{self._name}-{device}", model.version, delta, self._key)
        return made._replace(update_id=f"{device}-{model.version}")

    def _examples(self, count: int) -> Examples:
        features = self._rng.standard_normal((count, self.line.dimension)).astype(np.float32)
        labels = self._rng.random(count) < sigmoid(features @ self._truth)
        return Examples(features, labels.astype(np.float32))

    def _broken(self, model: EdgeModel, weights: NDArray[np.float64]) -> list[Arrival]:
        """One of each kind that must be refused; a device without noise only where noise is asked for."""
        good = self._update(f"broken-{int(self._rng.integers(1 << 40))}", model, weights)
        numbers = len(good.payload) // (good.bits // 8)
        largest = (1 << (good.bits - 1)) - 1
        bad = [
            good._replace(payload=good.payload[:-1]),
            good._replace(payload=np.full(numbers, largest, WIDTHS[good.bits]).tobytes()),
            good._replace(payload=bytes(OVERSIZED_BYTES)),
            good._replace(base_version=model.version + 1_000),
            good._replace(consent="none"),
            good._replace(noise_multiplier=good.noise_multiplier / 2.0),
        ]
        if self.line.mode is Mode.LOCAL and self.line.dimension >= 64:
            bad.append(good._replace(payload=bytes(len(good.payload))))
        for number, update in enumerate(bad):
            # Each of a user of its own: a base version that is unknown is charged before a line refuses it.
            bad[number] = update._replace(user_id=f"{update.user_id}-{number}")
            self._take(bad[number])
        self.counts.sent["broken"] += len(bad) + 1
        self.counts.refused["wrong_magic"] += 1
        return [*map(_arrival, bad), Arrival("default/nobody", self._rng.bytes(64))]

    def _take(self, update: EdgeUpdate) -> EdgeModel | None:
        """Let the plain run have it; the version that it releases."""
        key = user_key(update.tenant, update.user_id)
        try:
            step = self.plain.take(update)
        except Refused as refused:
            self.counts.refused[refused.reason] += 1
            return None
        if step.counts != ("duplicate",):
            self.counts.spent.setdefault(key, []).append(self.line.mu)
        if step.refused is not None:
            self.counts.refused[step.refused.reason] += 1
        return step.released[0] if step.released else None


def budget_of(line: LineSettings) -> float:
    """Give the epsilon that holds a few contributions."""
    return epsilon_of(line.mu * sqrt(GREEDY_VERSIONS), line.delta) if line.mu < inf else inf


def _arrival(update: EdgeUpdate) -> Arrival:
    return Arrival(user_key(update.tenant, update.user_id), encode(update))
