"""Rules that outvote poisoned contributions, where single ones may be read: under local noise, on small heads.

A rule that is not a sum breaks the sensitivity on which central noise rests, and a secure sum shows nothing to
vote on. Under local noise any rule is post-processing and costs no privacy, but the noise hides attackers as
well as it hides users: with many dimensions the norm bound of `noise_gate` is what is left.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
