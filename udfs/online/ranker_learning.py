"""How the ranker's weights learn: gradients where the lists are, a learner that sums them, a gate behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.online.ranker_weights import RankerWeights, split


class Lists(NamedTuple):
    """Q ranked lists and what was clicked after each."""

    features: NDArray[np.float32]  # (Q, N, F)
    counts: NDArray[np.int32]  # (Q,) candidates of each
    places: NDArray[np.int32]  # (Q,) which candidate was clicked, -1: none of them


class Gradient(NamedTuple):
    """What some lists teach: a sum, so that gradients of many workers can be added in any order."""

    values: NDArray[np.float32]  # laid out as the weights
    lists: int  # whose click was among the candidates
    gain: float  # sum of reciprocal ranks by the weights
    first_gain: float  # the same by the candidates' first order

    def __add__(self, other: Gradient) -> Gradient:  # type: ignore[override]
        """Return the gradient of both."""
        return Gradient(
            self.values + other.values,
            self.lists + other.lists,
            self.gain + other.gain,
            self.first_gain + other.first_gain,
        )


def click_probabilities(scores: NDArray[np.float32], counts: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the softmax of each list over its own candidates: float32 (Q, N), 0 behind the count."""
    shifted = np.full(scores.shape, -np.inf, np.float32)
    _shift(scores, counts, shifted)
    weights = np.exp(shifted, out=shifted)
    _to_shares(weights, counts)
    return weights


@kernel
def _shift(scores: NDArray[np.float32], counts: NDArray[np.int32], out: NDArray[np.float32]) -> None:
    """Write how far each candidate's score is below the best of its list."""
    for q in range(len(counts)):
        most = np.float32(-np.inf)
        for j in range(counts[q]):
            most = max(most, scores[q, j])
        for j in range(counts[q]):
            out[q, j] = scores[q, j] - most


@kernel
def _to_shares(weights: NDArray[np.float32], counts: NDArray[np.int32]) -> None:
    for q in range(len(counts)):
        total = np.float32(0.0)
        for j in range(counts[q]):
            total += weights[q, j]
        for j in range(counts[q]):
            weights[q, j] /= total


def gradient(weights: RankerWeights, lists: Lists) -> Gradient:
    """Return the gradient of the clicks' cross entropy, summed over lists; see `scored_gradient`."""
    scores, hidden = weights.scores_and_hidden(lists.features)
    return scored_gradient(weights, lists, hidden, scores, click_probabilities(scores, lists.counts))


def scored_gradient(
    weights: RankerWeights,
    lists: Lists,
    hidden: NDArray[np.float32],
    scores: NDArray[np.float32],
    probabilities: NDArray[np.float32],
) -> Gradient:
    """Return the gradient where the forward pass is already there.

    Parameters
    ----------
    weights
        That scored the lists.
    lists
        What was clicked. A list whose click was no candidate teaches nothing.
    hidden, scores
        From `RankerWeights.scores_and_hidden`; `hidden` is used up.
    probabilities
        From `click_probabilities`.
    """
    taught = np.flatnonzero(lists.places >= 0)
    errors = np.zeros_like(probabilities)
    errors[taught] = probabilities[taught]
    errors[taught, lists.places[taught]] -= 1.0
    flat = lists.features.reshape(-1, weights.features)
    flat_errors = errors.reshape(-1)
    values = np.empty_like(weights.values)
    linear, inner, outer = split(values, weights.features, weights.hidden)
    linear[:] = flat_errors @ flat
    outer[:] = flat_errors @ hidden
    _to_errors(hidden, flat_errors, weights.parts()[2])
    inner[:] = flat.T @ hidden
    ranks = ranks_of(scores[taught], lists.counts[taught], lists.places[taught])
    first_gain = float((1.0 / (1.0 + lists.places[taught])).sum())
    return Gradient(values, len(taught), float((1.0 / ranks).sum()), first_gain)


@kernel
def _to_errors(hidden: NDArray[np.float32], errors: NDArray[np.float32], outer: NDArray[np.float32]) -> None:
    """Replace the hidden units by the errors that come back to them."""
    for row in range(len(errors)):
        for h in range(len(outer)):
            hidden[row, h] = errors[row] * outer[h] if hidden[row, h] > 0.0 else np.float32(0.0)


