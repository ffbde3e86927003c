"""Audits by canaries in one cohort, and by guessing who was in it.

Source: Andrew, Kairouz, Oh, Oprea, McMahan, Suriyakumar, "One-shot Empirical Privacy Estimation for Federated
Learning" (2023), algorithm 2; Shokri et al., "Membership Inference Attacks" (2017); the bound of the area under the
curve follows from the trade-off function of Dong, Roth, Su (2022).
"""

from __future__ import annotations

from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from udfs.privacy.audit import STANDARD_ERRORS, Finding, Mechanism, Run, named_key, sum_sigma
from udfs.privacy.gaussian import normal_cdf
from udfs.privacy.terms import Terms

_LITTLE_NOISE: Final = 0.01
"""Of the claimed variance: the guesser bets that noise is missing."""


def one_shot(
    mechanism: Mechanism, terms: Terms, key: bytes, canaries: int = 500, dimension: int = 10_000
) -> Finding:
    """Recipe 6: random directions in one cohort; how much of each can be seen in what is released.

    With d much larger than the cohort, sqrt(d) times the cosine of a direction that is not in is standard normal, and
    that of one that is in is moved by mu. Finds half of the noise in one release.
    """
    rng = np.random.default_rng(list(named_key(key, "one shot")))
    rows = rng.standard_normal((canaries, dimension))
    rows *= terms.clip_norm / np.sqrt(np.einsum("kd,kd->k", rows, rows))[:, None]
    cohort = tuple(f"canary-{n}" for n in range(canaries))
    released = mechanism(rows, Run(named_key(key, "one shot"), 0, cohort))
    length = sqrt(float(released @ released))
    cosines = rows @ released / (terms.clip_norm * length)
    measured = sqrt(dimension) * float(cosines.mean())
    high = terms.mu + STANDARD_ERRORS / sqrt(canaries)
    return Finding("one shot", measured <= high, measured, -high, high, "mu, from directions in one cohort")


def area_under_curve(members: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Chance that a member's score is above that of another; ties count half.

    Examples
    --------
    >>> area_under_curve(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875
    """
    below = np.searchsorted(np.sort(others), members, side="left")
    up_to = np.searchsorted(np.sort(others), members, side="right")
    return float((below + up_to).sum()) / (2.0 * len(members) * len(others))


def membership(mechanism: Mechanism, terms: Terms, key: bytes, vectors: NDArray[np.float64]) -> Finding:
    """Recipe 14: half of real users are in a cohort; who it is can be told no better than mu allows.

    The guesser knows every user's vector, so much more than anybody outside: the release less what a half of all
    would be expected to sum up to, seen through the spread of such sums, in the direction of each user. The area
    under its curve may not be above that of the best test of two normal distributions that are mu apart.

    Parameters
    ----------
    vectors
        float64 (n, d), d at most 2,000: what each user would contribute, of any length.
    """
    rng = np.random.default_rng(list(named_key(key, "members")))
    count = len(vectors)
    is_in = rng.permutation(count) < count // 2
    lengths = np.sqrt(np.einsum("kd,kd->k", vectors, vectors))
    unit = vectors / np.maximum(lengths, 1e-12)[:, None] * terms.clip_norm
    cohort = tuple(f"user-{n}" for n in np.flatnonzero(is_in).tolist())
    released = mechanism(unit[is_in], Run(named_key(key, "membership"), 0, cohort))
    looked_for = released - unit.sum(axis=0) * float(is_in.mean())
    sigma = sum_sigma(terms, int(is_in.sum()))
    spread = unit.T @ unit / 4.0 + _LITTLE_NOISE * sigma * sigma * np.eye(unit.shape[1])
    scores = unit @ np.linalg.solve(spread, looked_for)
    area = area_under_curve(scores[is_in], scores[~is_in])
    n_in, n_out = int(is_in.sum()), int((~is_in).sum())
    error = sqrt((n_in + n_out + 1) / (12.0 * n_in * n_out))
    high = normal_cdf(terms.mu / sqrt(2.0)) + STANDARD_ERRORS * error
    return Finding("membership", area <= high, area, 0.0, high, "area under the curve of a guesser")
