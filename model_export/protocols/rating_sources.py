"""What is known of an item for a user from ratings in order of time: the columns that the learned ranker sees.

Every column is float32 (n_users, n_items), learnt from the same ratings. `SessionIndex` is the one that streams: here
it reads everybody's ratings, cut into short sessions, in order of time. The linear models and the counts of what
follows what are sums over users that a stream can keep, but here they are made in one pass.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model_export.protocols.rating_log import RatingLog
from model_export.protocols.rating_models import (
    Matrix,
    Window,
    by_user,
    histories,
    liking,
    linear_model,
    pair_counts,
    predicted_ratings,
)
from udfs.neighbours.index_arrays import IndexLimits
from udfs.neighbours.scan_arrays import N_SUMS, SUMS, Queries, ScanSettings
from udfs.neighbours.session_index import SessionIndex

LOW = 0.3
"""Weight of a rating below `LIKED`, relative to one above: it was chosen too."""
LINEAR: dict[str, tuple[Window, float, float, tuple[float, ...]]] = {
    "ease": (Window(), 1.0, 500.0, (0.8, 0.9, 0.97, 1.0)),
    "ease_liked": (Window(), 0.0, 300.0, (0.95, 0.99)),
    "ease_graded": (Window(), LOW, 400.0, (0.95, 0.99)),
    "window_15": (Window(ratings=15.0), LOW, 200.0, (0.9, 0.97)),
    "window_40": (Window(ratings=40.0), LOW, 200.0, (0.85, 0.95)),
    "window_120": (Window(ratings=120.0), LOW, 200.0, (0.95,)),
    "half_hour": (Window(seconds=1800.0), LOW, 200.0, (0.9, 0.95)),
}
"""Name to window, weight of low ratings when learning, regularisation, and recency of the user's history."""
FOLLOWING: dict[str, tuple[Window, tuple[float, ...]]] = {
    "after_5": (Window(ratings=5.0, direction=1), (0.7, 0.95)),
    "after_20": (Window(ratings=20.0, direction=1), (0.9, 0.98)),
    "after_100": (Window(ratings=100.0, direction=1), (0.9, 0.98)),
    "before_10": (Window(ratings=10.0, direction=-1), (0.9, 0.98)),
    "same_page": (Window(seconds=0.5), (0.7, 0.95)),
    "same_minute": (Window(seconds=30.0), (0.7, 0.95)),
}
PRIOR = 5.0
"""Ratings that an item's count is drawn up by: rare items say little."""
NEIGHBOUR_SESSION = 24
"""Ratings a session of the index; its queries have 9 items."""
NEIGHBOURS = ScanSettings(
    query_decay=0.9, neighbours=150, length_power=0.0, half_age_clicks=1e12, gap_clicks=8.0
)
DAY_S = 86_400.0
BEST_OF = 10


def sources(log: RatingLog, genres: npt.NDArray[np.float32] | None = None) -> dict[str, Matrix]:
    """Return all columns by name.

    Parameters
    ----------
    log
        What is learnt from.
    genres
        float32 (n_items, G), 0 or 1; None where nothing is known of the items.
    """
    found: dict[str, Matrix] = {}
    for name, (window, disliked, l2, decays) in LINEAR.items():
        model = linear_model(log, window, disliked, l2)
        for decay in decays:
            found[f"{name}.{decay}"] = histories(log, decay, disliked) @ model
    _following(log, found)
    _session_neighbours(log, found)
    _items(log, found)
    _moment(log, found)
    if genres is not None:
        share = genres.mean(axis=0) + 0.01
        item = genres / np.sqrt(np.maximum(genres.sum(axis=1, keepdims=True), 1.0)) / np.sqrt(share)
        for decay in (0.8, 0.97):
            weights = histories(log, decay)
            taste = weights @ item / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
            found[f"genres.{decay}"] = taste @ item.T
    return {name: np.ascontiguousarray(column, np.float32) for name, column in found.items()}


def _following(log: RatingLog, found: dict[str, Matrix]) -> None:
    """Add P(i|j) by order and time, summed over the user's items, plain and over the item's own frequency."""
    rated = np.bincount(log.items, minlength=log.n_items).astype(np.float32) + np.float32(PRIOR)
    ones, graded = np.ones(len(log), np.float32), liking(log, LOW)
    last = np.zeros((log.n_users, log.n_items), np.float32)
    for user, own in enumerate(by_user(log)):
        if own.stop > own.start:
            newest = log.times_s[own] == log.times_s[own.stop - 1]
            last[user, log.items[own][newest]] = 1.0
    for name, (window, decays) in FOLLOWING.items():
        counts = pair_counts(log, window, ones, ones if name == "same_page" else graded)
        np.fill_diagonal(counts, 0.0)
        probability = counts / rated[:, None]
        lift = probability / np.sqrt(rated)[None, :]
        for decay in decays:
            found[f"{name}.{decay}"] = histories(log, decay) @ probability
        found[f"{name}.lift"] = histories(log, decays[0]) @ lift
        if name == "same_page":
            found["page_of_last"] = last @ probability
            found["last_page_items"] = np.tile(last.sum(axis=1)[:, None], (1, log.n_items))
        if name in ("after_5", "before_10", "same_minute"):
            found[f"{name}.best"] = _best(log, lift)


