"""The trainer with noise inside: it learns, its noise is there, and it says what it protects."""

from __future__ import annotations

import builtins

import numpy as np
import pytest

from clients.edge.examples import Examples
from clients.edge.logistic_head import LogisticHead
from clients.edge.torch_head import PrivateTorchHead, TrainerError

D = 8


@pytest.fixture
def libraries():
    pytest.importorskip("opacus", reason="PyTorch and Opacus are not installed: the extra `edge`")


def examples(count=400, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((count, D)).astype(np.float32)
    return Examples(features, (features[:, 0] > 0).astype(np.float32))


@pytest.mark.parametrize("ghost", [False, True])
def test_it_learns_what_the_plain_trainer_learns(libraries, ghost):
    delta = PrivateTorchHead(0.5, ghost=ghost, new_seed=lambda: 3).delta(np.zeros(D), examples())
    plain = LogisticHead(epochs=50).delta(np.zeros(D), examples())
    assert delta @ plain / (np.linalg.norm(delta) * np.linalg.norm(plain)) > 0.8


@pytest.mark.parametrize("ghost", [False, True])
def test_another_seed_has_other_noise_and_without_noise_there_is_less_of_it(libraries, ghost):
    def spread(noise):
        made = [
            PrivateTorchHead(noise, ghost=ghost, epochs=1, new_seed=lambda seed=seed: seed).delta(
                np.zeros(D), examples(60)
            )
            for seed in range(12)
        ]
        return float(np.std(made, axis=0).mean())

    assert spread(8.0) > 3.0 * spread(0.01)


@pytest.mark.parametrize("ghost", [False, True])
def test_no_step_is_longer_than_clip_and_rate_allow(libraries, ghost):
    """Almost no noise, gradients far above the clip: 60 examples in steps of 16, a clip of 0.1, a rate of 1."""
    found = examples(60)
    trainer = PrivateTorchHead(1e-6, 0.1, epochs=1, learning_rate=1.0, ghost=ghost, new_seed=lambda: 5)
    moved = trainer.delta(np.zeros(D), Examples(1_000.0 * found.features, found.labels))
    assert 0.0 < np.linalg.norm(moved) < 2.0 * 60 / 16 * 0.1


@pytest.mark.parametrize("ghost", [False, True])
def test_an_empty_batch_is_a_step_of_noise(libraries, ghost):
    moved = [
        PrivateTorchHead(1.0, epochs=1, batch_size=1, ghost=ghost, new_seed=lambda seed=seed: seed).delta(
            np.zeros(D), examples(2)
        )
        for seed in range(8)
    ]
    assert np.isfinite(moved).all()
    assert (np.abs(moved).max(axis=1) > 0.0).all()


@pytest.mark.filterwarnings("ignore:Optimal order")  # a hint for tighter bounds, where noise is strong
def test_it_says_what_a_single_example_costs_and_more_noise_costs_less(libraries):
    costs = []
    for noise in (1.0, 4.0):
        trainer = PrivateTorchHead(noise, epochs=2, new_seed=lambda: 1)
        trainer.delta(np.zeros(D), examples(200))
        costs.append(trainer.example_epsilon_at(1e-5))
    assert 0.0 < costs[1] < costs[0]


def test_examples_of_another_shape_are_an_error(libraries):
    with pytest.raises(ValueError, match="wanted examples of 3 features"):
        PrivateTorchHead().delta(np.zeros(3), examples())


def test_both_trainers_say_what_they_protect():
    assert "Not the user" in PrivateTorchHead.protects
    assert "protects the user" in LogisticHead.protects


def test_without_the_libraries_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name.split(".")[0] in ("opacus", "torch"):
            raise ImportError(name, name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(TrainerError, match=r"tailrace\[edge\]"):
        PrivateTorchHead()
