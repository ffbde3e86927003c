"""Our accounting beside that of another library (dp-accounting): formulas, compositions, and what a ledger says."""

from __future__ import annotations

from typing import Any

import dp_accounting
import pytest
from dp_accounting.pld import privacy_loss_distribution as losses
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.records import EdgeUpdate
from udfs.federate.ledger import BudgetLedger, BudgetLogic
from udfs.federate.line_settings import LineSettings
from udfs.privacy.gaussian import compose, delta_of, epsilon_of, noise_multiplier_of
from udfs.privacy.terms import Mode, Terms

DELTA = 1e-5
INTERVAL = 1e-3
"""Of the oracle's grid of privacy losses; it errs by less than this for each release."""
BUDGET = 4.0


def oracle_epsilon(deviations: dict[float, int], delta: float, pessimistic: bool) -> float:
    """Epsilon of some releases of sensitivity 1, deviation to number, by convolution of privacy losses."""
    total: Any = None
    for deviation, count in deviations.items():
        one = losses.from_gaussian_mechanism(
            deviation,
            value_discretization_interval=INTERVAL,
            pessimistic_estimate=pessimistic,
            use_connect_dots=pessimistic,
        ).self_compose(count)
        total = one if total is None else total.compose(one)
    return float(total.get_epsilon_for_delta(delta))


@pytest.mark.parametrize("delta", [1e-10, 1e-5, 1e-2])
@pytest.mark.parametrize("sigma", [0.3, 0.5, 1.0, 3.7303, 30.75, 200.0])
def test_one_release_costs_what_the_oracle_says(sigma: float, delta: float) -> None:
    assert epsilon_of(1.0 / sigma, delta) == pytest.approx(
        dp_accounting.get_epsilon_gaussian(sigma, delta), rel=1e-6, abs=1e-9
    )


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 4.0, 10.0])
def test_the_noise_for_a_budget_is_the_oracles_and_never_below(epsilon: float) -> None:
    wanted = dp_accounting.get_sigma_gaussian(epsilon, DELTA)
    assert wanted * (1 - 1e-9) <= noise_multiplier_of(epsilon, DELTA) <= wanted * 1.0001
    assert delta_of(epsilon, 1.0 / noise_multiplier_of(epsilon, DELTA)) <= DELTA


@pytest.mark.parametrize("mode", list(Mode))
def test_the_terms_of_a_mode_cost_what_the_oracle_says_of_their_sensitivity(mode: Mode) -> None:
    terms = Terms(mode, 0.5, 6.0, DELTA, 10)
    sigma = 3.0 if mode is Mode.LOCAL else 6.0  # a replaced contribution moves what is seen by two clips
    assert terms.epsilon == pytest.approx(dp_accounting.get_epsilon_gaussian(sigma, DELTA), rel=1e-6)


def test_many_releases_of_different_noise_cost_what_the_oracle_says() -> None:
    deviations = {2.0: 3, 5.5: 7, 11.0: 20}
    ours = epsilon_of(compose(1.0 / z for z, count in deviations.items() for _ in range(count)), DELTA)
    assert oracle_epsilon(deviations, DELTA, False) <= ours <= oracle_epsilon(deviations, DELTA, True)
    doubled = epsilon_of(2.0 * compose(1.0 / z for z, n in deviations.items() for _ in range(n)), DELTA)
    assert doubled > 1.5 * oracle_epsilon(deviations, DELTA, True)  # the comparison can fail


STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from(["new", "new", "again", "restore"])),
    min_size=1,
    max_size=80,
)


@given(STEPS, st.tuples(*[st.floats(1.5, 12.0) for _ in range(3)]))
@settings(max_examples=40, deadline=None)
def test_a_ledger_is_never_below_the_oracle_and_at_most_a_hundredth_above(
    steps: list[tuple[int, int, str]], noise: tuple[float, float, float]
) -> None:
    """Recipe 8: updates, repeats and restores in any order."""
    lines = {
        f"line-{n}": LineSettings(f"line-{n}", 4, Mode.CENTRAL, z, DELTA, 2, 1) for n, z in enumerate(noise)
    }
    logic = BudgetLogic(lines, BUDGET, DELTA, 1 << 40)
    ledger: BudgetLedger | None = None
    sent: list[EdgeUpdate] = []
    versions = [0, 0, 0]
    accepted: dict[float, int] = {}
    for number, (which, ahead, what) in enumerate(steps):
        if what == "restore":
            ledger = None if ledger is None else BudgetLedger.decode(ledger.encode())
            continue
        if what == "again" and sent:
            update = sent[(which + 3 * ahead) % len(sent)]
        else:
            versions[which] += ahead
            update = EdgeUpdate(
                f"u{number}", "default", "p", "c", f"line-{which}", versions[which], "central", 1.0, noise[which], 4,
                32, 1, bytes(16), None, "personalization",
            )  # fmt: skip
            sent.append(update)
        step = logic.on_update(ledger, update, 0)
        ledger = step.ledger
        if step.accepted:
            deviation = lines[update.model_line].noise_multiplier
            accepted[deviation] = accepted.get(deviation, 0) + 1
    if ledger is None or not accepted:
        return
    told = logic.epsilon_spent(ledger)
    at_least = oracle_epsilon(accepted, DELTA, False)
    at_most = oracle_epsilon(accepted, DELTA, True)
    assert at_least <= told
    assert told <= 1.01 * at_most
    assert at_least <= BUDGET
    assert ledger.contributions == sum(accepted.values())
