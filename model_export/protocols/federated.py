"""The federated protocol: what a table learnt from devices is worth, by privacy mode and epsilon.

Users are clients. A device keeps its user's history; what it sends is clipped and noised as its mode says. The
figures are NDCG@10 on real users, beside popularity and the same table learnt by a server that sees everything.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from model_export.protocols.federated_table import PAIRED_ITEMS, Matrix, learn, scores
from model_export.protocols.list_quality import ListQuality, top_lists
from model_export.protocols.rating_log import LIKED, RatingLog, read_ratings, split_by_user
from model_export.sources import online_retail
from model_export.sources.event_log import midnight_ms
from udfs.federate.pair_table import pair_vectors
from udfs.privacy.terms import Mode

EPSILONS: Final = (0.1, 1.0, 4.0, 10.0)
DELTA: Final = 1e-5
RETAIL_CUT: Final = "2011-11-01"
DAY_MS: Final = 86_400_000
_CENTRAL_RIDGE: Final = 200.0


class Problem(NamedTuple):
    """Users, what they took, and what they took next.

    Attributes
    ----------
    name, sha256
        Of the data.
    weights
        float64 (n_users, n_items): what a device tells of, 0 is nothing.
    history
        float64 (n_users, n_items): what a device ranks by.
    known
        bool (n_users, n_items): left out of lists.
    tested
        int64 (t,): users with something to predict.
    wanted
        Their items.
    """

    name: str
    sha256: str
    weights: Matrix
    history: Matrix
    known: npt.NDArray[np.bool_]
    tested: npt.NDArray[np.int64]
    wanted: tuple[frozenset[int], ...]


class Point(NamedTuple):
    """One place of the curve: NDCG@10, a mean over seeds.

    Attributes
    ----------
    users_error
        Standard error over users, of one seed.
    least, most
        Of the seeds.
    """

    data: str
    mode: str
    epsilon: float
    ndcg: float
    users_error: float
    least: float
    most: float
    seeds: int
    cpu_s: float


def movielens(path: Path) -> Problem:
    """MovieLens-100K, the ratings protocol's split by user; liked films weigh more, and newer ones."""
    log = read_ratings(path)
    found = split_by_user(log)
    learnt = found.learnt
    liked = np.where(learnt.ratings >= LIKED, 1.0, 0.3)
    weights = np.zeros((learnt.n_users, learnt.n_items))
    history = np.zeros_like(weights)
    age = _places_from_the_end(learnt)
    weights[learnt.users, learnt.items] = liked * 0.99**age
    history[learnt.users, learnt.items] = liked * 0.97**age
    tested = np.asarray(found.tested, np.int64)
    return Problem("MovieLens-100K", log.sha256, weights, history, learnt.rated(), tested, found.wanted)


def retail(path: Path) -> Problem:
    """Online Retail: the first invoice of known customers after the cut, items new to the customer."""
    log = online_retail.read(path)
    cut_ms = midnight_ms(RETAIL_CUT)
    user_ids, item_ids = np.array(log.columns["user_id"]), np.array(log.columns["item_id"])
    before = log.times_ms < cut_ms
    users, rows = np.unique(user_ids[before], return_inverse=True)
    items, columns = np.unique(item_ids[before], return_inverse=True)
    days = (cut_ms - log.times_ms[before]) / DAY_MS
    weights = np.zeros((len(users), len(items)))
    history = np.zeros_like(weights)
    np.maximum.at(weights, (rows, columns), 0.5 ** (days / 180.0))
    np.maximum.at(history, (rows, columns), 0.5 ** (days / 90.0))
    row_of = {name: row for row, name in enumerate(users.tolist())}
    column_of = {name: column for column, name in enumerate(items.tolist())}
    first: dict[int, str] = {}
    wanted: dict[int, set[int]] = {}
    for place in np.flatnonzero(~before).tolist():
        row, column = row_of.get(str(user_ids[place])), column_of.get(str(item_ids[place]))
        if (
            row is None
            or first.setdefault(row, log.columns["session_id"][place]) != (log.columns["session_id"][place])
        ):
            continue
        if column is not None and weights[row, column] == 0.0:
            wanted.setdefault(row, set()).add(column)
    tested = np.array(sorted(wanted), np.int64)
    return Problem(
        "Online Retail", log.file_sha256, weights, history, weights > 0.0, tested,
        tuple(frozenset(wanted[row]) for row in tested.tolist()),
    )  # fmt: skip


def audited_users(path: Path, items: int = 40) -> Matrix:
    """What each customer of Online Retail would tell of pairs of the items that most took, float64 (n, d)."""
    took = retail(path).weights > 0.0
    most = np.argsort(-took.sum(axis=0), kind="stable")[:items]
    chosen = took[:, most]
    vectors: Matrix = pair_vectors(chosen[chosen.any(axis=1)].astype(np.float64))
    return vectors


def curve(problem: Problem, seeds: Sequence[int], tell: Any = None) -> list[Point]:
    """Measure baselines, and each mode at each epsilon."""
    began_s = time.process_time()
    popular = problem.known.sum(axis=0).astype(np.float64)
    points = [_point(problem, "popularity", inf, [_broadcast(problem, popular)], began_s)]
    began_s = time.process_time()
    points.append(_point(problem, "server, sees all", inf, [_central_scores(problem)], began_s))
    began_s = time.process_time()
    plain = scores(learn(problem.weights, Mode.CENTRAL, inf, DELTA, 0), problem.history)
    points.append(_point(problem, "devices, no noise", inf, [plain], began_s))
    todo = [(mode, epsilon) for mode in Mode for epsilon in EPSILONS]
    for number, (mode, epsilon) in enumerate(todo, start=1):
        began_s = time.process_time()
        made = (scores(learn(problem.weights, mode, epsilon, DELTA, seed), problem.history) for seed in seeds)
        points.append(_point(problem, str(mode), epsilon, made, began_s))
        if tell is not None:
            tell(problem.name, number / len(todo))
    return points


