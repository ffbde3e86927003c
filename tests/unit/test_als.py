"""Item factors: even users like even items, and the same seed gives the same bits."""

from __future__ import annotations

import numpy as np
import pytest
from learning_examples import random_table, table

from model_export.als import AlsSettings, fit_item_factors, pair_weights

SETTINGS = AlsSettings(dimension=8, iterations=10, regularization=0.1)


def even_and_odd() -> list[tuple[int, int, int]]:
    rng = np.random.default_rng(5)
    rows = []
    for time_ms in range(800):
        user = int(rng.integers(0, 40))
        rows.append((user, int(rng.integers(0, 10)) * 2 + user % 2, time_ms))
    return rows


def test_even_users_like_even_items() -> None:
    settings = AlsSettings(dimension=2, regularization=1.0)
    factors = fit_item_factors(table(even_and_odd()), settings, np.random.default_rng(1))
    unit = factors / np.linalg.norm(factors, axis=1, keepdims=True)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, np.nan)
    parity = np.arange(20) % 2
    same = parity[:, None] == parity[None, :]
    assert np.nanmin(likeness[same]) > np.nanmax(likeness[~same]) + 0.3


def test_equal_seeds_give_equal_bits_and_others_do_not() -> None:
    data = random_table(2)
    first = fit_item_factors(data, SETTINGS, np.random.default_rng(7))
    assert first.tobytes() == fit_item_factors(data, SETTINGS, np.random.default_rng(7)).tobytes()
    assert first.tobytes() != fit_item_factors(data, SETTINGS, np.random.default_rng(8)).tobytes()


def test_factors_solve_the_equations_that_the_fold_in_solves() -> None:
    """At the optimum an item's factors are ridge regression on the users' (Hu et al., equation 5)."""
    data = random_table(3, n=300)
    settings = AlsSettings(dimension=4, alpha=2.0, regularization=1.0, iterations=300)
    items = fit_item_factors(data, settings, np.random.default_rng(0)).astype(np.float64)
    weights = pair_weights(data, settings.max_weight).toarray().astype(np.float64)

    def solve(fixed: np.ndarray, weights: np.ndarray) -> np.ndarray:
        gram = fixed.T @ fixed + settings.regularization * np.eye(4)
        solved = []
        for row in weights:
            confidence = settings.alpha * row
            left = gram + (fixed * confidence[:, None]).T @ fixed
            solved.append(np.linalg.solve(left, fixed.T @ ((1 + confidence) * (row > 0))))
        return np.array(solved)

    users = solve(items, weights)
    np.testing.assert_allclose(solve(users, weights.T), items, atol=2e-3)


def test_a_pair_weighs_the_sum_of_its_events_up_to_the_limit() -> None:
    data = table([(0, 0, 0), (0, 0, 1), (1, 1, 2)], weights=[1.0, 3.0, 5.0])
    assert pair_weights(data, 25.0).toarray().tolist() == [[4.0, 0.0], [0.0, 5.0]]
    assert pair_weights(data, 4.5).toarray().tolist() == [[4.0, 0.0], [0.0, 4.5]]


def test_a_dimension_that_state_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        AlsSettings(dimension=65)
