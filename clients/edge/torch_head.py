"""Trains a small head on the device with PyTorch and Opacus: noise within the training, for single examples.

The trainer in `logistic_head` protects nothing by itself; clip and noise of the whole change protect the user. This
one adds another promise inside the device: each gradient is clipped an example and noised, so the change tells little
of any *single example*. It is no substitute for the other: many examples of a user add up. Both epsilons are told
apart and never added.

Wants PyTorch and Opacus 1.6 or newer (the extra `edge`): some gigabytes, not for a small board. Before 1.6 the
accounting of adaptive clipping was wrong.

Source: Abadi et al., "Deep Learning with Differential Privacy" (2016); Li et al. (2022) for ghost clipping, which
never makes a gradient an example.
"""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from clients.edge.examples import Examples
from clients.edge.logistic_head import MAX_DIMENSION

LEAST_OPACUS: Final = (1, 6)


class TrainerError(RuntimeError):
    """The libraries are not there, or too old."""


class PrivateTorchHead:
    """Logistic regression by DP-SGD; a `clients.edge.logistic_head.Trainer`.

    Parameters
    ----------
    noise_multiplier
        Of the gradients, in clips.
    clip_norm
        Of each example's gradient.
    epochs, batch_size, learning_rate
        Of the training; batches are drawn by Poisson sampling, on which the accounting rests.
    ghost
        Clip without making a gradient an example: for wide inputs.
    new_seed
        Secret seed of the noise, drawn anew for each training; tests give their own.

    Attributes
    ----------
    example_epsilon_at
        After a training: function from delta to the epsilon of a single example in it.
    """

    protects = (
        "Each single example of the user in this training, against whoever sees the change, as `example_epsilon_at` "
        "says. Not the user: that takes clip and noise of the whole change."
    )

    def __init__(
        self,
        noise_multiplier: float = 1.0,
        clip_norm: float = 1.0,
        epochs: int = 5,
        batch_size: int = 16,
        learning_rate: float = 0.5,
        *,
        ghost: bool = False,
        new_seed: Callable[[], int] = lambda: secrets.randbits(63),
    ) -> None:
        self._torch, self._engine = _libraries()
        self._noise_multiplier = noise_multiplier
        self._clip_norm = clip_norm
        self._epochs = epochs
        self._batch_size = batch_size
        self._learning_rate = learning_rate
        self._ghost = ghost
        self._new_seed = new_seed
        self.example_epsilon_at: Callable[[float], float] | None = None

    def delta(self, weights: NDArray[np.float64], examples: Examples) -> NDArray[np.float64]:
        """Change of the weights (d,) after training on the examples.

        Raises
        ------
        ValueError
            For another dimension than the examples', or none of them.
        """
        count, dimension = examples.features.shape
        if weights.shape != (dimension,) or dimension > MAX_DIMENSION or count == 0:
            raise ValueError(
                f"wanted examples of {weights.shape[0]} features, at most {MAX_DIMENSION}; got {count} of {dimension}"
            )
        torch = self._torch
        head = torch.nn.Linear(dimension, 1, bias=False, dtype=torch.float32)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(weights.astype(np.float32))[None, :])
        data = torch.utils.data.TensorDataset(
            torch.from_numpy(np.ascontiguousarray(examples.features, np.float32)),
            torch.from_numpy(np.ascontiguousarray(examples.labels, np.float32)),
        )
        generator = torch.Generator().manual_seed(self._new_seed())
        loader = torch.utils.data.DataLoader(
            data, batch_size=min(self._batch_size, count), generator=generator
        )
        with warnings.catch_warnings():
            # Of the libraries: secure_mode wants one that does not build with today's PyTorch, and hooks are told of
            # inputs that need no gradient.
            warnings.simplefilter("ignore")
            engine = self._engine(accountant="prv")
            head, optimizer, criterion, loader = self._made_private(engine, head, loader, generator)
            for _ in range(self._epochs):
                # A batch may be empty: its step is noise alone, and must be taken.
                for features, labels in loader:
                    optimizer.zero_grad()
                    # One number an example: of a column (B, 1) ghost clipping makes the sum of all pairs, unclipped.
                    criterion(head(features)[:, 0], labels).backward()
                    optimizer.step()
        self.example_epsilon_at = engine.get_epsilon
        trained: NDArray[np.float64] = next(head.parameters()).detach().numpy()[0].astype(np.float64)
        return trained - weights.astype(np.float32)

    def _made_private(self, engine: Any, head: Any, loader: Any, generator: Any) -> tuple[Any, Any, Any, Any]:
        torch = self._torch
        optimizer = torch.optim.SGD(head.parameters(), lr=self._learning_rate)
        criterion = torch.nn.BCEWithLogitsLoss()
        given = {
            "module": head,
            "optimizer": optimizer,
            "data_loader": loader,
            "noise_multiplier": self._noise_multiplier,
            "max_grad_norm": self._clip_norm,
            "poisson_sampling": True,
            "noise_generator": generator,
        }
        if self._ghost:
            head, optimizer, criterion, loader = engine.make_private(
                **given, criterion=criterion, grad_sample_mode="ghost"
            )
        else:
            head, optimizer, loader = engine.make_private(**given)
        return head, optimizer, criterion, loader


def _libraries() -> tuple[Any, Any]:
    try:
        import opacus
        import torch
    except ImportError as error:
        raise TrainerError(
            f"{error.name} is not installed: uv pip install 'tailrace[edge]', in an environment without a worker"
        ) from error
    version = tuple(int(part) for part in opacus.__version__.split(".")[:2])
    if version < LEAST_OPACUS:
        raise TrainerError(f"opacus: wanted 1.6 or newer, got {opacus.__version__}")
    return torch, opacus.PrivacyEngine
