"""Item factors by implicit alternating least squares.

Confidence of a (user, item) pair is 1 + alpha * w, w the sum of the implicit weights of their interactions;
every other pair has confidence 1. That is the objective the stream's fold-in solves for one user, with the
same alpha and regularization (both stand in the bundle), so a user's vector in the stream is the vector this
training would give them, their last 50 interactions being all there is.

Source: Hu, Koren, Volinsky, *Collaborative Filtering for Implicit Feedback Datasets*, ICDM 2008, eq. 3 to 5;
conjugate gradient steps as in Takacs, Pilaszy, Tikk, *Applications of the Conjugate Gradient Method for
Implicit Feedback Collaborative Filtering*, RecSys 2011.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse
from implicit.als import AlternatingLeastSquares  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits

from model_export.interactions import Interactions


@dataclass(frozen=True)
class AlsSettings:
    """How factors are learnt; `alpha` and `regularization` are the fold-in's too."""

    dimension: int = 32
    alpha: float = 2.0
    regularization: float = 5.0
    iterations: int = 15
    max_weight: float = 25.0  # of one pair: five purchases; a wholesaler's hundredth says nothing more

    def __post_init__(self) -> None:
        if not 1 <= self.dimension <= 64:
            raise ValueError(f"dimension: wanted 1 to 64 (what the user state holds), got {self.dimension}")
        if self.alpha <= 0 or self.regularization <= 0 or self.iterations < 1 or self.max_weight <= 0:
            raise ValueError(f"alpha, regularization, iterations and max_weight must be positive: {self}")


def fit_item_factors(
    data: Interactions, settings: AlsSettings, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Learn item factors.

    One thread and one BLAS thread: sums are taken in one order, so equal data and seed give equal bits.

    Parameters
    ----------
    data
        Interactions before the cut.
    settings
        Dimension d and the rest.
    rng
        Of the initial factors.

    Returns
    -------
    float32 (n_items, d).

    Raises
    ------
    FloatingPointError
        When a factor is not finite.
    """
    matrix = pair_weights(data, settings.max_weight)
    matrix.data = 1.0 + settings.alpha * matrix.data
    with threadpool_limits(limits=1, user_api="blas"):
        model = AlternatingLeastSquares(
            factors=settings.dimension,
            regularization=settings.regularization,
            alpha=1.0,
            iterations=settings.iterations,
            use_gpu=False,
            use_native=True,
            use_cg=True,
            num_threads=1,
            dtype=np.float32,
            random_state=int(rng.integers(2**31)),
        )
        model.fit(matrix, show_progress=False)
    factors = np.ascontiguousarray(model.item_factors, np.float32)
    if not np.isfinite(factors).all():
        raise FloatingPointError("item factors are not finite: lower alpha or raise the regularization")
    return factors


def pair_weights(data: Interactions, max_weight: float) -> scipy.sparse.csr_matrix:
    """Return float32 (n_users, n_items): the sum of weights of each pair, at most `max_weight`."""
    matrix = scipy.sparse.coo_matrix(
        (data.weights, (data.users, data.items)), shape=(data.n_users, data.n_items), dtype=np.float32
    ).tocsr()
    matrix.sum_duplicates()
    np.minimum(matrix.data, np.float32(max_weight), out=matrix.data)
    return matrix
