"""Audits of the whole way from a device's delta to a version: mechanism, ledger and repeats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.ids import user_key
from schemas.records import EdgeUpdate
from schemas.refusal import Refused
from udfs.federate.ciphertext import encrypted, number_quantiser
from udfs.federate.ledger import BudgetLedger, BudgetLogic
from udfs.federate.line import LineLogic, LineStep
from udfs.federate.line_settings import LineSettings
from udfs.federate.line_state import LineHead, LineState, first_state
from udfs.federate.release import Seed
from udfs.federate.update_check import check_update
from udfs.privacy.audit import Finding, Mechanism, Run
from udfs.privacy.client_update import privatise
from udfs.privacy.gaussian import compose, epsilon_of
from udfs.privacy.terms import Mode

Restore = Callable[[bytes], BudgetLedger | None]


def device_update(
    line: LineSettings,
    name: str,
    base_version: int,
    delta: NDArray[np.float64],
    key: bytes,
    encrypt: Callable[[NDArray[np.signedinteger[Any]]], bytes] | None = None,
) -> EdgeUpdate:
    """Make the update that a device of user `name` sends for a delta (d,), encrypted where the line wants it."""
    terms = line.terms(line.first_clip_norm)
    how = None if encrypt is None else number_quantiser(terms)
    made = privatise(delta, terms, key, f"{line.name}/{base_version}/{name}".encode(), how)
    if encrypt is not None:
        made = encrypted(made, encrypt)
    return EdgeUpdate(
        f"update-{name}", "default", f"user-{name}", f"client-{name}", line.name, base_version, str(line.mode),
        line.first_clip_norm, line.noise_multiplier, line.dimension, made.bits, made.step, made.payload,
        made.within_clip if line.adapt_clip else None, "personalization", None, line.encryption_key or None,
    )  # fmt: skip


def line_mechanism(template: LineSettings, *, skips_refused: bool = False) -> Mechanism:
    """Turn a model line into the form that audits take: devices, checks, sums, weights and release.

    The audits release single contributions too, so the line's `cohort_min` is to be 1: then each share of a
    distributed sum is the whole noise.

    Parameters
    ----------
    skips_refused
        Whether a cohort goes on without a contribution that is refused: of many honest devices the noise gate refuses
        one in a thousand.
    """

    def release_sum(deltas: NDArray[np.float64], run: Run) -> NDArray[np.float64]:
        count, dimension = deltas.shape
        line = template._replace(
            dimension=dimension, cohort_size=count, cohort_min=min(template.cohort_min, count)
        )
        updates = []
        for name, delta in zip(run.cohort, deltas, strict=True):
            update = device_update(line, name, run.version, delta, run.key)
            try:
                checked = check_update(update, user_key(update.tenant, update.user_id), {line.name: line})
            except Refused:
                if not skips_refused:
                    raise
                continue
            updates.append((update, checked))
        count = len(updates)
        line = line._replace(cohort_size=count)
        logic = LineLogic(line, inf, Seed("audit", run.key))
        zeros = np.zeros(dimension)
        state = LineState(LineHead(run.version, (line.first_clip_norm,)), zeros, {})
        for update, units in updates:
            step = logic.on_contribution(state, update, units, 0)
            state = step.state
        released: NDArray[np.float64] = state.weights * count
        return released

    return release_sum


class PlainRun:
    """Ledgers and one line as a job runs them, one update after the other: what a job's versions are compared with.

    Parameters
    ----------
    line
        The model line.
    seed
        What the job makes its noise with.
    logic
        Of the ledgers; None: no budget.
    budget_epsilon
        Told with the versions.
    """

    def __init__(
        self, line: LineSettings, seed: Seed, logic: BudgetLogic | None = None, budget_epsilon: float = inf
    ) -> None:
        self._line = line
        self._logic = logic or BudgetLogic({line.name: line}, inf, line.delta, 1 << 40)
        self._lines = LineLogic(line, budget_epsilon, seed)
        self.state = first_state(np.zeros(line.dimension), line.first_clip_norm)
        self.ledgers: dict[str, BudgetLedger | None] = {}

    def take(self, update: EdgeUpdate, at_ms: int = 0) -> LineStep:
        """Apply an update; a step without a change where a ledger drops it as a repeat.

        Raises
        ------
        Refused
            Where check or ledger refuse it.
        """
        key = user_key(update.tenant, update.user_id)
        units = check_update(update, key, {self._line.name: self._line})
        charged = self._logic.on_update(self.ledgers.get(key), update, at_ms)
        self.ledgers[key] = charged.ledger
        if charged.refused is not None:
            raise charged.refused
        if not charged.accepted:
            return LineStep(self.state, counts=charged.counts)
        step = self._lines.on_contribution(self.state, update, units, 0)
        self.state = step.state
        return step


def model_after(
    line: LineSettings, arrivals: Sequence[EdgeUpdate], seed: Seed, logic: BudgetLogic | None = None
) -> LineState:
    """Run arrivals through ledgers and line as a job does, a second apart."""
    run = PlainRun(line, seed, logic)
    for second, update in enumerate(arrivals):
        try:
            run.take(update, 1000 * second)
        except Refused:
            continue
    return run.state


def repeats_change_nothing(line: LineSettings, key: bytes, seed: int, contributions: int = 40) -> Finding:
    """Recipe 10: each update comes one to five times, in any order: the model has the same bits."""
    rng = np.random.default_rng(seed)
    line = line._replace(cohort_size=contributions, cohort_min=contributions)
    deltas = rng.standard_normal((contributions, line.dimension))
    updates = [device_update(line, f"{n}", 0, delta, key) for n, delta in enumerate(deltas)]
    noise = Seed("audit", key)
    wanted = model_after(line, updates, noise).weights
    often = [
        updates[n]
        for n in rng.permutation(np.repeat(np.arange(contributions), rng.integers(1, 6, contributions)))
    ]
    found = model_after(line, often, noise).weights
    differing = float(np.count_nonzero(wanted != found)) + float(not wanted.any())
    return Finding("repeats", differing == 0.0, differing, 0.0, 0.0, "coordinates that repeats change")


def ledger_is_never_below(
    restore: Restore, seed: int, steps: int = 300, delta: float = 1e-5, budget_epsilon: float = 4.0
) -> Finding:
    """Recipe 8: random updates, repeats and restores; the ledger against all that was let through.

    The oracle composes in floating point what the line got, without a ledger. The ledger's epsilon must be at
    least the oracle's, at most 1 % above it, and the oracle's never above the budget.

    Parameters
    ----------
    restore
        From the bytes of a checkpoint to the ledger, as the job does it.

    Returns
    -------
    Finding
        Largest epsilon of the oracle over that of the ledger or of the budget, whichever is less.
    """
    rng = np.random.default_rng(seed)
    lines = {
        f"line-{n}": LineSettings(f"line-{n}", 4, Mode.CENTRAL, float(z), delta, 2, 1)
        for n, z in enumerate(rng.uniform(2.0, 12.0, 3))
    }
    logic = BudgetLogic(lines, budget_epsilon, delta, 1 << 40)
    names = list(lines)
    ledger: BudgetLedger | None = None
    sent: list[EdgeUpdate] = []
    spent: list[float] = []
    versions = dict.fromkeys(names, 0)
    worst = 0.0
    for number in range(steps):
        if sent and rng.random() < 0.3:
            update = sent[int(rng.integers(len(sent)))]
        else:
            line = lines[names[int(rng.integers(len(names)))]]
            versions[line.name] += int(rng.integers(0, 3))
            update = EdgeUpdate(
                f"u{number}", "default", "p", "c", line.name, versions[line.name], str(line.mode), 1.0,
                line.noise_multiplier, 4, 32, 1, bytes(16), None, "personalization",
            )  # fmt: skip
            sent.append(update)
        step = logic.on_update(ledger, update, 0)
        ledger = step.ledger
        if step.accepted:
            spent.append(lines[update.model_line].mu)
        if ledger is None or not spent:
            continue
        oracle = epsilon_of(compose(spent), delta)
        told = logic.epsilon_spent(ledger)
        worst = max(worst, oracle / min(told, budget_epsilon), told / (1.01 * oracle))
        if rng.random() < 0.1:
            ledger = restore(ledger.encode())
    return Finding("ledger", worst <= 1.0, worst, 0.0, 1.0, "oracle's epsilon over the ledger's")
