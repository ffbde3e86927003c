"""Our lists for the ratings protocol: boosted trees over many sources, learnt on the end of what is known.

Each user's known ratings are cut twice more, by time. Sources learnt before a cut describe candidates, the user's
liked items between it and the next one label them; then sources learnt from everything known describe the candidates
to be ranked. So nothing behind the protocol's own cut is looked at, for learning or for choosing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xgboost

from model_export.protocols.rating_log import RatingLog, RatingSplit, split_by_user
from model_export.protocols.rating_models import Matrix
from model_export.protocols.rating_sources import FOLLOWING, LINEAR, sources

CUTS = ((0.8, 1.0), (0.64, 0.8))
"""Shares of a user's known ratings: learnt before the first, labelled up to the second."""
LEAST_RATINGS = 20
CANDIDATES = 300
FIRST_STAGE = (
    "ease_liked.0.95", "ease.0.9", "ease_graded.0.95", "window_40.0.95", "window_120.0.95", "half_hour.0.95",
    "after_20.lift", "same_minute.0.95", "same_page.0.95", "sessions.first",
)  # fmt: skip
"""Sources whose reciprocal ranks, added up, choose the candidates."""
RANK_OFFSET = 20.0
PARAMETERS = {
    "objective": "binary:logistic",
    "eta": 0.04,
    "max_depth": 5,
    "subsample": 0.8,
    "colsample_bytree": 0.3,
    "min_child_weight": 5.0,
    "reg_lambda": 5.0,
    "tree_method": "hist",
    "max_bin": 64,
    "nthread": 1,
}
TREES = 300
_PERSONAL = (*LINEAR, *FOLLOWING, "sessions", "page_of_last")
Tell = Callable[[str, float], None]


@dataclass(frozen=True)
class Described:
    """Candidates of U users, C each.

    Parameters
    ----------
    users
        int64 (U,).
    rows
        int64 (U, C): items.
    features
        float32 (U, C, F).
    """

    users: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    features: npt.NDArray[np.float32]

    def labels(self, split: RatingSplit) -> npt.NDArray[np.float32]:
        """Return float32 (U, C): 1 for a wanted item."""
        wanted = np.zeros((split.learnt.n_users, split.learnt.n_items), np.float32)
        for user, items in zip(split.tested, split.wanted, strict=True):
            wanted[user, list(items)] = 1.0
        return np.asarray(wanted[self.users[:, None], self.rows])


def describe(
    log: RatingLog, users: npt.NDArray[np.int64], genres: npt.NDArray[np.float32] | None
) -> Described:
    """Choose and describe candidates: every source as it is, over the user's greatest, and ranks of the first stage.

    Parameters
    ----------
    log
        What is known; items that a user has rated are no candidates.
    users
        int64 (U,).
    genres
        As for `sources`.
    """
    columns = sources(log, genres)
    rated = log.rated()[users]
    ranks = {name: _ranks(np.where(rated, -np.inf, columns[name][users])) for name in FIRST_STAGE}
    total = np.zeros(rated.shape)
    for places in ranks.values():
        total += 1.0 / (RANK_OFFSET + places)
    total[rated] = -1.0
    rows = np.argsort(-total, axis=1, kind="stable")[:, :CANDIDATES]
    features = []
    for name, column in columns.items():
        values = column[users[:, None], rows]
        features.append(values)
        if name.split(".")[0] in _PERSONAL:
            features.append(values / np.maximum(values.max(axis=1, keepdims=True), 1e-9))
    features += [np.take_along_axis(places, rows, axis=1).astype(np.float32) for places in ranks.values()]
    features.append(np.take_along_axis(total, rows, axis=1).astype(np.float32))
    return Described(users, rows, np.stack(features, axis=-1))


def fit(parts: list[tuple[Described, npt.NDArray[np.float32]]], seed: int) -> xgboost.Booster:
    """Learn which candidates are liked."""
    width = parts[0][0].features.shape[-1]
    features = np.concatenate([found.features.reshape(-1, width) for found, _ in parts])
    labels = np.concatenate([liked.ravel() for _, liked in parts])
    return xgboost.train(PARAMETERS | {"seed": seed}, xgboost.DMatrix(features, labels), TREES)


def learned_ranking(
    log: RatingLog,
    users: npt.NDArray[np.int64],
    genres: npt.NDArray[np.float32] | None,
    seed: int,
    tell: Tell | None = None,
) -> Matrix:
    """Return our scores, float32 (n_users, n_items), for some users; -inf for what is no candidate.

    Parameters
    ----------
    log
        What is known.
    users
        int64 (U,) who get lists.
    genres
        As for `sources`.
    seed
        Of the trees.
    tell
        Called with a phase and the share that is done.
    """
    parts = []
    for number, (cut, end) in enumerate(CUTS):
        if tell is not None:
            tell("tailrace", number / (len(CUTS) + 2))
        split = split_by_user(log, cut=cut, end=end, least_ratings=LEAST_RATINGS, least_wanted=1)
        if len(split.tested):
            found = describe(split.learnt, split.tested, genres)
            parts.append((found, found.labels(split)))
    if tell is not None:
        tell("tailrace", len(CUTS) / (len(CUTS) + 2))
    booster = fit(parts, seed)
    found = describe(log, users, genres)
    predicted = booster.predict(xgboost.DMatrix(found.features.reshape(-1, found.features.shape[-1])))
    scores = np.full((log.n_users, log.n_items), -np.inf, np.float32)
    scores[users[:, None], found.rows] = predicted.reshape(found.rows.shape)
    if tell is not None:
        tell("tailrace", 1.0)
    return scores


def _ranks(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return each item's place in its row, from 0."""
    order = np.argsort(-scores, axis=1, kind="stable")
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.arange(scores.shape[1])[None, :], axis=1)
    return places
