"""Robust rules against plain loops, and against the attackers that they are for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.federate.robust import multi_krum, norm_bounded, trimmed_mean

SHAPES = st.tuples(st.integers(5, 14), st.integers(1, 6), st.integers(0, 1 << 30))


def rows_of(shape):
    count, dimension, seed = shape
    return np.random.default_rng(seed).standard_normal((count, dimension)) * 3.0


def trimmed_mean_reference(rows, trim):
    means = []
    for column in rows.T.tolist():
        kept = sorted(column)[trim : len(column) - trim]
        means.append(sum(kept) / len(kept))
    return means


def multi_krum_reference(rows, attackers, keep):
    rows = rows.tolist()
    scores = []
    for i, one in enumerate(rows):
        distances = sorted(
            sum((a - b) ** 2 for a, b in zip(one, other, strict=True))
            for j, other in enumerate(rows)
            if j != i
        )
        scores.append((sum(distances[: len(rows) - attackers - 2]), i))
    return sorted(i for _, i in sorted(scores)[:keep])


@given(SHAPES)
@settings(max_examples=60, deadline=None)
def test_the_rules_are_the_plain_loops(shape):
    rows = rows_of(shape)
    assert trimmed_mean(rows, 2) == pytest.approx(trimmed_mean_reference(rows, 2))
    assert multi_krum(rows, 1, 3).tolist() == multi_krum_reference(rows, 1, 3)
    for before, after in zip(rows, norm_bounded(rows, 2.0), strict=True):
        norm = float(np.linalg.norm(before))
        assert after == pytest.approx(before * min(1.0, 2.0 / norm))


def test_attackers_within_the_limit_move_nothing_far():
    honest = np.random.default_rng(3).normal(1.0, 0.1, (20, 8))
    rows = np.vstack([honest, np.full((4, 8), 1e6)])
    assert np.abs(trimmed_mean(rows, 4) - 1.0).max() < 0.1
    assert set(multi_krum(rows, 4, 10)) <= set(range(20))
    assert np.abs(rows.mean(axis=0)).min() > 1e5, "the mean is theirs"


def test_rows_of_zeros_stay_and_no_division_fails():
    assert norm_bounded(np.zeros((2, 3)), 1.0).tolist() == np.zeros((2, 3)).tolist()


@pytest.mark.parametrize("trim", [-1, 3])
def test_cutting_everything_is_an_error(trim):
    with pytest.raises(ValueError, match="trim: wanted"):
        trimmed_mean(np.zeros((6, 1)), trim)


@pytest.mark.parametrize(("attackers", "keep"), [(3, 1), (1, 5), (1, 0)])
def test_krum_needs_enough_rows(attackers, keep):
    with pytest.raises(ValueError, match="wanted at least"):
        multi_krum(np.zeros((5, 1)), attackers, keep)
