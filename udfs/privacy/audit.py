"""Audits: measurements on a mechanism that a broken one fails. Passing them is no proof of privacy.

An audit sees a mechanism from outside, as a function from deltas to a released sum, and compares what comes out
with what the terms claim. Each has a bound that the right mechanism passes but once in about a thousand runs,
and that names the faults it is there for.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from math import exp, pi, sqrt
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.refusal import Refused
from udfs.privacy.fixed_point import UNIT
from udfs.privacy.gaussian import normal_cdf
from udfs.privacy.noise_gate import chi_square_quantile
from udfs.privacy.terms import Mode, Terms

CONFIDENCE: Final = 0.999
STANDARD_ERRORS: Final = 3.3
PROBABILITY: Final = 1e-3


class Run(NamedTuple):
    """One use of a mechanism.

    Attributes
    ----------
    key
        Secret bytes; another key, other noise.
    version
        Base version of all contributions.
    cohort
        Name of each contribution.
    attempt
        Counts retries of the same release; a right mechanism does not look at it.
    """

    key: bytes
    version: int
    cohort: tuple[str, ...]
    attempt: int = 0


Mechanism = Callable[[NDArray[np.float64], Run], NDArray[np.float64]]
"""From deltas float64 (k, d) to their released sum, float64 (d,): clipped, with all its noise."""


class Finding(NamedTuple):
    """What an audit measured.

    Attributes
    ----------
    audit
        Its name.
    passed
        Whether the measure lies within the bounds, both included.
    measured, low, high
        The measure and its bounds.
    says
        What is measured, for people.
    """

    audit: str
    passed: bool
    measured: float
    low: float
    high: float
    says: str


def sum_sigma(terms: Terms, contributions: int) -> float:
    """Standard deviation that the terms claim for a sum of so many fresh contributions."""
    return terms.release_sigma or terms.device_sigma * sqrt(contributions)


def noise_scale(mechanism: Mechanism, terms: Terms, key: bytes, dimension: int = 100_000) -> Finding:
    """Recipe 1: nothing in, so what comes out is noise, as wide as claimed. Finds missing and halved noise."""
    released = mechanism(np.zeros((1, dimension)), Run(named_key(key, "scale"), 0, ("a",)))
    ratio = sqrt(float(released @ released) / dimension) / sum_sigma(terms, 1)
    return _within(
        "noise scale", ratio, *_deviation_band(dimension), "deviation of the noise, in claimed ones"
    )


def noise_shape(
    mechanism: Mechanism, terms: Terms, key: bytes, dimension: int = 10_000, resolution: float = UNIT
) -> Finding:
    """Recipe 2: the noise is normal, neighbours are independent, so are two releases, and nothing is coarse.

    Parameters
    ----------
    resolution
        What the released numbers are multiples of, by public terms. Coarser noise, such as one that went
        through half precision, depends on the data in its low bits.
    """
    zeros = np.zeros((1, dimension))
    sigma = sum_sigma(terms, 1)
    first = mechanism(zeros, Run(named_key(key, "shape"), 0, ("a",))) / sigma
    second = mechanism(zeros, Run(named_key(key, "shape"), 1, ("b",))) / sigma
    distinct = len(np.unique(first)) / _distinct_expected(dimension, sigma / resolution)
    chances = (
        _kolmogorov(first),
        _no_correlation(first[1:], first[:-1]),
        _no_correlation(first, second),
        1.0 if distinct > 0.95 else 0.0,
    )
    return _within("noise shape", min(chances), PROBABILITY, 1.0, "least probability of four tests")


def two_worlds(mechanism: Mechanism, terms: Terms, key: bytes, runs: int = 2_000) -> Finding:
    """Recipe 3: how far apart are the releases of two inputs that must be hard to tell apart.

    Zero-out adjacency compares nothing with a contribution of norm C, replace two opposite ones. The measured
    mu must not exceed the claimed one. Finds half the noise and a variance taken for a deviation.
    """
    direction = np.array([1.0, 0.0])
    near = -direction if terms.mode is Mode.LOCAL else 0.0 * direction
    worlds = []
    for name, delta in (("near", near), ("far", direction)):
        rows = (terms.clip_norm * delta)[None, :]
        secret = named_key(key, name)
        worlds.append(releases_first_numbers(mechanism, rows, secret, runs))
    deviation = sqrt(0.5 * (float(np.var(worlds[0], ddof=1)) + float(np.var(worlds[1], ddof=1))))
    apart = abs(float(worlds[1].mean() - worlds[0].mean()))
    measured = apart / deviation if deviation > 0.0 else np.inf
    # The mean's error, and that of the deviation, which matters where mu is large.
    error = sqrt(2.0 / runs + terms.mu * terms.mu / (4.0 * runs))
    return _within("two worlds", measured, 0.0, terms.mu + STANDARD_ERRORS * error, "measured mu")


def clip_holds(
    mechanism: Mechanism, terms: Terms, key: bytes, contributions: int = 50, runs: int = 40
) -> Finding:
    """Recipe 7: one delta of 1,000 clips among zeros moves the sum by at most a clip; NaN and infinity are refused.

    Finds clipping after averaging, and none.
    """
    rows = np.zeros((contributions, 2))
    rows[0, 0] = 1000.0 * terms.clip_norm
    secret = named_key(key, "clip")
    moved = float(releases_first_numbers(mechanism, rows, secret, runs).mean()) / terms.clip_norm
    slack = STANDARD_ERRORS * sum_sigma(terms, contributions) / sqrt(runs) / terms.clip_norm
    for bad in (np.nan, np.inf, -np.inf):
        rows[0, 0] = bad
        try:
            mechanism(rows, Run(secret, 0, _names(contributions, 0)))
        except Refused:
            continue
        moved = np.inf
    return _within("clip", moved, -slack, 1.0 + slack, "clips by which 1,000 clips move a sum")


def replay_is_silent(mechanism: Mechanism, terms: Terms, key: bytes, attempts: int = 5) -> Finding:
    """Recipe 9: the same cohort, released again, is the same bytes. Finds noise that averages away."""
    rows = np.full((3, 16), terms.clip_norm / 8.0)
    tries = [
        mechanism(rows, Run(named_key(key, "replay"), 4, ("a", "b", "c"), attempt))
        for attempt in range(attempts)
    ]
    distinct = len({released.tobytes() for released in tries})
    return _within("replay", float(distinct), 1.0, 1.0, "distinct releases of one cohort")


def difference_tells_nothing(
    mechanism: Mechanism, terms: Terms, key: bytes, dimension: int = 10_000
) -> Finding:
    """Recipe 11: two cohorts of one version that differ by a client: their difference has the noise of both.

    Finds noise seeded by the version, with which the difference is the client's contribution, exactly.
    """
    rows = np.zeros((3, dimension))
    secret = named_key(key, "difference")
    more = mechanism(rows, Run(secret, 4, ("a", "b", "c")))
    less = mechanism(rows[:2], Run(secret, 4, ("a", "b")))
    difference = more - less
    # Devices that are in both send the same bytes twice, so in local mode theirs cancel: the client's own stays.
    claimed = sqrt(2.0) * terms.release_sigma or terms.device_sigma
    ratio = sqrt(float(difference @ difference) / dimension) / claimed
    low, high = _deviation_band(dimension)
    return _within("difference", ratio, low, high, "deviation of a difference, in claimed ones")


def gate_refuses(
    check: Callable[[NDArray[np.float64]], None],
    terms: Terms,
    dimension: int,
    key: bytes,
    updates: int = 2_000,
) -> Finding:
    """Recipe 12: updates without noise, of any norm up to the clip, do not pass.

    Parameters
    ----------
    check
        Raises `Refused` for an update float64 (d,) without its noise.
    """
    rng = np.random.default_rng(int.from_bytes(named_key(key, "gate")[:8], "big"))
    refused = 0
    for _ in range(updates):
        direction = rng.standard_normal(dimension)
        norm = terms.clip_norm * float(rng.random())
        try:
            check(direction * (norm / sqrt(float(direction @ direction))))
        except Refused:
            refused += 1
    return _within(
        "noise gate", refused / updates, 0.999, 1.0, "share of updates without noise that is refused"
    )


def all_findings(
    mechanism: Mechanism, terms: Terms, key: bytes, runs: int = 2_000, resolution: float = UNIT
) -> list[Finding]:
    """Run every audit that sees a mechanism from outside."""
    return [
        noise_scale(mechanism, terms, key),
        noise_shape(mechanism, terms, key, resolution=resolution),
        two_worlds(mechanism, terms, key, runs),
        clip_holds(mechanism, terms, key),
        replay_is_silent(mechanism, terms, key),
        difference_tells_nothing(mechanism, terms, key),
    ]


def _names(contributions: int, run: int) -> tuple[str, ...]:
    return tuple(f"{run}-{n}" for n in range(contributions))


def releases_first_numbers(
    mechanism: Mechanism, rows: NDArray[np.float64], key: bytes, runs: int
) -> NDArray[np.float64]:
    """First numbers of so many releases; a gate that refuses an honest update now and then is passed by."""
    found: list[float] = []
    refused: Refused | None = None
    for run in range(2 * runs):
        if len(found) == runs:
            break
        try:
            found.append(float(mechanism(rows, Run(key, 0, _names(len(rows), run)))[0]))
        except Refused as caught:
            refused = caught
    if len(found) < runs and refused is not None:
        raise refused
    return np.array(found)


def _distinct_expected(count: int, sigma_steps: float) -> float:
    """Distinct values among `count` normal ones that are rounded to steps."""
    if sigma_steps > 1e5:
        return float(count)
    cells = np.arange(-int(9 * sigma_steps) - 1, int(9 * sigma_steps) + 2) / sigma_steps
    shares = np.exp(-0.5 * cells * cells) / (sqrt(2.0 * pi) * sigma_steps)
    return float(-np.expm1(-count * shares).sum())


def _within(audit: str, measured: float, low: float, high: float, says: str) -> Finding:
    return Finding(audit, bool(low <= measured <= high), float(measured), low, high, says)


def named_key(key: bytes, name: str) -> bytes:
    """A key of its own for one use."""
    return sha256(key + name.encode()).digest()


def _deviation_band(count: int) -> tuple[float, float]:
    rest = (1.0 - CONFIDENCE) / 2.0
    return (
        sqrt(chi_square_quantile(rest, count) / count),
        sqrt(chi_square_quantile(1.0 - rest, count) / count),
    )


def _kolmogorov(values: NDArray[np.float64]) -> float:
    """Probability of so large a distance from the normal distribution, for many values.

    Source: Kolmogorov's limit, with Stephens' (1970) correction for finite samples.
    """
    count = len(values)
    expected = np.array([normal_cdf(float(value)) for value in np.sort(values)])
    steps = np.arange(count)
    distance = float(np.maximum(expected - steps / count, (steps + 1) / count - expected).max())
    x = distance * (sqrt(count) + 0.12 + 0.11 / sqrt(count))
    if x < 0.2:
        return 1.0
    tail = sum((-1.0) ** (n - 1) * exp(-2.0 * n * n * x * x) for n in range(1, 50))
    return min(max(2.0 * tail, 0.0), 1.0)


def _no_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Probability of so large a correlation between independent values."""
    length = sqrt(float(one @ one) * float(other @ other))
    correlation = float(one @ other) / length if length > 0.0 else 1.0
    return 2.0 * normal_cdf(-abs(correlation) * sqrt(len(one)))