def ranks_of(
    scores: NDArray[np.float32], counts: NDArray[np.int32], places: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Return the rank, from 1, of one candidate of each list; of equal scores the earlier candidate is better."""
    own = scores[np.arange(len(places)), places][:, None]
    place = np.arange(scores.shape[1])
    better = (scores > own) | ((scores == own) & (place < places[:, None]))
    return np.asarray(1 + (better & (place < counts[:, None])).sum(axis=1))


class LearningSettings(NamedTuple):
    """How the learner steps."""

    hidden: int = 32
    learning_rate: float = 0.004
    smallest_rate: float = 0.0005
    half_rate_steps: int = 300
    """The rate falls with the root of one plus steps over this."""
    lists_per_gradient: float = 8.0
    """A gradient sum is divided by it, so that the smallest second moment means the same for every sum."""
    momentum: float = 0.9
    square_decay: float = 0.999
    gate_lists: int = 4_096
    """Lists between two looks of the gate."""
    gate_share: float = 0.9
    """The gate falls back when the gain over the first order is below this share of the last good weights' gain."""


class WeightLearner:
    """Adam over sums of gradients; weights that lead to worse lists are taken back.

    Parameters
    ----------
    weights
        To begin with.
    settings
        How to step.

    Notes
    -----
    **Steps**: a sum with a value that is not finite is refused. A step moves no weight by more than ten times the
    learning rate. **Gate**: the weights' mean reciprocal rank is divided by that of the first order *on the same
    lists*, so that an hour with harder sessions is not taken for worse weights. After `gate_lists` lists the quotient
    is compared with that of the lists before; where it fell below `gate_share` of it, the weights from before those
    lists serve again. The new quotient is then what the next one is compared with: when it is the clicks that
    changed and not the weights, learning goes on.
    """

    def __init__(self, weights: RankerWeights, settings: LearningSettings | None = None) -> None:
        self.settings = settings or LearningSettings()
        self.weights = weights
        self.refused = 0
        self.fallbacks = 0
        self._good, self._good_quotient = weights, 0.0
        self._steps = 0
        self._first = np.zeros_like(weights.values)
        self._second = np.zeros_like(weights.values)
        self._open_window()

    def state(self) -> dict[str, NDArray[Any]]:
        """Return weights, moments and the gate's window, as arrays."""
        return {
            "weights": self.weights.values,
            "good": self._good.values,
            "first": self._first,
            "second": self._second,
            "counts": np.array(
                [
                    self.weights.version,
                    self._good.version,
                    self._steps,
                    self._window_lists,
                    self.refused,
                    self.fallbacks,
                ],
                np.int64,
            ),
            "gains": np.array([self._good_quotient, self._window_gain, self._window_first_gain]),
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what `state` gave."""
        version, good_version, self._steps, self._window_lists, self.refused, self.fallbacks = state[
            "counts"
        ].tolist()
        self.weights = replace(self.weights, version=version, values=state["weights"])
        self._good = replace(self.weights, version=good_version, values=state["good"])
        self._first, self._second = state["first"], state["second"]
        self._good_quotient, self._window_gain, self._window_first_gain = state["gains"].tolist()

    def fork(self) -> WeightLearner:
        """Return a learner that goes on from here by itself."""
        made = WeightLearner(self.weights, self.settings)
        made._good, made._good_quotient, made._steps = self._good, self._good_quotient, self._steps
        made._first[:], made._second[:] = self._first, self._second
        return made

    def apply(self, gradient: Gradient) -> RankerWeights:
        """Take one step and return the weights to serve."""
        if gradient.lists == 0:
            return self.weights
        if not np.isfinite(gradient.values).all():
            self.refused += 1
            return self.weights
        self._step(gradient.values / np.float32(self.settings.lists_per_gradient))
        self._window_lists += gradient.lists
        self._window_gain += gradient.gain
        self._window_first_gain += gradient.first_gain
        if self._window_lists >= self.settings.gate_lists:
            self._look()
        return self.weights

    def _step(self, gradient: NDArray[np.float32]) -> None:
        chosen = self.settings
        self._steps += 1
        rate = max(
            chosen.smallest_rate, chosen.learning_rate / (1.0 + self._steps / chosen.half_rate_steps) ** 0.5
        )
        self._first += (1.0 - chosen.momentum) * (gradient - self._first)
        self._second += (1.0 - chosen.square_decay) * (gradient * gradient - self._second)
        mean = self._first / (1.0 - chosen.momentum**self._steps)
        root = np.sqrt(self._second / (1.0 - chosen.square_decay**self._steps)) + 1e-6
        step = np.clip(mean / root, -_LONGEST_STEP, _LONGEST_STEP)
        values = (self.weights.values - rate * step).astype(np.float32)
        self._serve(values)

    def _serve(self, values: NDArray[np.float32]) -> None:
        self.weights = replace(self.weights, version=self.weights.version + 1, values=values)

    def _look(self) -> None:
        """Compare the window's lists with those that the good weights made."""
        quotient = self._window_gain / max(self._window_first_gain, 1e-9)
        if quotient < self.settings.gate_share * self._good_quotient:
            self.fallbacks += 1
            self._serve(self._good.values)
            self._first[:] = 0.0
        else:
            self._good = self.weights
        self._good_quotient = quotient
        self._open_window()

    def _open_window(self) -> None:
        self._window_lists, self._window_gain, self._window_first_gain = 0, 0.0, 0.0


_LONGEST_STEP = 10.0
