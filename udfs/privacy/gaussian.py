"""Exact accounting of Gaussian noise: how much a user's contributions tell, in closed form.

A release of a sum of sensitivity S with noise N(0, sigma²) is mu-GDP with mu = S / sigma. Gaussian mechanisms
compose exactly: mu² of many is the sum of their mu². No amplification by sampling is claimed anywhere: who
sends when is the clients' choice, not a draw.

Answers err on the safe side: an epsilon is rounded up, a mu that a budget allows is rounded down.

Source: Dong, Roth, Su, "Gaussian Differential Privacy" (2022), corollaries 1 and 4 of the definition; Balle,
Wang, "Improving the Gaussian Mechanism" (2018), theorem 8. The classic sqrt(2 ln(1.25/delta))/epsilon holds
for epsilon < 1 alone and is too small at epsilon 10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from math import erfc, exp, fsum, isfinite, log, log1p, pi, sqrt
from typing import Final

MIN_DELTA: Final = 1e-12
"""Below it, rounding of the two terms of delta(epsilon) would be seen."""
_SQRT_2: Final = sqrt(2.0)
_STEPS: Final = 200


def normal_cdf(x: float) -> float:
    """Probability that a standard normal is at most `x`.

    Examples
    --------
    >>> normal_cdf(0.0), round(normal_cdf(1.96), 4)
    (0.5, 0.975)
    """
    return 0.5 * erfc(-x / _SQRT_2)


def log_normal_cdf(x: float) -> float:
    """Logarithm of `normal_cdf`, also where that is too small for a float."""
    if x > -30.0:
        return log(normal_cdf(x))
    square = x * x
    return -0.5 * square - log(-x) - 0.5 * log(2.0 * pi) + log1p(-1.0 / square + 3.0 / (square * square))


def compose(mus: Iterable[float]) -> float:
    """Mu of several Gaussian releases about the same user, in any order and chosen adaptively or not.

    Examples
    --------
    >>> compose([3.0, 4.0])
    5.0
    """
    return sqrt(fsum(mu * mu for mu in mus))


def delta_of(epsilon: float, mu: float) -> float:
    """Smallest delta for which mu-GDP is (epsilon, delta)-DP.

    Parameters
    ----------
    epsilon
        0 or more.
    mu
        0 or more; infinite: no privacy at all.

    Examples
    --------
    >>> round(delta_of(1.0, 1 / 3.73), 7)
    1e-05
    """
    if mu == 0.0:
        return 0.0
    if not isfinite(mu):
        return 1.0
    first = normal_cdf(mu / 2.0 - epsilon / mu)
    second = exp(min(epsilon + log_normal_cdf(-mu / 2.0 - epsilon / mu), 0.0))
    return min(max(first - second, 0.0), 1.0)


@lru_cache(maxsize=4096)
def epsilon_of(mu: float, delta: float) -> float:
    """Smallest epsilon for which mu-GDP is (epsilon, delta)-DP, rounded up; infinite for an infinite mu.

    Raises
    ------
    ValueError
        For a delta outside [`MIN_DELTA`, 1).

    Examples
    --------
    >>> round(epsilon_of(1 / 3.7303, 1e-5), 3), epsilon_of(0.0, 1e-5)
    (1.0, 0.0)
    """
    _check_delta(delta)
    if not isfinite(mu):
        return mu
    if delta_of(0.0, mu) <= delta:
        return 0.0
    high = 1.0
    while delta_of(high, mu) > delta:
        high *= 2.0
    return _bisect(lambda epsilon: delta_of(epsilon, mu) > delta, 0.0, high)[1]


@lru_cache(maxsize=1024)
def mu_of(epsilon: float, delta: float) -> float:
    """Largest mu that stays within (epsilon, delta), rounded down: what a budget holds.

    Raises
    ------
    ValueError
        For a delta outside [`MIN_DELTA`, 1) or a negative or infinite epsilon.

    Examples
    --------
    >>> round(1 / mu_of(1.0, 1e-5), 2), round(1 / mu_of(10.0, 1e-5), 2)
    (3.73, 0.5)
    """
    _check_delta(delta)
    if not (epsilon >= 0.0 and isfinite(epsilon)):
        raise ValueError(f"epsilon: wanted a finite number of 0 or more, got {epsilon}")
    high = 1.0
    while delta_of(epsilon, high) <= delta:
        high *= 2.0
    return _bisect(lambda mu: delta_of(epsilon, mu) <= delta, 0.0, high)[0]


def noise_multiplier_of(
    epsilon: float, delta: float, *, releases: int = 1, sensitivity_clips: float = 1.0
) -> float:
    """Noise in units of the clip, for `releases` contributions within (epsilon, delta).

    Parameters
    ----------
    sensitivity_clips
        How far one contribution moves what is released, in clips: 1 if it is taken out, 2 if it is replaced.

    Examples
    --------
    >>> round(noise_multiplier_of(1.0, 1e-5, releases=10), 1)
    11.8
    """
    return sensitivity_clips * sqrt(releases) / mu_of(epsilon, delta)


def _check_delta(delta: float) -> None:
    if not MIN_DELTA <= delta < 1.0:
        raise ValueError(f"delta: wanted {MIN_DELTA} to below 1, got {delta}")


def _bisect(is_low: Callable[[float], bool], low: float, high: float) -> tuple[float, float]:
    """Neighbouring numbers, or nearly, between which `is_low` turns false."""
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        if is_low(middle):
            low = middle
        else:
            high = middle
    return low, high
