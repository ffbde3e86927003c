"""Sequential rules: the kernel equals counting event by event, and what they say of toy sessions is obvious."""

from __future__ import annotations

import numpy as np
import pytest
from learning_examples import DAY_MS, random_table, table

from model_export.rules import RuleSettings, fit_rules, reference_rules
from udfs.ranking.item_links import ItemLinks


def of(found: ItemLinks, row: int) -> list[tuple[int, float]]:
    part = slice(found.offsets[row], found.offsets[row + 1])
    return list(zip(found.rows[part].tolist(), found.scores[part].tolist(), strict=True))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "settings",
    [
        RuleSettings(per_item=5, across=0.2),
        RuleSettings(steps=3, across=0.5, half_life_days=2.0),
        RuleSettings(max_events=7, shrink=0.0, steps=20, across=1.0),
    ],
)
def test_the_kernel_equals_counting_event_by_event(seed: int, settings: RuleSettings) -> None:
    data = random_table(seed)
    found = fit_rules(data, settings)
    wanted = reference_rules(data, settings)
    assert sum(len(rules) for rules in wanted) > 20
    for row, rules in enumerate(wanted):
        got = of(found, row)
        np.testing.assert_allclose([score for _, score in got], [score for _, score in rules], rtol=1e-5)
        exact = dict(rules)
        last = rules[-1][1] if rules else 0.0
        for item, score in got:  # equal scores at the end of a list may be cut differently after rounding
            assert exact.get(item, last) == pytest.approx(score, rel=1e-5)


def test_a_rule_leads_from_what_came_first_to_what_came_after_it_and_not_back() -> None:
    found = fit_rules(table([(0, 0, 0), (0, 1, 1), (0, 2, 2)]), RuleSettings(shrink=0.0))
    assert of(found, 0) == [(1, pytest.approx(2 / 3)), (2, pytest.approx(1 / 3))]
    assert of(found, 1) == [(2, pytest.approx(1.0))]
    assert of(found, 2) == []


def test_steps_end_with_the_session_unless_rules_lead_across() -> None:
    rows = [(0, 0, 0), (0, 1, 1), (0, 2, 5 * DAY_MS)]
    assert [item for item, _ in of(fit_rules(table(rows), RuleSettings()), 0)] == [1]
    across = fit_rules(table(rows), RuleSettings(across=0.5, half_life_days=5.0, shrink=0.0))
    assert of(across, 1) == [(2, pytest.approx(1.0))]
    assert of(across, 0) == [
        (1, pytest.approx(1 / 1.125, rel=1e-5)),
        (2, pytest.approx(0.125 / 1.125, rel=1e-5)),
    ]


def test_nobody_follows_another_user() -> None:
    assert len(fit_rules(table([(0, 0, 0), (1, 1, 1)]), RuleSettings(across=1.0)).rows) == 0


def test_a_heavy_users_old_events_do_not_count() -> None:
    rows = [(0, 0, 0), (0, 1, 1), *((0, 2 + k % 2, 10 + k) for k in range(20))]
    assert of(fit_rules(table(rows), RuleSettings(max_events=20)), 0) == []
    assert of(fit_rules(table(rows), RuleSettings()), 0) != []


def test_what_followed_once_says_less_than_what_followed_often() -> None:
    often = [(user, item, user * DAY_MS + item) for user in range(5) for item in (0, 1)]
    found = fit_rules(table([*often, (9, 2, 99 * DAY_MS), (9, 3, 99 * DAY_MS + 1)]), RuleSettings(shrink=5.0))
    assert of(found, 0) == [(1, pytest.approx(0.5))]
    assert of(found, 2) == [(3, pytest.approx(1 / 6))]


def test_lists_are_cut_descend_and_never_hold_the_item_itself() -> None:
    found = fit_rules(random_table(9), RuleSettings(per_item=4, across=0.5))
    assert np.diff(found.offsets).max() == 4
    for row in range(len(found.offsets) - 1):
        scores = [score for _, score in of(found, row)]
        assert scores == sorted(scores, reverse=True)
        assert row not in [item for item, _ in of(found, row)]


@pytest.mark.parametrize(
    "wrong", [{"per_item": 51}, {"steps": 0}, {"across": 1.5}, {"half_life_days": 0.0}, {"shrink": -1.0}]
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="rules"):
        RuleSettings(**wrong)
