"""Trains the sequential network with PyTorch, on the CPU or a GPU, and exports it only if ONNX answers the same.

Wants PyTorch (the extra `sequence`): some gigabytes, and not in the lock. Workers do not need it.

Source: Hidasi et al., "Session-based recommendations with recurrent neural networks", ICLR 2016; sampled softmax with
the correction of Bengio and Senécal, "Adaptive importance sampling to accelerate training of a neural probabilistic
language model", IEEE TNN 19(4), 2008.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model_export.gru import GruWeights, gru_graph
from model_export.interactions import Interactions
from model_export.sequence_pieces import cut_pieces
from udfs.ranking.onnx_session import CPU
from udfs.ranking.sequence_network import (
    LENGTH,
    MAX_WIDTH,
    MOST_ITEMS,
    SequenceArrays,
    SequenceNetwork,
    open_network,
)

CANARIES = 64


class SequenceTrainingError(RuntimeError):
    """PyTorch is not there, or there is nothing to learn from."""


@dataclass(frozen=True)
class SequenceSettings:
    """How the network is learnt.

    Parameters
    ----------
    width
        h: length of the state and of the items' vectors.
    epochs, batch_pieces, learning_rate, dropout
        Of the training by Adam.
    negatives
        Items that a batch is compared with, drawn by frequency ** `smoothing`; all where there are no more.
    smoothing
        See there.
    most_items, least_events
        As for `cut_pieces`.
    device
        As PyTorch names it; "auto": a GPU where there is one.
    """

    width: int = 64
    epochs: int = 4
    batch_pieces: int = 64
    learning_rate: float = 3e-3
    dropout: float = 0.25
    negatives: int = 1_024
    smoothing: float = 0.75
    most_items: int = MOST_ITEMS
    least_events: int = 5
    device: str = "auto"

    def __post_init__(self) -> None:
        if not 1 <= self.width <= MAX_WIDTH or min(self.epochs, self.batch_pieces, self.negatives) < 1:
            raise ValueError(
                f"wanted width 1 to {MAX_WIDTH}, epochs, batch_pieces and negatives at least 1: {self}"
            )


@dataclass(frozen=True)
class FittedSequence:
    """A trained network, ready for a bundle.

    Parameters
    ----------
    model
        The ONNX graph.
    arrays
        What belongs to it, PyTorch's own answers among them.
    max_difference
        Of ONNX Runtime's answers from these.
    """

    model: bytes
    arrays: SequenceArrays
    max_difference: float

    def network(self, items: int) -> SequenceNetwork:
        """Return it as workers run it, for an epoch of so many items, on the CPU."""
        return open_network(self.model, self.arrays, items, CPU)


class GruTrainer:
    """A network that can be trained on, piece by piece.

    Parameters
    ----------
    items
        v.
    settings
        How.
    seed
        Of weights, order, drop-out and samples.

    Raises
    ------
    SequenceTrainingError
        Without PyTorch.
    """

    def __init__(self, items: int, settings: SequenceSettings, seed: int) -> None:
        self._torch = torch = _pytorch()
        self._settings = settings
        self._rng = np.random.default_rng(seed)
        self.device = settings.device
        if settings.device == "auto":
            self.device = "cuda" if torch.cuda.is_available() else "cpu"
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            table = torch.randn(items + 1, settings.width) * settings.width**-0.5
            table[0] = 0.0
            self._gru = torch.nn.GRU(settings.width, settings.width, batch_first=True).to(self.device)
        self._table = torch.nn.Parameter(table.to(self.device))
        self._optimiser = torch.optim.Adam([self._table, *self._gru.parameters()], lr=settings.learning_rate)

    def fit(
        self,
        tokens: npt.NDArray[np.int32],
        epochs: int | None = None,
        tell: Callable[[float], None] | None = None,
    ) -> float:
        """Go over pieces, int32 (p, 21), in random order; return the mean loss of the last time."""
        torch, settings = self._torch, self._settings
        counts = np.bincount(tokens.ravel(), minlength=len(self._table)).astype(np.float64)
        counts[0] = 0.0
        drawn = counts**settings.smoothing * (counts > 0)
        drawn /= max(drawn.sum(), 1e-12)
        size, losses = settings.batch_pieces, [0.0]
        epochs = settings.epochs if epochs is None else epochs
        with torch.random.fork_rng():
            torch.manual_seed(int(self._rng.integers(2**31)))
            for epoch in range(epochs):
                losses = []
                batches = self._batches(tokens, size)
                for number, batch in enumerate(batches):
                    losses.append(self._step(tokens[batch], drawn))
                    if tell is not None:
                        tell((epoch + number / len(batches)) / epochs)
        return float(np.mean(losses)) if losses else 0.0

    def _batches(self, tokens: npt.NDArray[np.int32], size: int) -> list[npt.NDArray[np.int64]]:
        """Return pieces in random order, those of about one length together: short ones need few steps."""
        order = self._rng.permutation(len(tokens))
        lengths = (tokens[order] > 0).sum(axis=1)
        order = order[np.argsort(lengths, kind="stable")]
        starts = self._rng.permutation(-(-len(order) // size)) * size
        return [order[start : start + size] for start in starts.tolist()]

    def _step(self, tokens: npt.NDArray[np.int32], drawn: npt.NDArray[np.float64]) -> float:
        torch, settings = self._torch, self._settings
        tokens = tokens[:, : max(int((tokens > 0).sum(axis=1).max()), 2)]
        known = np.flatnonzero(drawn > 0)
        negatives, log_expected = known, np.zeros(len(known))
        if len(known) > settings.negatives:
            negatives = self._rng.choice(len(drawn), settings.negatives, p=drawn)
            log_expected = np.log(settings.negatives * drawn[negatives])
        sampled = torch.from_numpy(negatives.astype(np.int64)).to(self.device)
        correction = torch.from_numpy(log_expected.astype(np.float32)).to(self.device)
        batch = torch.from_numpy(tokens.astype(np.int64)).to(self.device)
        wanted = batch[:, 1:]
        dropout = torch.nn.functional.dropout
        inputs = dropout(self._table[batch[:, :-1]], settings.dropout, training=True)
        states = dropout(self._gru(inputs)[0], settings.dropout, training=True)[wanted > 0]
        targets = wanted[wanted > 0]
        if not len(targets):
            return 0.0
        right = (states * self._table[targets]).sum(dim=1)
        others = states @ self._table[sampled].T - correction
        others = others.masked_fill(targets[:, None] == sampled[None, :], float("-inf"))
        loss = (torch.logsumexp(torch.cat([right[:, None], others], dim=1), dim=1) - right).mean()
        self._optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([self._table, *self._gru.parameters()], 5.0)
        self._optimiser.step()
        with torch.no_grad():
            self._table[0] = 0.0
        return float(loss.detach())

    def states(
        self, tokens: npt.NDArray[np.int64], lengths: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float32]:
        """Return PyTorch's own answers, float32 (q, h), on the CPU."""
        torch = self._torch
        with torch.no_grad():
            gru, table = self._gru.cpu(), self._table.detach().cpu()
            every = gru(table[torch.from_numpy(tokens)])[0].numpy()
            self._gru.to(self.device)
        found: npt.NDArray[np.float32] = every[np.arange(len(lengths)), lengths - 1]
        return found

    def weights(self) -> GruWeights:
        """Return what was learnt."""

        def array(value: Any) -> npt.NDArray[np.float32]:
            return np.array(value.detach().cpu().numpy(), np.float32)

        gru = self._gru
        return GruWeights(
            array(self._table),
            array(gru.weight_ih_l0),
            array(gru.weight_hh_l0),
            array(gru.bias_ih_l0),
            array(gru.bias_hh_l0),
        )


