"""Baselines of the sessions protocol, in plain Python: popularity, sequential rules and item-kNN, per click.

Source: Ludewig and Jannach, "Evaluation of session-based recommendation algorithms", UMUAI 28, 2018.
"""

from __future__ import annotations

import math
from collections import defaultdict
from heapq import nlargest

import numpy as np
import numpy.typing as npt

from model_export.protocols.rank_metrics import DEEPEST
from model_export.protocols.session_log import Clicks

RULE_STEPS = 3
SESSION_ITEMS = 20
EVERY_CLICKS = 1_000


class _Baseline:
    """Predicts and learns click by click."""

    learning_s = 0.0  # not told apart

    def learn(self, clicks: Clicks) -> None:
        for key, item in zip(clicks.queries.keys.tolist(), clicks.items.tolist(), strict=True):
            self.observe(key, item)

    def predict(self, clicks: Clicks, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
        return self._run(clicks, known, learn=False)

    def predict_and_learn(self, clicks: Clicks, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
        return self._run(clicks, known, learn=True)

    def end_period(self) -> None:
        """Nothing waits for the end of a period."""

    def observe(self, key: int, item: int) -> None:
        raise NotImplementedError

    def best(self, session: list[int], known: npt.NDArray[np.bool_]) -> list[int]:
        raise NotImplementedError

    def _run(self, clicks: Clicks, known: npt.NDArray[np.bool_], *, learn: bool) -> npt.NDArray[np.int32]:
        rows = np.full((len(clicks.items), DEEPEST), -1, np.int32)
        items, start, stop, keys = clicks.queries
        for at, item in enumerate(clicks.items.tolist()):
            if stop[at] > start[at]:
                best = self.best(items[start[at] : stop[at]].tolist(), known)
                rows[at, : len(best)] = best
            if learn:
                self.observe(int(keys[at]), item)
        return rows[clicks.predicted]


def _best_of(scores: dict[int, float], known: npt.NDArray[np.bool_]) -> list[int]:
    """Return the known items with the highest scores; equal ones by row."""
    best = nlargest(DEEPEST, ((score, -row) for row, score in scores.items() if known[row]))
    return [-row for _, row in best]


class Popularity(_Baseline):
    """Items by their clicks so far; the order is made anew every `EVERY_CLICKS`."""

    def __init__(self, items: int) -> None:
        self._counts = np.zeros(items, np.int64)
        self._best: list[int] = []
        self._since = 0

    def observe(self, key: int, item: int) -> None:
        """Learn one click of a session."""
        self._counts[item] += 1
        self._since += 1

    def best(self, session: list[int], known: npt.NDArray[np.bool_]) -> list[int]:
        """Return the best known items to follow a session."""
        if not self._best or self._since >= EVERY_CLICKS:
            counts = np.where(known, self._counts, -1)
            self._best = np.argsort(-counts, kind="stable")[:DEEPEST].tolist()
            self._since = 0
        return self._best


class SequentialRules(_Baseline):
    """What came within three clicks after the session's last three items, nearer ones more."""

    def __init__(self) -> None:
        self._rules: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        self._recent: dict[int, list[int]] = {}

    def observe(self, key: int, item: int) -> None:
        """Learn one click of a session."""
        recent = self._recent.setdefault(key, [])
        for step, before in enumerate(reversed(recent), start=1):
            if before != item:
                self._rules[before][item] += 1.0 / step
        recent.append(item)
        del recent[:-RULE_STEPS]

    def best(self, session: list[int], known: npt.NDArray[np.bool_]) -> list[int]:
        """Return the best known items to follow a session."""
        scores: dict[int, float] = defaultdict(float)
        for step, before in enumerate(reversed(session[-RULE_STEPS:]), start=1):
            for after, weight in self._rules.get(before, {}).items():
                scores[after] += weight / step
        return _best_of(scores, known)


class ItemNeighbours(_Baseline):
    """Cosine between the last item and the others of all sessions so far."""

    def __init__(self) -> None:
        self._together: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        self._sessions: dict[int, int] = defaultdict(int)
        self._items: dict[int, list[int]] = {}

    def observe(self, key: int, item: int) -> None:
        """Learn one click of a session."""
        items = self._items.setdefault(key, [])
        if item in items:
            return
        self._sessions[item] += 1
        for other in items:
            self._together[item][other] += 1
            self._together[other][item] += 1
        items.append(item)
        del items[:-SESSION_ITEMS]

    def best(self, session: list[int], known: npt.NDArray[np.bool_]) -> list[int]:
        """Return the best known items to follow a session."""
        together = self._together.get(session[-1], {})
        scores = {other: count / math.sqrt(self._sessions[other]) for other, count in together.items()}
        return _best_of(scores, known)