def _point(problem: Problem, mode: str, epsilon: float, made: Any, began_s: float) -> Point:
    found = [_quality(problem, each) for each in made]
    means = [quality["ndcg"] for quality in found]
    return Point(
        problem.name, mode, epsilon, float(np.mean(means)), float(found[0]["ndcg_error"]), min(means), max(means),
        len(found), round(time.process_time() - began_s, 1),
    )  # fmt: skip


def _quality(problem: Problem, made: Matrix) -> dict[str, Any]:
    shown = top_lists(made[problem.tested], problem.known[problem.tested])
    owners = problem.known.sum(axis=0)
    return ListQuality.of(shown, problem.wanted, owners, len(problem.weights)).to_dict()


def _broadcast(problem: Problem, popular: Matrix) -> Matrix:
    return np.broadcast_to(popular, problem.weights.shape).copy()


def _central_scores(problem: Problem) -> Matrix:
    """The same kind of table over all items, without clip, by a server that has every history."""
    gram = problem.weights.T @ problem.weights
    inverse = np.linalg.inv(gram + _CENTRAL_RIDGE * np.eye(len(gram)))
    weights = -inverse / np.diag(inverse)[None, :]
    np.fill_diagonal(weights, 0.0)
    made: Matrix = problem.history @ weights
    return made


def _places_from_the_end(log: RatingLog) -> npt.NDArray[np.int64]:
    counts = np.bincount(log.users, minlength=log.n_users)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    places: npt.NDArray[np.int64] = counts[log.users] - 1 - (np.arange(len(log)) - starts[log.users])
    return places


@dataclass(frozen=True)
class FederatedReport:
    """Curves of one run and what they were made from."""

    points: tuple[Point, ...]
    counts: Mapping[str, Mapping[str, Any]]
    seeds: int
    wall_s: float
    cpu_s: float
    protocol: str = "federated"

    def title(self) -> str:
        """Return the section's heading."""
        return "Learning from devices: quality by privacy mode and epsilon"

    def intro(self) -> str:
        """Return what is predicted from what."""
        return (
            "Users are clients; each contributes a vector of the items taken and one of the pairs among the "
            f"{PAIRED_ITEMS} items that are then most popular, and ranks by the released table with a history that "
            f"never leaves. Epsilon is that of a user over both contributions, at delta {DELTA:g}."
        )

    def tables(self) -> Mapping[str, Sequence[Sequence[str]]]:
        """Return a table for each data set."""
        tables = {}
        for name in self.counts:
            head = ["mode", "epsilon", "NDCG@10", "seeds from", "to", "of no noise", "CPU-s"]
            rows = [self._row(point) for point in self.points if point.data == name]
            tables[name] = [head, *rows]
        return tables

    def remarks(self) -> Sequence[str]:
        """Return what is to be said with the figures."""
        sizes = "; ".join(
            f"{name}: {each['users']:,} users, {each['items']:,} items, {each['tested']:,} users tested, "
            f"SHA-256 {each['sha256']}"
            for name, each in self.counts.items()
        )
        return [
            f"{sizes}. ± is the standard error over users; {self.seeds} seeds of noise. MovieLens: the split by user "
            "of the ratings protocol. Online Retail: items new to the customer in the first invoice after the cut.",
            "Local mode has its noise on every device: pairs drown in it, so its budget goes to popularity alone. "
            "Distributed mode adds shares on the devices that make the same noise in the sum; it protects from the "
            "operator only with a secure sum. Ridge, cut and number of paired items were chosen on the time before "
            "the test: they are not fitted to it.",
            f"{self.wall_s:.0f} s, {self.cpu_s:.0f} CPU-s.",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        points = [
            {
                **point._asdict(),
                "epsilon": None if point.epsilon == inf else point.epsilon,
                "of_no_noise": round(point.ndcg / self._plain(point.data) - 1.0, 4),
            }
            for point in self.points
        ]
        return {
            "protocol": self.protocol,
            "delta": DELTA,
            "seeds": self.seeds,
            "counts": {name: dict(each) for name, each in self.counts.items()},
            "points": points,
            "wall_s": round(self.wall_s, 1),
            "cpu_s": round(self.cpu_s, 1),
        }

    def _row(self, point: Point) -> list[str]:
        return [
            point.mode,
            "" if point.epsilon == inf else f"{point.epsilon:g}",
            f"{point.ndcg:.4f} ± {point.users_error:.4f}",
            f"{point.least:.4f}" if point.seeds > 1 else "",
            f"{point.most:.4f}" if point.seeds > 1 else "",
            f"{100 * (point.ndcg / self._plain(point.data) - 1):+.1f} %",
            f"{point.cpu_s:.1f}",
        ]

    def _plain(self, data: str) -> float:
        found = [
            point.ndcg for point in self.points if point.data == data and point.mode == "devices, no noise"
        ]
        return found[0]


def counts_of(problem: Problem) -> dict[str, Any]:
    """Return sizes and hash of a problem."""
    return {
        "users": len(problem.weights),
        "items": problem.weights.shape[1],
        "tested": len(problem.tested),
        "sha256": problem.sha256,
    }
