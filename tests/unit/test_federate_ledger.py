"""The budget of one user: what is charged, what is refused, what is never forgotten."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.records import Control, EdgeUpdate
from udfs.federate.ledger import (
    MAX_LEDGER_BYTES,
    MAX_RECENT,
    MU_SQUARE_UNITS,
    BudgetLedger,
    BudgetLogic,
    charge_of,
)
from udfs.federate.line_settings import LineSettings
from udfs.privacy.gaussian import compose, epsilon_of
from udfs.privacy.terms import Mode

DAY_MS = 86_400_000
LINES = {
    name: LineSettings(name, 4, mode, z, 1e-5, 10, 5)
    for name, mode, z in (("head", Mode.LOCAL, 16.0), ("table", Mode.CENTRAL, 4.0))
}
LOGIC = BudgetLogic(LINES, 4.0, 1e-5, 30 * DAY_MS)
GOLDEN = bytes.fromhex(
    "01010102ad0200000000000000000000100000000000000020000000010000006c696e65686173680700000000"
    "000000000102030405060708090a0b0c0d0e0f"
)
FULL = BudgetLedger(685, 68_719_476_736, 137_438_953_472, 1, True, ((b"linehash", 7),), bytes(range(16)))


def update(number, line="table", base=None, client="phone", consent="personalization", **changed):
    made = EdgeUpdate(
        f"u{number}", "default", "p-1", client, line, number if base is None else base, str(LINES[line].mode),
        1.0, LINES[line].noise_multiplier, 4, 32, 1, bytes(16), None, consent,
    )  # fmt: skip
    return made._replace(**changed)


def order(kind, consent=None):
    return Control("c", kind, "default", "p-1", None, consent, 0, "")


def feed(ledger, updates, at_ms=0):
    steps = []
    for one in updates:
        step = LOGIC.on_update(ledger, one, at_ms)
        ledger = None if step.ledger is None else BudgetLedger.decode(step.ledger.encode())
        steps.append(step)
    return ledger, steps


def test_a_budget_of_epsilon_4_holds_13_contributions_of_noise_4():
    """From the table of exact composition; basic composition would allow 4."""
    ledger, steps = feed(None, [update(n) for n in range(20)])
    assert [step.accepted for step in steps] == [True] * 13 + [False] * 7
    assert {step.refused.reason for step in steps[13:]} == {"budget_spent"}
    assert 3.8 < LOGIC.epsilon_spent(ledger) <= 4.0


def test_all_devices_and_lines_of_a_user_spend_one_budget():
    arrivals = [
        update(n, line, client=client)
        for n in range(15)
        for line, client in (("head", "phone"), ("table", "tablet"))
    ]
    ledger, steps = feed(None, arrivals)
    spent = [LINES[one.model_line].mu for one, step in zip(arrivals, steps, strict=True) if step.accepted]
    assert 20 < len(spent) < 30
    assert LOGIC.epsilon_spent(ledger) == pytest.approx(epsilon_of(compose(spent), 1e-5), rel=1e-6)


@given(st.lists(st.floats(1e-3, 10.0), max_size=50), st.randoms())
@settings(max_examples=50, deadline=None)
def test_charges_add_up_to_the_same_in_any_order_and_never_to_less(mus, shuffled):
    charges = [charge_of(mu) for mu in mus]
    shuffled.shuffle(charges)
    assert sum(charges) == sum(charge_of(mu) for mu in mus)
    assert sum(charges) / MU_SQUARE_UNITS >= compose(mus) ** 2 * (1 - 1e-12)


def test_a_repeat_is_dropped_and_charged_once():
    ledger, steps = feed(None, [update(1), update(1), update(2), update(1)])
    assert [step.counts for step in steps] == [("accepted",), ("duplicate",), ("accepted",), ("duplicate",)]
    assert all(step.refused is None for step in steps)
    assert ledger.spent == 2 * charge_of(0.25)


def test_a_repeat_that_was_long_ago_is_refused_and_charged_once():
    many = [update(n, "head") for n in range(MAX_RECENT + 5)]
    ledger, _ = feed(None, many)
    spent = ledger.spent
    ledger, (step,) = feed(ledger, many[:1])
    assert step.refused.reason == "already_contributed"
    assert ledger.spent == spent


def test_a_user_contributes_once_to_a_version_whatever_the_device():
    ledger, steps = feed(None, [update(1, base=5), update(2, base=5, client="tablet"), update(3, base=4)])
    assert [step.accepted for step in steps] == [True, False, False]
    assert {step.refused.reason for step in steps[1:]} == {"already_contributed"}
    _, (other_line,) = feed(ledger, [update(4, "head", base=5)])
    assert other_line.accepted


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"consent": "essential"}, "consent_missing"),
        ({"model_line": "other"}, "unknown_line"),
        ({"noise_multiplier": 400.0}, "wrong_terms"),
        ({"mode": "local"}, "wrong_terms"),
    ],
)
def test_an_update_that_would_be_charged_wrongly_is_refused_uncharged(changed, reason):
    step = LOGIC.on_update(None, update(1)._replace(**changed), 0)
    assert (step.refused.reason, step.ledger) == (reason, None)


def test_a_new_epoch_has_a_new_budget_and_a_late_update_is_charged_to_the_open_one():
    ledger, _ = feed(None, [update(n) for n in range(13)])
    ledger, (next_month,) = feed(ledger, [update(20)], 31 * DAY_MS)
    assert next_month.accepted
    assert (ledger.epoch, ledger.spent, ledger.spent_ever) == (1, charge_of(0.25), 14 * charge_of(0.25))
    ledger, (late,) = feed(ledger, [update(21)], 0)
    assert late.accepted
    assert (ledger.epoch, ledger.spent) == (1, 2 * charge_of(0.25))


def test_consent_taken_back_ends_it_and_what_was_spent_stays_spent():
    ledger, _ = feed(None, [update(n) for n in range(3)])
    for stop in (order("set_consent", "essential"), order("erase_user")):
        revoked = LOGIC.on_control(ledger, stop, 0).ledger
        assert LOGIC.on_update(revoked, update(9), 0).refused.reason == "revoked"
        assert revoked.spent == ledger.spent
        again = LOGIC.on_control(revoked, order("set_consent", "personalization"), 0).ledger
        assert LOGIC.on_update(again, update(9), 0).accepted
        assert again.spent == ledger.spent


def test_a_user_who_never_contributed_can_take_consent_back():
    revoked = LOGIC.on_control(None, order("set_consent", "none"), 0).ledger
    assert LOGIC.on_update(revoked, update(1), 0).refused.reason == "revoked"


def test_a_row_outlives_its_epoch_and_a_revoked_one_everything():
    ledger, _ = feed(None, [update(1)])
    assert LOGIC.on_wake(ledger, 60 * DAY_MS - 1).ledger == ledger
    assert LOGIC.on_wake(ledger, LOGIC.forget_at_ms(ledger)).ledger is None
    revoked = LOGIC.on_control(ledger, order("erase_user"), 0).ledger
    assert LOGIC.on_wake(revoked, 10_000 * DAY_MS).ledger == revoked


@pytest.mark.parametrize("at_ms", [0, 29 * DAY_MS, 31 * DAY_MS, 60 * DAY_MS, 200 * DAY_MS])
def test_the_verdict_is_the_same_whether_the_timer_fired_or_not(at_ms):
    ledger, _ = feed(None, [update(n) for n in range(13)])
    woken = LOGIC.on_wake(ledger, at_ms).ledger
    for one in (update(3), update(13)):
        after, before = LOGIC.on_update(woken, one, at_ms), LOGIC.on_update(ledger, one, at_ms)
        assert (after.ledger, after.counts) == (before.ledger, before.counts)


def test_bytes_written_by_format_1_are_read_and_written_the_same():
    assert FULL.encode() == GOLDEN
    assert BudgetLedger.decode(GOLDEN) == FULL


@pytest.mark.parametrize("blob", [b"", b"\x02" + GOLDEN[1:], GOLDEN[:-1]])
def test_bytes_of_another_format_or_length_are_an_error(blob):
    with pytest.raises(ValueError, match="budget ledger: wanted"):
        BudgetLedger.decode(blob)


def test_the_largest_ledger_has_the_size_that_the_code_names():
    marks = tuple((bytes([n]) * 8, n) for n in range(16))
    largest = BudgetLedger(1, (1 << 62) - 1, (1 << 62) - 1, 9, True, marks, bytes(8 * MAX_RECENT))
    assert len(largest.encode()) == MAX_LEDGER_BYTES
    assert BudgetLedger.decode(largest.encode()) == largest


def test_no_noise_needs_a_budget_without_limit():
    lines = {"open": LINES["table"]._replace(name="open", noise_multiplier=0.0)}
    one = update(1)._replace(model_line="open", noise_multiplier=0.0)
    assert BudgetLogic(lines, 100.0, 1e-5, DAY_MS).on_update(None, one, 0).refused.reason == "budget_spent"
    free = BudgetLogic(lines, float("inf"), 1e-5, DAY_MS)
    step = free.on_update(free.on_update(None, one, 0).ledger, one._replace(base_version=2, update_id="x"), 0)
    assert step.accepted
    assert BudgetLedger.decode(step.ledger.encode()) == step.ledger
