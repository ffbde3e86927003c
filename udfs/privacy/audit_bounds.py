"""Audits that bound epsilon from below by counting, whatever the noise is made of: they assume no distribution.

Weaker than `audit.two_worlds`, which knows that noise is normal: half of the noise passes both. They are here because
they find what that cannot, a mechanism that is not normal at all.

Source: Clopper, Pearson (1934); Jagielski, Ullman, Oprea, "Auditing Differentially Private Machine Learning" (2020);
Steinke, Nasr, Jagielski, "Privacy Auditing with One (1) Training Run" (2023), theorem 5.2.
"""

from __future__ import annotations

from functools import lru_cache
from math import exp, inf, log, log1p
from typing import Final

import numpy as np
from numpy.typing import NDArray

from udfs.privacy.audit import Finding, Mechanism, Run, named_key, releases_first_numbers
from udfs.privacy.gaussian import normal_cdf
from udfs.privacy.terms import Mode, Terms

BOUND_CONFIDENCE: Final = 0.99
ONE_RUN_CONFIDENCE: Final = 0.95
_THRESHOLDS: Final = np.linspace(-2.0, 8.0, 41)


def at_most_probability(successes: int, trials: int, probability: float) -> float:
    """Chance of at most so many successes.

    Examples
    --------
    >>> round(at_most_probability(2, 4, 0.5), 6)
    0.6875
    """
    if successes >= trials or probability <= 0.0:
        return 1.0
    if successes < 0 or probability >= 1.0:
        return 0.0
    k = np.arange(successes + 1)
    logs = _log_choices(trials)[: successes + 1] + k * log(probability) + (trials - k) * log1p(-probability)
    top = float(logs.max())
    return min(exp(top) * float(np.exp(logs - top).sum()), 1.0)


@lru_cache(maxsize=64)
def _log_choices(trials: int) -> NDArray[np.float64]:
    """Logarithms of the binomial coefficients of so many trials, (trials + 1,)."""
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, trials + 1)))])
    choices: NDArray[np.float64] = factorials[-1] - factorials - factorials[::-1]
    return choices


def upper_limit(successes: int, trials: int, confidence: float) -> float:
    """Probability that is not below the true one, with this confidence (Clopper, Pearson).

    Examples
    --------
    >>> round(upper_limit(0, 100, 0.95), 4), round(lower_limit(600, 1000, 0.95), 4)
    (0.0295, 0.5738)
    """
    if successes >= trials:
        return 1.0
    low, high = successes / trials, 1.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        if at_most_probability(successes, trials, middle) > 1.0 - confidence:
            low = middle
        else:
            high = middle
    return high


def lower_limit(successes: int, trials: int, confidence: float) -> float:
    """Probability that is not above the true one, with this confidence."""
    return 1.0 - upper_limit(trials - successes, trials, confidence)


def epsilon_bound(hits: int, false_alarms: int, trials: int, delta: float, confidence: float) -> float:
    """Lower bound of epsilon at delta, from a test with so many of `trials` alarms in each of two worlds.

    Examples
    --------
    >>> round(epsilon_bound(10_000, 0, 10_000, 1e-5, 0.99), 1), epsilon_bound(5, 5, 10, 1e-5, 0.99)
    (7.5, 0.0)
    """
    each = 1.0 - (1.0 - confidence) / 2.0  # both limits must hold
    bounds = [0.0]
    for hit, alarm in ((hits, false_alarms), (trials - false_alarms, trials - hits)):
        true_low = lower_limit(hit, trials, each) - delta
        false_high = upper_limit(alarm, trials, each)
        if true_low > 0.0:
            bounds.append(log(true_low / false_high))
    return max(bounds)


@lru_cache(maxsize=64)
def chosen_threshold(mu: float, trials: int, delta: float) -> float:
    """Where to raise the alarm, in deviations of the noise: best for a mechanism as claimed, so no data decides."""

    def expected(threshold: float) -> float:
        hits = trials * normal_cdf(mu - threshold)
        alarms = trials * normal_cdf(-threshold)
        return epsilon_bound(round(hits), round(alarms), trials, delta, BOUND_CONFIDENCE)

    return float(max(_THRESHOLDS.tolist(), key=expected))


def counted_worlds(mechanism: Mechanism, terms: Terms, key: bytes, runs: int = 1_000) -> Finding:
    """Recipe 4: releases of two inputs that must be hard to tell apart, told apart by thresholds fixed beforehand.

    One in the middle between both, and the one that tells most of a mechanism as claimed. Finds missing noise, and a
    tenth of it. Half of the noise passes.
    """
    near = -1.0 if terms.mode is Mode.LOCAL else 0.0
    sigma = terms.release_sigma or terms.device_sigma
    far = chosen_threshold(terms.mu, runs, terms.delta) * sigma
    thresholds = (0.5 * (near + 1.0) * terms.clip_norm, near * terms.clip_norm + far)
    found = [
        releases_first_numbers(
            mechanism, np.array([[place * terms.clip_norm, 0.0]]), named_key(key, f"counted {place}"), runs
        )
        for place in (near, 1.0)
    ]
    confidence = 1.0 - (1.0 - BOUND_CONFIDENCE) / len(thresholds)
    bound = max(
        epsilon_bound(
            int((found[1] > threshold).sum()),
            int((found[0] > threshold).sum()),
            runs,
            terms.delta,
            confidence,
        )
        for threshold in thresholds
    )
    return Finding("counted worlds", bound <= terms.epsilon, bound, 0.0, terms.epsilon, "epsilon, at least")


def one_run_bound(right: int, guesses: int, delta: float) -> float:
    """Lower bound of epsilon from one run: how many of so many coins were guessed right.

    With epsilon, a guess is right with probability e^epsilon / (1 + e^epsilon) at most; delta takes at most
    2 * guesses * delta from the confidence.

    Examples
    --------
    >>> [round(one_run_bound(right, 1000, 0.0), 2) for right in (600, 730, 900, 1000)]
    [0.3, 0.88, 2.02, 5.81]
    """
    confidence = ONE_RUN_CONFIDENCE + 2.0 * guesses * delta
    if confidence >= 1.0:
        return 0.0
    accuracy = lower_limit(right, guesses, confidence)
    if accuracy <= 0.5:
        return 0.0
    return log(accuracy / (1.0 - accuracy)) if accuracy < 1.0 else inf


def one_run(mechanism: Mechanism, terms: Terms, key: bytes, canaries: int = 1_000) -> Finding:
    """Recipe 5: one release, in which a coin decided of each of many users whether they are in; guess all coins.

    Each canary is one clip along a coordinate of its own. Finds missing noise in a single run.
    """
    coins = np.frombuffer(named_key(key, "coins") * (canaries // 32 + 1), np.uint8)[:canaries]
    rng = np.random.default_rng(coins.tolist())
    is_in = rng.random(canaries) < 0.5
    out = -1.0 if terms.mode is Mode.LOCAL else 0.0
    rows = np.diag(np.where(is_in, 1.0, out) * terms.clip_norm)
    cohort = tuple(f"canary-{n}" for n in range(canaries))
    released = mechanism(rows, Run(named_key(key, "one run"), 0, cohort))
    guessed: NDArray[np.bool_] = released > 0.5 * (1.0 + out) * terms.clip_norm
    bound = one_run_bound(int((guessed == is_in).sum()), canaries, terms.delta)
    return Finding("one run", bound <= terms.epsilon, bound, 0.0, terms.epsilon, "epsilon, at least")