def _best(log: RatingLog, pairs: Matrix) -> Matrix:
    """Return the greatest single term of the user's newest items."""
    best = np.zeros((log.n_users, log.n_items), np.float32)
    for user, own in enumerate(by_user(log)):
        newest = log.items[own][::-1][:BEST_OF]
        if len(newest):
            decays = (0.9 ** np.arange(len(newest))).astype(np.float32)
            best[user] = (pairs[newest] * decays[:, None]).max(axis=0)
    return best


def _session_neighbours(log: RatingLog, found: dict[str, Matrix]) -> None:
    """Add the session index's scores. The newest of a user's sessions is no neighbour; earlier ones may be."""
    place, _ = log.places()
    sessions = log.users.astype(np.int64) * 4096 + place // NEIGHBOUR_SESSION
    index = SessionIndex(IndexLimits(1 << 14, 1024, 1 << 18), NEIGHBOURS, log.n_items)
    order = np.lexsort((place, log.times_s))
    index.observe_all(sessions[order].astype(np.uint64), log.items[order])
    own = by_user(log)
    start = np.array([part.start for part in own], np.int64)
    stop = np.array([part.stop for part in own], np.int64)
    newest = np.array([sessions[part.stop - 1] if part.stop > part.start else -1 for part in own], np.int64)
    answer = index.query(Queries(log.items, start, stop, newest.astype(np.uint64)), log.n_items)
    users, places = np.nonzero(answer.rows >= 0)
    for at, name in enumerate(SUMS[:N_SUMS]):
        column = np.zeros((log.n_users, log.n_items), np.float32)
        column[users, answer.rows[users, places]] = answer.scores[users, places, at]
        found[f"sessions.{name}"] = column


def _items(log: RatingLog, found: dict[str, Matrix]) -> None:
    """Add what is known of the item, and where in their histories people rate it."""
    place, count = log.places()
    rated = np.bincount(log.items, minlength=log.n_items)
    predicted, mean = predicted_ratings(log)
    found["predicted_rating"] = predicted
    by = np.bincount(log.users, minlength=log.n_users)
    late = np.bincount(log.items, place / np.maximum(count, 1), log.n_items) / np.maximum(rated, 1)
    logs = np.log1p(place)
    usual = (np.bincount(log.items, logs, log.n_items) + 3 * logs.mean()) / (rated + 3)
    rank = np.log2(1.0 + np.argsort(np.argsort(-rated, kind="stable"), kind="stable"))
    weights = histories(log, 0.9)
    taste = weights @ rank / np.maximum(weights.sum(axis=1), 1e-9)
    users = log.n_users
    found["rated"] = np.tile(rated[None, :], (users, 1))
    found["liked"] = np.tile(histories(log, 1.0, 0.0).sum(axis=0)[None, :], (users, 1))
    found["mean_rating"] = np.tile(mean[None, :], (users, 1))
    found["late"] = np.tile(late[None, :], (users, 1))
    found["place_over_usual"] = np.log1p(by)[:, None] - usual[None, :]
    found["rarer_than_usual"] = rank[None, :] - taste[:, None]
    liked = np.bincount(log.users, liking(log, 0.0), users) / np.maximum(by, 1)
    found["user_rated"] = np.tile(np.log1p(by)[:, None], (1, log.n_items))
    found["user_likes"] = np.tile(liked[:, None], (1, log.n_items))


def _moment(log: RatingLog, found: dict[str, Matrix]) -> None:
    """Add how often an item is rated around the user's last rating, and since when it is there."""
    own = by_user(log)
    last_s = np.array([log.times_s[part.stop - 1] if part.stop > part.start else 0 for part in own])
    order = np.argsort(log.times_s, kind="stable")
    times_s, items = log.times_s[order], log.items[order]
    rated = np.bincount(log.items, minlength=log.n_items)

    def between(start_s: npt.NDArray[np.float64], stop_s: npt.NDArray[np.float64]) -> Matrix:
        low, high = np.searchsorted(times_s, start_s), np.searchsorted(times_s, stop_s)
        rows = [np.bincount(items[a:b], minlength=log.n_items) for a, b in zip(low, high, strict=True)]
        return np.array(rows, np.float32)

    for days in (7, 30):
        around = between(last_s - days * DAY_S, last_s + days * DAY_S)
        share = around / np.maximum(around.sum(axis=1, keepdims=True), 1.0)
        found[f"now.{days}"] = share / (rated / max(len(log), 1) + 1e-5)
    found["before_share"] = (between(np.zeros(len(own)), last_s.astype(np.float64)) + 1) / (rated + 2)
    first_s = np.full(log.n_items, int(log.times_s.max(initial=0)), np.int64)
    np.minimum.at(first_s, log.items, log.times_s)
    found["age_days"] = (last_s[:, None] - first_s[None, :]) / DAY_S
    spans = [
        log.times_s[part.stop - 1] - log.times_s[max(part.stop - 30, part.start)]
        if part.stop > part.start
        else 0
        for part in own
    ]
    found["pace"] = np.tile(np.log1p(np.array(spans, np.float64))[:, None], (1, log.n_items))
