"""Baselines of the ratings protocol, learnt from liked items alone, as their publications have it.

Source: Deshpande and Karypis, "Item-based top-N recommendation algorithms", ACM TOIS 22(1), 2004 (conditional
probability, cosine); Steck, WWW 2019 (EASE).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from model_export.protocols.rating_log import RatingLog
from model_export.protocols.rating_models import Matrix, Window, histories, linear_model

RECENCY = 0.97
"""Weight of a rating relative to the next one."""
NEIGHBOURS = 200
EASE_L2 = 500.0


def popularity(log: RatingLog) -> Matrix:
    """Return float32 (n_users, n_items): by how many users each item is liked."""
    liked = histories(log, 1.0, 0.0).sum(axis=0)
    return np.tile(liked, (log.n_users, 1))


def conditional_probability(log: RatingLog) -> Matrix:
    """Return the sum of P(i liked | j liked) over the user's liked items."""
    liked = histories(log, 1.0, 0.0)
    together = _without_diagonal(liked.T @ liked)
    return np.asarray(liked @ (together / np.maximum(liked.sum(axis=0)[:, None], 1.0)))


def item_cosine(log: RatingLog) -> Matrix:
    """Return the sum of cosines with the user's liked items, newer ones more; each item keeps its best."""
    liked = histories(log, 1.0, 0.0)
    together = _without_diagonal(liked.T @ liked)
    counts = np.maximum(liked.sum(axis=0), 1.0)
    cosine = together / np.sqrt(counts[:, None] * counts[None, :])
    kept = min(NEIGHBOURS, log.n_items)
    least = np.sort(cosine, axis=0)[-kept]
    return np.asarray(histories(log, RECENCY, 0.0) @ np.where(cosine >= least[None, :], cosine, 0.0))


def ease_with_recency(log: RatingLog) -> Matrix:
    """Return EASE's scores for the user's liked items, newer ones more."""
    return np.asarray(histories(log, RECENCY, 0.0) @ linear_model(log, Window(), 0.0, EASE_L2))


BASELINES: Mapping[str, Callable[[RatingLog], Matrix]] = {
    "popularity": popularity,
    "conditional probability": conditional_probability,
    "item cosine, recency": item_cosine,
    "EASE, recency": ease_with_recency,
}


def _without_diagonal(matrix: Matrix) -> Matrix:
    np.fill_diagonal(matrix, 0.0)
    return matrix
