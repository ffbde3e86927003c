"""How good the lists are on what users did next, beside popularity and beside their own habits.

Protocol: each user's first session of the stretch, predicted from everything before it (Online Retail: the
first basket after the cut), for users who had been there before. Ten items. A user whom the keyed logic has
forgotten counts too, with the list for strangers; the baselines forget nobody. Repeats and new items are
told apart by filtering the same ranking: ``new_items`` is the first ten the user never had, against what was
new in the session, and ``repeats`` the other half.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from model_export.baselines import Baselines
from model_export.dataset import BATCH, CandidateSet, snapshots
from model_export.interactions import interactions
from model_export.list_metrics import ListMetrics, top_rows
from model_export.moments import Moment
from model_export.session_replay import SessionClicks
from model_export.sources.event_log import EventLog
from udfs.model.bundle import Bundle
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.rank import RankSettings, rank_batch

Ranking = Callable[[int], list[int]]
"""Number of a moment to all its items, best first."""


def evaluate_openings(
    log: EventLog, cut_ms: int, found: CandidateSet, scores: npt.NDArray[np.float32]
) -> dict[str, Any]:
    """Measure the rankings of first sessions.

    Parameters
    ----------
    log
        Of which the part before `cut_ms` gives the baselines.
    cut_ms
        Where history ends.
    found
        Moments at the opening of sessions, one a user, and their candidates.
    scores
        float32 (rows of `found`,): the ranker's.

    Returns
    -------
    Nested plain values: for ``model``, ``popular_28_days`` and ``personal_frequency`` the metrics of all
    items, of repeats and of new items.
    """
    data = interactions(log.before(cut_ms), found.items)
    codes = _user_codes(log.before(cut_ms))
    baselines = Baselines.fit(data, cut_ms)
    users = [codes.get((moment.tenant, moment.user_id), -1) for moment in found.moments]
    wanted = [frozenset(taken) for taken in found.taken_rows()]
    own = [frozenset(baselines.own(user)) for user in users]
    ranked = found.ranking(scores)
    popular = top_rows(baselines.popular, len(baselines.popular))

    def personal(number: int) -> list[int]:
        return top_rows(baselines.personal(users[number]), len(popular))

    rankings: dict[str, Ranking] = {
        "model": lambda number: ranked[number],
        "popular_28_days": lambda number: popular,
        "personal_frequency": personal,
    }
    report: dict[str, Any] = {}
    for name, ranking in rankings.items():
        lists = [ranking(number) for number in range(len(users))]
        report[name] = {
            "all": ListMetrics.of(zip(lists, wanted, strict=True)).to_dict(),
            "repeats": _filtered(lists, wanted, own, repeats=True),
            "new_items": _filtered(lists, wanted, own, repeats=False),
        }
    hits = [len(items & own[number]) / len(items) for number, items in enumerate(wanted) if items]
    report["share_of_repeats"] = round(float(np.mean(hits)), 4) if hits else None
    report["candidate_recall"] = found.recall()
    return report


def evaluate_within(found: CandidateSet, scores: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Measure what a session did after one of its events, for the moments within sessions."""
    ranked = found.ranking(scores)
    taken = found.taken_rows()
    pairs = [
        (ranked[number], frozenset(taken[number]))
        for number, moment in enumerate(found.moments)
        if moment.kind == "within"
    ]
    return ListMetrics.of(pairs).to_dict()


def evaluate_served(bundle: Bundle, found: CandidateSet, settings: RankSettings) -> dict[str, Any]:
    """Measure the lists as users get them: diversity and exploration cost some of the ranking."""
    row_of = {name: row for row, name in enumerate(found.items.ids)}
    lists = [
        [row_of[name] for name in shown]
        for shown in served_names(bundle, found.moments, found.clicks, settings)
    ]
    wanted = [frozenset(taken) for taken in found.taken_rows()]
    return ListMetrics.of(zip(lists, wanted, strict=True)).to_dict()


def served_names(
    bundle: Bundle, moments: Sequence[Moment], clicks: SessionClicks, settings: RankSettings
) -> list[list[str]]:
    """Return the item ids of the list that each moment's user would get, by the code that serves."""
    view, sessions = CatalogueView(bundle), clicks.replay()
    lists: list[list[str]] = []
    for start in range(0, len(moments), BATCH):
        batch = snapshots(moments[start : start + BATCH], bundle.items.factors, bundle.epoch)
        ranked = rank_batch(bundle, batch, view, settings, sessions)
        lists.extend([item.item_id for item in each.items] for each in ranked)
    return lists


def _filtered(
    lists: list[list[int]], wanted: list[frozenset[int]], own: list[frozenset[int]], *, repeats: bool
) -> Mapping[str, Any]:
    pairs = []
    for ranking, items, had in zip(lists, wanted, own, strict=True):
        shown: list[int] = []
        for row in ranking:
            if (row in had) == repeats:
                shown.append(row)
                if len(shown) == 10:
                    break
        pairs.append((shown, items & had if repeats else items - had))
    return ListMetrics.of(pairs).to_dict()


def _user_codes(log: EventLog) -> dict[tuple[str, str], int]:
    codes: dict[tuple[str, str], int] = {}
    for key in zip(log.columns["tenant"], log.columns["user_id"], strict=True):
        codes.setdefault(key, len(codes))
    return codes
