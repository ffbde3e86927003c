"""Which source fills a slot: Thompson sampling among few arms, with the probabilities written out.

Sampling draws from `arm_probabilities`, so the propensity that is logged is exact, not an estimate. Each
user has a Beta posterior an arm. The prior trusts the ranker: a user of whom nothing was learned gets it for
nine slots in ten.

Source: Thompson, Biometrika 25 (1933); Chapelle and Li, NIPS 2011 (discounting as in Garivier and Moulines,
2011).
"""

from struct import pack, unpack
from typing import Final

import numpy as np
from numpy.typing import NDArray

from udfs.bandits.evidence import add_evidence, held
from udfs.bandits.shares import check_floor, mix_with_floor
from udfs.kernel_cache import kernel
from udfs.user_state import SOURCES

PRIOR_ALPHA: Final = (10.0, 1.0, 1.0, 1.0, 1.0)
PRIOR_BETA: Final = (90.0, 49.0, 49.0, 49.0, 49.0)
"""Beta(10, 90) for the ranker, Beta(1, 49) for the others: p(ranker) is .94, .91 with a floor of .01."""
KEEP: Final = 0.995
"""What a credit leaves of the arm's earlier evidence: it remembers some 200 credits."""
MAX_EVIDENCE: Final = 400.0
"""Cap of alpha + beta beyond the prior; the grid resolves posteriors up to here."""

GRID: Final = 192
# Cells of equal width in theta, x = sin(theta)^2: there a Beta posterior is about equally wide everywhere.
_THETA = (np.arange(GRID) + 0.5) * (np.pi / 2 / GRID)
_LOG_X = 2.0 * np.log(np.sin(_THETA))
_LOG_1_X = 2.0 * np.log(np.cos(_THETA))


def credit_arm(alpha: bytes, beta: bytes, arm: int, reward: float) -> tuple[bytes, bytes]:
    """Return the posteriors after arm `arm` earned `reward`.

    Parameters
    ----------
    alpha, beta
        f32 columns in the order of `SOURCES`; empty: the prior.
    arm
        Index in `SOURCES`.
    reward
        In [0, 1]; outside it is clamped.
    """
    alphas = list(unpack(f"<{len(alpha) >> 2}f", alpha)) or list(PRIOR_ALPHA)
    betas = list(unpack(f"<{len(beta) >> 2}f", beta)) or list(PRIOR_BETA)
    more, less = alphas[arm] - PRIOR_ALPHA[arm], betas[arm] - PRIOR_BETA[arm]
    more, less = add_evidence(more, less, held(reward), KEEP, MAX_EVIDENCE)
    alphas[arm] = PRIOR_ALPHA[arm] + more
    betas[arm] = PRIOR_BETA[arm] + less
    return pack(f"<{len(alphas)}f", *alphas), pack(f"<{len(betas)}f", *betas)


def posteriors(alpha: bytes, beta: bytes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return alpha and beta, float64 (K,), of a state's columns: the prior when they are empty."""
    if not alpha:
        return np.array(PRIOR_ALPHA), np.array(PRIOR_BETA)
    return np.frombuffer(alpha, "<f4").astype(np.float64), np.frombuffer(beta, "<f4").astype(np.float64)


def arm_probabilities(
    alpha: NDArray[np.float64], beta: NDArray[np.float64], floor: float
) -> NDArray[np.float64]:
    """Return with which probability each arm is to be played: that it is the best one, mixed with a floor.

    ``P(best = k)`` is the integral of arm k's density times the other arms' distribution functions, here a
    sum over `GRID` cells: the same numbers every time, and no sampling error.

    Parameters
    ----------
    alpha, beta
        (K,), Beta posteriors; > 0.
    floor
        Least probability of every arm, in [0, 0.9 / K].

    Returns
    -------
    p
        float64 (K,), each at least `floor`; multiples of 2**-40, so their sum is exactly 1 in any order.

    Examples
    --------
    >>> p = arm_probabilities(np.array(PRIOR_ALPHA), np.array(PRIOR_BETA), floor=0.01)
    >>> dict(zip(SOURCES, (round(float(x), 2) for x in p)))
    {'ranker': 0.91, 'embedding': 0.02, 'neighbours': 0.02, 'repeat': 0.02, 'popular': 0.02}
    >>> float(p.sum())
    1.0
    """
    arms = len(alpha)
    check_floor(floor, arms)
    log_density = (alpha[:, None] - 0.5) * _LOG_X + (beta[:, None] - 0.5) * _LOG_1_X
    mass = np.exp(log_density - log_density.max(axis=1, keepdims=True))
    mass /= mass.sum(axis=1, keepdims=True)
    below = np.cumsum(mass, axis=1) - mass / 2
    best = np.array([(mass[k] * np.delete(below, k, axis=0).prod(axis=0)).sum() for k in range(arms)])
    return mix_with_floor(best, floor)


def arm_probabilities_batch(
    alpha: NDArray[np.float64], beta: NDArray[np.float64], floor: float
) -> NDArray[np.float64]:
    """Return `arm_probabilities` of many users at once; a row does not depend on its neighbours.

    Parameters
    ----------
    alpha, beta
        (B, K).
    floor
        As for `arm_probabilities`.

    Returns
    -------
    p
        float64 (B, K).
    """
    check_floor(floor, alpha.shape[1])
    wide = np.ascontiguousarray(alpha, np.float64), np.ascontiguousarray(beta, np.float64)
    return _probability_rows(*wide, floor, _LOG_X, _LOG_1_X)


@kernel
def _probability_rows(
    alpha: NDArray[np.float64],
    beta: NDArray[np.float64],
    floor: float,
    log_x: NDArray[np.float64],
    log_1_x: NDArray[np.float64],
) -> NDArray[np.float64]:
    rows, arms = alpha.shape
    cells = len(log_x)
    result = np.empty((rows, arms))
    mass = np.empty((arms, cells))
    below = np.empty((arms, cells))
    for row in range(rows):
        for k in range(arms):
            a, b = alpha[row, k] - 0.5, beta[row, k] - 0.5
            same = -1
            for j in range(k):  # most arms still have the prior they share: their curve is there already
                if alpha[row, j] == alpha[row, k] and beta[row, j] == beta[row, k]:
                    same = j
            if same >= 0:
                mass[k] = mass[same]
                below[k] = below[same]
                continue
            peak = -np.inf
            for c in range(cells):
                mass[k, c] = a * log_x[c] + b * log_1_x[c]
                peak = max(peak, mass[k, c])
            total = 0.0
            for c in range(cells):
                mass[k, c] = np.exp(mass[k, c] - peak)
                total += mass[k, c]
            cumulated = 0.0
            for c in range(cells):
                mass[k, c] /= total
                cumulated += mass[k, c]
                below[k, c] = cumulated - mass[k, c] / 2
        everything = 0.0
        for k in range(arms):
            best = 0.0
            for c in range(cells):
                product = mass[k, c]
                for j in range(arms):
                    if j != k:
                        product *= below[j, c]
                best += product
            result[row, k] = best
            everything += best
        top, units = 0, 0.0
        for k in range(arms):
            result[row, k] = floor + (1.0 - arms * floor) * result[row, k] / everything
            if result[row, k] > result[row, top]:
                top = k
        for k in range(arms):
            result[row, k] = np.ceil(result[row, k] * 2.0**40)
            if k != top:
                units += result[row, k]
        result[row, top] = 2.0**40 - units
        for k in range(arms):
            result[row, k] /= 2.0**40
    return result


if not len(PRIOR_ALPHA) == len(PRIOR_BETA) == len(SOURCES):
    raise AssertionError("one prior an arm")
