"""Item-to-item models of ratings in order of time: linear ones (EASE), and what follows what.

Rows of a score matrix are users, columns items. A user's history enters as weights that fall with each newer rating.

Source: Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019 (EASE); its window is ours: a pair of
items counts the less, the more ratings lie between them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_export.protocols.rating_log import LIKED, RatingLog

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Window:
    """How much a pair of one user's ratings counts.

    Parameters
    ----------
    ratings
        It falls by e for each so many ratings between the two; None: it does not.
    seconds
        The same by time.
    direction
        1: only items after the first one, -1: only before, 0: both.
    """

    ratings: float | None = None
    seconds: float | None = None
    direction: int = 0

    def weights(self, times_s: npt.NDArray[np.int64]) -> Matrix:
        """Return float32 (m, m) for a user's m ratings in order of time."""
        place = np.arange(len(times_s))
        gap = place[None, :] - place[:, None]
        weight = np.ones(gap.shape, np.float32)
        if self.ratings is not None:
            weight *= np.exp(-np.abs(gap) / self.ratings, dtype=np.float32)
        if self.seconds is not None:
            weight *= np.exp(-np.abs(times_s[None, :] - times_s[:, None]) / self.seconds, dtype=np.float32)
        if self.direction:
            weight *= gap * self.direction > 0
        return weight


def by_user(log: RatingLog) -> list[slice]:
    """Return each user's ratings."""
    counts = np.bincount(log.users, minlength=log.n_users)
    ends = np.cumsum(counts)
    return [slice(int(end - count), int(end)) for end, count in zip(ends, counts, strict=True)]


def liking(log: RatingLog, disliked: float) -> Matrix:
    """Return float32 (n,): 1 for a rating of `LIKED` or more, `disliked` for a lower one."""
    return np.where(log.ratings >= LIKED, np.float32(1.0), np.float32(disliked))


def histories(log: RatingLog, decay: float, disliked: float = 1.0) -> Matrix:
    """Return what users come with, float32 (n_users, n_items).

    Parameters
    ----------
    log
        Their ratings.
    decay
        Weight of a rating relative to the next one.
    disliked
        Weight of a rating below `LIKED`.

    Examples
    --------
    >>> log = RatingLog(np.array([0, 0]), np.array([1, 0]), np.array([4.0, 1.0]), np.array([1, 2]), 1, 3)
    >>> histories(log, decay=0.5, disliked=0.2).tolist()
    [[0.20000000298023224, 0.5, 0.0]]
    """
    place, count = log.places()
    weights = np.zeros((log.n_users, log.n_items), np.float32)
    weights[log.users, log.items] = decay ** (count - 1 - place) * liking(log, disliked)
    return weights


def pair_counts(log: RatingLog, window: Window, source: Matrix, target: Matrix) -> Matrix:
    """Return counts of item pairs within users, float32 (n_items, n_items): row first, column second.

    Parameters
    ----------
    log
        n ratings.
    window
        Weight of a pair by its distance.
    source, target
        float32 (n,): weights of a rating as the first and the second of a pair.
    """
    counts = np.zeros((log.n_items, log.n_items), np.float32)
    for own in by_user(log):
        items = log.items[own]
        weights = window.weights(log.times_s[own]) * source[own, None] * target[None, own]
        counts[np.ix_(items, items)] += weights
    return counts


def ease(gram: Matrix, l2: float) -> Matrix:
    """Return the item weights of EASE, float32 (n_items, n_items): column i predicts item i, its diagonal is 0.

    Parameters
    ----------
    gram
        Symmetric counts of pairs, an item with itself on the diagonal.
    l2
        Regularisation.
    """
    regular = gram.astype(np.float64)
    regular[np.diag_indices(len(regular))] += l2
    inverse = np.linalg.inv(regular)
    weights = -inverse / np.diag(inverse)[None, :]
    np.fill_diagonal(weights, 0.0)
    return np.asarray(weights, np.float32)


def linear_model(log: RatingLog, window: Window, disliked: float, l2: float) -> Matrix:
    """Return EASE learnt from pairs within a window, `disliked` being the weight of low ratings."""
    weights = liking(log, disliked)
    return ease(pair_counts(log, window, weights, weights), l2)


def predicted_ratings(log: RatingLog, l2: float = 200.0, prior: float = 5.0) -> tuple[Matrix, Matrix]:
    """Return predicted ratings, float32 (n_users, n_items), and the items' means, (n_items,).

    Means of items and users, drawn to the overall mean by `prior` ratings, and EASE on what they leave.
    """
    mean = float(log.ratings.mean())
    rated = np.bincount(log.items, minlength=log.n_items)
    of_item = (np.bincount(log.items, log.ratings, log.n_items) + prior * mean) / (rated + prior)
    left = log.ratings - of_item[log.items]
    by = np.bincount(log.users, minlength=log.n_users)
    of_user = np.bincount(log.users, left, log.n_users) / (by + prior)
    rest = np.zeros((log.n_users, log.n_items), np.float32)
    rest[log.users, log.items] = left - of_user[log.users]
    found = of_item[None, :] + of_user[:, None] + rest @ ease(rest.T @ rest, l2)
    return found.astype(np.float32), of_item.astype(np.float32)
