"""Rules that outvote poisoned contributions, where single ones may be read: under local noise, on small heads.

A rule that is not a sum breaks the sensitivity on which central noise rests, and a secure sum shows nothing to
vote on. Under local noise any rule is post-processing and costs no privacy, but the noise hides attackers as
well as it hides users: with many dimensions the norm bound of `noise_gate` is what is left. Multi-Krum is for lines
without noise: attackers who send the same numbers are nearer to each other than honest devices under their noise.
"""

from __future__ import annotations

from enum import StrEnum
from math import inf, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from udfs.privacy.fixed_point import from_units
from udfs.privacy.terms import Mode

MAX_KEPT_NUMBERS: Final = 1 << 20
"""Numbers of single contributions that a line may keep, 8 bytes each."""
MAX_KEPT_DIMENSION: Final = 32_768
"""A contribution is kept in one state value."""


class Rule(StrEnum):
    """How a cohort becomes a change of the model."""

    NONE = "none"
    """The sum."""
    NORM_BOUND = "norm_bound"
    """The sum of contributions that are shortened to a bound: keeps nothing, and no sensitivity grows."""
    TRIMMED_MEAN = "trimmed_mean"
    MULTI_KRUM = "multi_krum"

    @property
    def keeps_contributions(self) -> bool:
        """Whether single contributions are kept until the release."""
        return self in (Rule.TRIMMED_MEAN, Rule.MULTI_KRUM)


def check_rule(
    rule: Rule,
    share: float,
    bound_clips: float,
    mode: Mode,
    noise_multiplier: float,
    cohort: tuple[int, int],
    dimension: int,
) -> None:
    """Refuse a rule where a promise would not hold.

    Parameters
    ----------
    share
        Of attackers in a cohort that the rule is to withstand.
    bound_clips
        Of `Rule.NORM_BOUND`.
    cohort
        `cohort_min` and `cohort_size` of the line.

    Raises
    ------
    ValueError
        What is wanted, and why.
    """
    if rule is Rule.NONE:
        return
    least, most = cohort
    if mode is Mode.DISTRIBUTED:
        raise ValueError(
            f"robust_rule: {rule} changes or drops contributions, and with them shares of the noise: wanted none in "
            "distributed mode"
        )
    if rule is Rule.NORM_BOUND:
        if not 0.0 < bound_clips <= 1.0 and mode is Mode.CENTRAL:
            raise ValueError(
                f"robust_bound_clips: wanted above 0 and at most 1, the clip, got {bound_clips:g}"
            )
        if not 0.0 < bound_clips < inf:
            raise ValueError(f"robust_bound_clips: wanted above 0, got {bound_clips:g}")
        return
    if mode is Mode.CENTRAL and noise_multiplier > 0.0:
        raise ValueError(
            f"robust_rule: {rule} is no sum, so central noise for a sum does not cover it: wanted local mode, "
            "norm_bound, or noise_multiplier 0 and with it no privacy"
        )
    if not 0.0 <= share < 0.5:
        raise ValueError(f"robust_share: wanted 0 to below 0.5, got {share:g}")
    if rule is Rule.MULTI_KRUM and least < int(share * least) + 3:
        raise ValueError(f"cohort_min: wanted {int(share * least) + 3} or more for multi_krum, got {least}")
    if dimension > MAX_KEPT_DIMENSION or most * dimension > MAX_KEPT_NUMBERS:
        raise ValueError(
            f"robust_rule: {rule} keeps single contributions: wanted at most {MAX_KEPT_DIMENSION} numbers in each "
            f"and {MAX_KEPT_NUMBERS} in a cohort, got {dimension} and {most * dimension}"
        )


def bounded_units(units: NDArray[np.int64], bound: float) -> NDArray[np.int64]:
    """Shorten contributions int64 (k, d) to a norm, in whole units cut toward zero; shorter ones stay as they are.

    Examples
    --------
    >>> (bounded_units(np.array([[3 << 24, 4 << 24], [1, 2]]), 1.0) / 2**24).round(3).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    >>> bounded_units(np.array([[1, 2]]), 1.0).tolist()
    [[1, 2]]
    """
    made = units.copy()
    for place, row in enumerate(units):  # one by one: the sum of squares must not depend on the neighbours
        values = from_units(row)
        norm = sqrt(float(values @ values))
        if norm > bound:
            made[place] = np.trunc(row * (bound / norm)).astype(np.int64)
    return made


def robust_total(rule: Rule, share: float, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a rule makes of single contributions (k, d), as a sum of k: its mean times k.

    Parameters
    ----------
    rows
        Weighted, in units, in an order that does not depend on arrival.
    """
    count = len(rows)
    attackers = int(share * count)
    if rule is Rule.TRIMMED_MEAN:
        return trimmed_mean(rows, attackers) * count
    chosen = multi_krum(rows, attackers, count - attackers)
    kept: NDArray[np.float64] = rows[chosen].mean(axis=0) * count
    return kept


def norm_bounded(rows: NDArray[np.float64], bound: float) -> NDArray[np.float64]:
    """Shorten rows (k, d) that are longer than the bound.

    Examples
    --------
    >>> norm_bounded(np.array([[3.0, 4.0], [0.3, 0.4]]), 1.0).round(3).tolist()
    [[0.6, 0.8], [0.3, 0.4]]
    """
    norms = np.sqrt(np.einsum("kd,kd->k", rows, rows))
    shares = np.minimum(1.0, bound / np.maximum(norms, np.finfo(np.float64).tiny))
    bounded: NDArray[np.float64] = rows * shares[:, None]
    return bounded


def trimmed_mean(rows: NDArray[np.float64], trim: int) -> NDArray[np.float64]:
    """Mean of each coordinate without its `trim` least and `trim` greatest values; (d,).

    Withstands up to `trim` attackers. Source: Yin et al., "Byzantine-Robust Distributed Learning" (2018).

    Examples
    --------
    >>> trimmed_mean(np.array([[1.0], [2.0], [3.0], [1e9]]), 1).tolist()
    [2.5]
    """
    count = rows.shape[0]
    if not 0 <= 2 * trim < count:
        raise ValueError(f"trim: wanted below half of {count} rows, got {trim}")
    kept: NDArray[np.float64] = np.sort(rows, axis=0)[trim : count - trim].mean(axis=0)
    return kept


def multi_krum(rows: NDArray[np.float64], attackers: int, keep: int) -> NDArray[np.int64]:
    """Indices of the `keep` rows that lie closest to their neighbours, ascending.

    A row's score is the sum of its squared distances to its k - attackers - 2 nearest others. Equal scores: the
    first row. Source: Blanchard et al., "Machine Learning with Adversaries" (2017), section 4.

    Examples
    --------
    >>> multi_krum(np.array([[0.0], [0.1], [0.2], [0.3], [50.0]]), attackers=1, keep=2).tolist()
    [1, 2]
    """
    count = rows.shape[0]
    near = count - attackers - 2
    if near < 1 or not 1 <= keep <= count - attackers:
        raise ValueError(
            f"wanted at least {attackers + 3} rows and keep up to {count - attackers}, got {count}, {keep}"
        )
    squares = np.einsum("kd,kd->k", rows, rows)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2.0 * (rows @ rows.T), 0.0)
    np.fill_diagonal(distances, np.inf)
    scores = np.sort(distances, axis=1)[:, :near].sum(axis=1)
    chosen: NDArray[np.int64] = np.sort(np.argsort(scores, kind="stable")[:keep])
    return chosen
