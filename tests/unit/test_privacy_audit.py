"""The audits pass the real way from device to version, twenty seeds in a row, and reject every broken mechanism."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.refusal import Refused
from udfs.federate.audit import ledger_is_never_below, line_mechanism, repeats_change_nothing
from udfs.federate.audit_suite import ALSO_CATCHES, CATCHES, suite
from udfs.federate.ledger import BudgetLedger
from udfs.federate.line_settings import LineSettings
from udfs.privacy.audit import (
    Run,
    all_findings,
    gate_refuses,
    two_worlds,
)
from udfs.privacy.broken import BROKEN, plain, under
from udfs.privacy.client_update import device_quantiser, open_update
from udfs.privacy.fixed_point import UNIT, to_units
from udfs.privacy.terms import Mode, Terms

CENTRAL = Terms(Mode.CENTRAL, 0.5, 3.7303, 1e-5, 1)  # epsilon 1 at delta 1e-5
SEEDS = range(20)


def key(seed: int) -> bytes:
    return b"audit key %022d" % seed


def line(mode: Mode) -> LineSettings:
    return LineSettings("head", 64, mode, CENTRAL.noise_multiplier, 1e-5, 10, 1, first_clip_norm=0.5)


def failed(findings):
    return [finding for finding in findings if not finding.passed]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_line_in_central_mode_passes(seed):
    assert failed(all_findings(line_mechanism(line(Mode.CENTRAL)), CENTRAL, key(seed), runs=400)) == []


@pytest.mark.parametrize("mode", [Mode.LOCAL, Mode.DISTRIBUTED])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_line_in_the_other_modes_passes(mode, seed):
    terms = line(mode).terms(0.5)
    step = device_quantiser(terms, 64).step * UNIT
    findings = all_findings(line_mechanism(line(mode)), terms, key(seed), runs=400, resolution=step)
    assert failed(findings) == []


def test_the_line_passes_the_two_worlds_at_full_length():
    for mode in Mode:
        finding = two_worlds(line_mechanism(line(mode)), line(mode).terms(0.5), key(1))
        assert finding.passed
        assert finding.measured > 0.5 * line(mode).mu, "the audit sees the contribution at all"


@pytest.mark.parametrize("seed", SEEDS)
def test_the_plain_mechanism_passes(seed):
    assert failed(all_findings(under(CENTRAL, plain), CENTRAL, key(seed), runs=400)) == []


@pytest.mark.parametrize("name", CATCHES)
def test_a_broken_mechanism_is_rejected_by_the_audit_that_is_there_for_it(name):
    for seed in SEEDS[:3]:
        assert not CATCHES[name](under(CENTRAL, BROKEN[name]), CENTRAL, key(seed)).passed


def test_every_broken_mechanism_has_its_audit():
    assert set(CATCHES) | {name for name, _ in ALSO_CATCHES} == set(BROKEN)


def test_the_suite_of_the_command_is_right_about_everything():
    found = list(suite(1))
    assert [one for one in found if not one.is_right] == []
    assert len({one.mechanism for one in found if one.is_broken}) == len(BROKEN) + 2
    assert {one.finding.audit for one in found if not one.is_broken} >= {"two worlds", "ledger", "noise gate"}


def gate(terms, dimension, sends):
    """The check of an update whose device does `sends` with its values."""
    how = device_quantiser(terms, 64)

    def check(values):
        units = sends(to_units(values))
        open_update(how.pack(how.cut(units)), how.bits, how.step, terms, dimension)

    return check


@pytest.mark.parametrize("dimension", [16, 64, 256])
def test_updates_without_noise_do_not_pass_the_gate(dimension):
    terms = line(Mode.LOCAL).terms(0.5)
    assert gate_refuses(gate(terms, dimension, lambda units: units), terms, dimension, key(1)).passed


def test_a_gate_that_is_open_is_found():
    terms = line(Mode.LOCAL).terms(0.5)
    assert not gate_refuses(lambda values: None, terms, 64, key(1)).passed


def test_an_audit_of_a_mechanism_that_refuses_everything_ends():
    def refuses(deltas, run):
        raise Refused("bad_value", "all")

    with pytest.raises(Refused):
        two_worlds(refuses, CENTRAL, key(1), 10)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_ledger_is_never_below_the_oracle(seed):
    assert ledger_is_never_below(BudgetLedger.decode, seed).passed


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_a_budget_that_a_restore_resets_is_found(seed):
    assert not ledger_is_never_below(lambda blob: None, seed).passed

    def half_forgotten(blob):
        ledger = BudgetLedger.decode(blob)
        return ledger._replace(spent=ledger.spent // 2)

    assert not ledger_is_never_below(half_forgotten, seed).passed


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("seed", SEEDS[:5])
def test_repeats_change_no_bit_of_the_model(mode, seed):
    assert repeats_change_nothing(line(mode), key(seed), seed).passed


def test_repeats_that_count_are_found(monkeypatch):
    """A ledger that lets all through, over a line that has lost its memory of users and updates."""
    monkeypatch.setattr("udfs.federate.ledger.find", lambda column, entry: -1)
    monkeypatch.setattr("udfs.federate.line.find", lambda column, entry: -1)
    monkeypatch.setattr("udfs.federate.ledger.MAX_RECENT", 0)
    unguarded = "udfs.federate.ledger.BudgetLogic._in_epoch"
    monkeypatch.setattr(unguarded, lambda self, ledger, at_ms: BudgetLedger(0))
    assert not repeats_change_nothing(line(Mode.CENTRAL), key(1), 1).passed


def test_shares_of_the_fewest_devices_add_up_to_the_claimed_noise():
    template = line(Mode.DISTRIBUTED)._replace(cohort_min=25)
    terms = template.terms(0.5)
    zeros = np.zeros((25, 20_000))
    released = line_mechanism(template)(zeros, Run(key(1), 0, tuple(f"{n}" for n in range(25))))
    assert released.std() == pytest.approx(terms.noise_multiplier * terms.clip_norm, rel=0.02)
