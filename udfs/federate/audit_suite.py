"""All audits in one list: what must pass, and broken mechanisms that each must be rejected."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.federate.audit import ledger_is_never_below, line_mechanism, repeats_change_nothing
from udfs.federate.ledger import BudgetLedger
from udfs.federate.line_settings import LineSettings
from udfs.federate.pair_table import pair_vectors
from udfs.privacy.audit import (
    Finding,
    Mechanism,
    all_findings,
    clip_holds,
    difference_tells_nothing,
    gate_refuses,
    noise_scale,
    noise_shape,
    replay_is_silent,
    two_worlds,
)
from udfs.privacy.audit_bounds import counted_worlds, one_run
from udfs.privacy.audit_canaries import membership, one_shot
from udfs.privacy.broken import BROKEN, under
from udfs.privacy.client_update import device_quantiser, open_update
from udfs.privacy.fixed_point import UNIT, to_units
from udfs.privacy.terms import Mode, Terms

CATCHES: Final[dict[str, Callable[[Mechanism, Terms, bytes], Finding]]] = {
    "no noise": noise_scale,
    "half noise": two_worlds,
    "variance for deviation": two_worlds,
    "clip after average": clip_holds,
    "noise seeded by version": difference_tells_nothing,
    "fresh noise on replay": replay_is_silent,
    "noise before clip": noise_scale,
    "coarse noise": noise_shape,
}
"""Which audit is there for which fault; others may notice it too."""
ALSO_CATCHES: Final[tuple[tuple[str, Callable[[Mechanism, Terms, bytes], Finding]], ...]] = (
    ("no noise", counted_worlds),
    ("no noise", one_run),
    ("tenth of the noise", counted_worlds),
    ("tenth of the noise", one_run),
    ("half noise", one_shot),
)
"""Audits that count, or that need one release alone."""
NOISE_MULTIPLIER: Final = 3.7303
"""Epsilon 1 at delta 1e-5, in central mode."""
DIMENSION: Final = 64


class Audited(NamedTuple):
    """One audit of one mechanism.

    Attributes
    ----------
    mechanism
        Its name.
    is_broken
        Whether the audit must reject it.
    seed
        Of the run.
    finding
        What was measured.
    """

    mechanism: str
    is_broken: bool
    seed: int
    finding: Finding

    @property
    def is_right(self) -> bool:
        """Whether what is right passed, or what is broken was rejected."""
        return self.finding.passed != self.is_broken


def audited_line(mode: Mode) -> LineSettings:
    """The line whose way from device to version is audited."""
    return LineSettings("head", DIMENSION, mode, NOISE_MULTIPLIER, 1e-5, 10, 1, first_clip_norm=0.5)


def suite(
    seeds: int, runs: int = 400, counted: int = 400, users: NDArray[np.float64] | None = None
) -> Iterator[Audited]:
    """Run everything, one result after the other.

    Parameters
    ----------
    seeds
        How often what is right must pass, each time with other noise; broken ones are tried three times at most.
    runs
        Of the audit that compares two worlds.
    counted
        Runs of the audit that counts in two worlds.
    users
        float64 (n, d): what real users would contribute; None: made-up ones.
    """
    vectors = _made_up_users() if users is None else users
    for mode in Mode:
        line = audited_line(mode)
        terms = line.terms(line.first_clip_norm)
        resolution = UNIT if mode is Mode.CENTRAL else device_quantiser(terms, DIMENSION).step * UNIT
        for seed in range(seeds):
            key = _key(seed)
            for finding in all_findings(line_mechanism(line), terms, key, runs, resolution):
                yield Audited(f"{mode} line", False, seed, finding)
            yield from _counted(mode, line, terms, seed, counted, vectors)
        for seed in range(min(seeds, 5)):
            yield Audited(f"{mode} line", False, seed, repeats_change_nothing(line, _key(seed), seed))
    local = audited_line(Mode.LOCAL).terms(0.5)
    for seed in range(seeds):
        yield Audited("ledger", False, seed, ledger_is_never_below(BudgetLedger.decode, seed))
    yield Audited("noise gate", False, 0, gate_refuses(_gate(local), local, DIMENSION, _key(0)))
    central = audited_line(Mode.CENTRAL).terms(0.5)
    for seed in range(min(seeds, 3)):
        for name, audit in CATCHES.items():
            yield Audited(name, True, seed, audit(under(central, BROKEN[name]), central, _key(seed)))
        for name, audit in ALSO_CATCHES:
            yield Audited(name, True, seed, audit(under(central, BROKEN[name]), central, _key(seed)))
        guessed = membership(under(central, BROKEN["no noise"]), central, _key(seed), vectors)
        yield Audited("no noise", True, seed, guessed)
        yield Audited("budget reset on restore", True, seed, ledger_is_never_below(lambda blob: None, seed))
        open_gate = gate_refuses(lambda values: None, local, DIMENSION, _key(seed))
        yield Audited("open noise gate", True, seed, open_gate)


def _counted(
    mode: Mode, line: LineSettings, terms: Terms, seed: int, counted: int, users: NDArray[np.float64]
) -> Iterator[Audited]:
    """The audits that count, or look at one cohort; honest devices that the gate refuses are left out of it."""
    key, cohort = _key(seed), line_mechanism(line, skips_refused=True)
    for finding in (
        counted_worlds(line_mechanism(line), terms, key, counted),
        one_run(cohort, terms, key),
        one_shot(cohort, terms, key, canaries=300),
        membership(cohort, terms, key, users),
    ):
        yield Audited(f"{mode} line", False, seed, finding)


def _made_up_users(users: int = 400, items: int = 14) -> NDArray[np.float64]:
    """Pairs of what users took, some items more often than others."""
    rng = np.random.default_rng(14)
    took = rng.random((users, items)) < np.linspace(0.6, 0.1, items)
    return pair_vectors(took.astype(np.float64))


def _gate(terms: Terms) -> Callable[[NDArray[np.float64]], None]:
    how = device_quantiser(terms, DIMENSION)

    def check(values: NDArray[np.float64]) -> None:
        open_update(how.pack(how.cut(to_units(values))), how.bits, how.step, terms, DIMENSION)

    return check


def _key(seed: int) -> bytes:
    return b"audit key %022d" % seed
