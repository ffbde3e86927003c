"""The head that a device trains, and the file that its examples are in."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.edge.examples import ExampleLog, Examples
from clients.edge.logistic_head import LogisticHead, sigmoid


def examples(count, dimension=3, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((count, dimension)).astype(np.float32)
    labels = (features.sum(axis=1) > 0).astype(np.float32)
    return Examples(features, labels)


def delta_reference(weights, found, epochs, learning_rate, l2):
    """Gradient descent in plain loops."""
    rows, labels = found.features.tolist(), found.labels.tolist()
    moved = [0.0] * len(weights)
    for _ in range(epochs):
        gradient = [0.0] * len(weights)
        for row, label in zip(rows, labels, strict=True):
            score = sum((w + m) * x for w, m, x in zip(weights, moved, row, strict=True))
            error = 1.0 / (1.0 + math.exp(-score)) - label
            gradient = [g + error * x / len(rows) for g, x in zip(gradient, row, strict=True)]
        moved = [m - learning_rate * (g + l2 * m) for m, g in zip(moved, gradient, strict=True)]
    return moved


@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_the_delta_is_that_of_the_plain_loops(count, dimension, seed):
    found = examples(count, dimension, seed)
    weights = np.random.default_rng(seed).standard_normal(dimension)
    made = LogisticHead(4, 0.3, 0.05).delta(weights, found)
    assert made == pytest.approx(delta_reference(weights.tolist(), found, 4, 0.3, 0.05), abs=1e-12)


def test_training_learns_the_obvious():
    found = examples(200)
    delta = LogisticHead(50).delta(np.zeros(3), found)
    assert np.mean((found.features @ delta > 0) == found.labels) > 0.95


def test_huge_scores_do_not_overflow():
    assert sigmoid(np.array([-1e6, 0.0, 1e6])).tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(("dimension", "count"), [(4, 5), (3, 0)])
def test_other_examples_than_the_model_wants_are_an_error(dimension, count):
    with pytest.raises(ValueError, match="wanted examples of 3 features"):
        LogisticHead().delta(np.zeros(3), examples(count, dimension))


def test_a_head_that_is_too_large_is_an_error():
    with pytest.raises(ValueError, match="at most 256"):
        LogisticHead().delta(np.zeros(257), examples(2, 257))


def test_examples_are_read_on_from_where_the_last_reading_ended(tmp_path):
    log = ExampleLog(tmp_path / "examples", 3)
    assert log.since(0)[1] == 0
    first, second = examples(5, seed=1), examples(2, seed=2)
    log.append(*first)
    found, place = log.since(0)
    assert (found.features == first.features).all()
    assert (found.labels == first.labels).all()
    log.append(*second)
    found, end = ExampleLog(tmp_path / "examples", 3).since(place)
    assert (found.features == second.features).all()
    assert (place, end) == (5, 7)
    assert len(log.since(end)[0].labels) == 0


def test_half_an_example_at_the_end_is_cut_off(tmp_path):
    path = tmp_path / "examples"
    log = ExampleLog(path, 3)
    log.append(*examples(2))
    with path.open("ab") as file:
        file.write(b"half an ex")
    assert log.since(0)[1] == 2
    log.append(*examples(1, seed=9))
    found, place = log.since(0)
    assert place == 3
    assert (found.features[2] == examples(1, seed=9).features[0]).all()


def test_examples_that_would_spoil_a_training_are_refused(tmp_path):
    log = ExampleLog(tmp_path / "examples", 3)
    with pytest.raises(ValueError, match="wanted 3 finite features"):
        log.append(np.array([[1.0, np.nan, 0.0]], np.float32), np.ones(1, np.float32))
    with pytest.raises(ValueError, match="wanted 3 finite features"):
        log.append(np.ones((1, 4), np.float32), np.ones(1, np.float32))