def fit_sequence(
    data: Interactions,
    settings: SequenceSettings,
    seed: int,
    tell: Callable[[float], None] | None = None,
) -> FittedSequence:
    """Train on interactions before a cut, and export.

    Parameters
    ----------
    data
        Interactions.
    settings
        How.
    seed
        Of all random numbers.
    tell
        Called with the share that is done.

    Raises
    ------
    SequenceTrainingError
        Without PyTorch, or without a user with two interactions with known items.
    BundleRefused
        When ONNX Runtime's answers differ from PyTorch's by more than 1e-5.
    """
    pieces = cut_pieces(data, settings.most_items, settings.least_events)
    if not len(pieces.tokens):
        raise SequenceTrainingError(
            f"no user with two interactions with items that have {settings.least_events} or more"
        )
    trainer = GruTrainer(len(pieces.rows), settings, seed)
    trainer.fit(pieces.tokens, tell=tell)
    weights = trainer.weights()
    chosen = np.random.default_rng(seed).choice(
        len(pieces.tokens), min(CANARIES, len(pieces.tokens)), replace=False
    )
    tokens = pieces.tokens[np.sort(chosen), :LENGTH].astype(np.int64)
    lengths = np.maximum((tokens > 0).sum(axis=1), 1).astype(np.int32)
    states = trainer.states(tokens, lengths)
    model, vectors = gru_graph(weights), np.ascontiguousarray(weights.table[1:])
    arrays = SequenceArrays(pieces.rows, vectors, tokens, lengths, states)
    network = SequenceNetwork(model, pieces.rows, vectors, data.n_items, CPU)
    return FittedSequence(model, arrays, network.check(tokens, lengths, states))


def _pytorch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise SequenceTrainingError(
            "a sequential network is trained with PyTorch, which is not installed"
        ) from error
    return torch
