"""Intervals that hold at all looks together, and the evidence against no difference.

The mixture of likelihood ratios over a normal distribution of effects. If nothing differs, its evidence is a
martingale of mean 1, which reaches 1 / alpha with a probability of alpha at most, however often one looks (Ville).
The variance is estimated, so this holds as samples grow; `READY_USERS` and `READY_EVENTS` come before the first look.

Source: Robbins, Annals of Mathematical Statistics 41 (1970); Johari, Koomen, Pekelis and Walsh, "Peeking at A/B
tests", KDD 2017 (mixture SPRT); Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory
and asymptotic confidence sequences", Annals of Statistics 52 (2024), theorem 2.2.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from udfs.experiments.ratio import Numbers, Ratio

READY_USERS: Final = 100
READY_EVENTS: Final = 30


def ready(control: Ratio, treatment: Ratio) -> NDArray[np.bool_]:
    """Return whether there is enough of both variants to look at."""
    users = np.minimum(control.users, treatment.users) >= READY_USERS
    events = np.minimum(control.events, treatment.events) >= READY_EVENTS
    return np.asarray(users & events)


def log_evidence(delta: ArrayLike, variance: ArrayLike, scale: ArrayLike) -> Numbers:
    """Return the logarithm of the mixture's likelihood ratio against no difference.

    Parameters
    ----------
    delta, variance
        The difference and its variance.
    scale
        Standard deviation of the effects mixed over; set before the first look.

    Examples
    --------
    >>> [round(float(log_evidence(delta, 1e-4, 0.02)), 2) for delta in (0.0, 0.02, 0.05)]
    [-0.8, 0.8, 9.2]
    """
    mixed = np.square(np.asarray(scale, np.float64))
    spread = np.maximum(np.asarray(variance, np.float64), 1e-300)
    known = np.isfinite(spread)
    held = np.where(known, spread, 1.0)
    gain = np.square(np.asarray(delta, np.float64)) * mixed / (2.0 * held * (held + mixed))
    return np.asarray(np.where(known, gain - 0.5 * np.log1p(mixed / held), 0.0))


def half_width(variance: ArrayLike, scale: ArrayLike, alpha: float) -> Numbers:
    """Return half the width of the interval around the difference: where the evidence is 1 / alpha.

    Examples
    --------
    >>> width = half_width(1e-4, 0.02, 0.05)
    >>> round(float(np.exp(log_evidence(width, 1e-4, 0.02))), 6)
    20.0
    """
    mixed = np.maximum(np.square(np.asarray(scale, np.float64)), 1e-300)
    spread = np.maximum(np.asarray(variance, np.float64), 1e-300)
    reach = 2.0 * np.log(1.0 / alpha) + np.log1p(mixed / spread)
    return np.asarray(np.sqrt(spread * (spread + mixed) / mixed * reach))
