"""The lists that the baskets protocol compares: ours, and those of counts; repeats and new items told apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_export.baselines import Baselines
from model_export.dataset import BATCH, CandidateSet, snapshots
from model_export.interactions import interactions
from model_export.list_metrics import top_rows
from model_export.protocols.list_quality import K, ListQuality
from model_export.sources.event_log import EventLog
from udfs.model.bundle import Bundle
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.rank import RankSettings, rank_batch

PARTS = ("all", "repeats", "new items")
OURS, SERVED = "tailrace", "tailrace, as served"
POPULAR, PERSONAL = "popularity, 28 days", "personal frequency, 45 days"


@dataclass(frozen=True)
class BasketQuality:
    """What one way of making lists reached: by part of `PARTS`; as served only for all items."""

    model: str
    parts: Mapping[str, ListQuality]


@dataclass(frozen=True)
class BasketCounts:
    """The split, as the report names it."""

    events: int
    users: int
    items: int
    predicted: int
    """First baskets after the cut, of users who had been there before."""
    repeats_share: float
    """Mean share of such a basket that the user had before."""


def compare(
    log: EventLog,
    cut_ms: int,
    found: CandidateSet,
    scores: npt.NDArray[np.float32],
    bundle: Bundle,
    settings: RankSettings,
) -> tuple[tuple[BasketQuality, ...], BasketCounts]:
    """Measure our lists beside the baselines'.

    Parameters
    ----------
    log, cut_ms
        The part before the cut gives the baselines, and which items are new to a user.
    found
        U openings of first sessions, with their candidates.
    scores
        float32 (rows of `found`,): the ranker's.
    bundle, settings
        For the lists as users get them, with diversity and exploration.
    """
    before = log.before(cut_ms)
    data = interactions(before, found.items)
    baselines = Baselines.fit(data, cut_ms)
    codes: dict[tuple[str, str], int] = {}
    for key in zip(before.columns["tenant"], before.columns["user_id"], strict=True):
        codes.setdefault(key, len(codes))
    users = [codes.get((moment.tenant, moment.user_id), -1) for moment in found.moments]
    wanted = [frozenset(taken) for taken in found.taken_rows()]
    own = [frozenset(baselines.own(user)) for user in users]
    pairs = np.unique(np.stack([data.users.astype(np.int64), data.items.astype(np.int64)]), axis=1)
    owners = np.bincount(pairs[1], minlength=data.n_items)
    ranked = found.ranking(scores)
    popular = top_rows(baselines.popular, len(baselines.popular))
    rankings: dict[str, Callable[[int], list[int]]] = {
        OURS: lambda number: ranked[number],
        POPULAR: lambda number: popular,
        PERSONAL: lambda number: top_rows(baselines.personal(users[number]), len(popular)),
    }
    result = []
    for name, ranking in rankings.items():
        shown = {part: np.full((len(users), K), -1, np.int32) for part in PARTS}
        for number in range(len(users)):
            rows = ranking(number)
            for part, chosen in parts_of(rows, own[number]).items():
                shown[part][number, : len(chosen)] = chosen
        qualities = {
            part: ListQuality.of(shown[part], wanted_of(part, wanted, own), owners, data.n_users)
            for part in PARTS
        }
        result.append(BasketQuality(name, qualities))
    served = ListQuality.of(served_lists(bundle, found, settings), wanted, owners, data.n_users)
    result.insert(1, BasketQuality(SERVED, {"all": served}))
    shares = [len(items & had) / len(items) for items, had in zip(wanted, own, strict=True) if items]
    counts = BasketCounts(
        len(before), len(codes), len(found.items), len(shares), float(np.mean(shares)) if shares else 0.0
    )
    return tuple(result), counts


def served_lists(bundle: Bundle, found: CandidateSet, settings: RankSettings) -> npt.NDArray[np.int32]:
    """Return the lists as the rank worker makes them, int32 (U, 10) rows, -1 where there are no more."""
    view, sessions = CatalogueView(bundle), found.clicks.replay()
    row_of = {name: row for row, name in enumerate(found.items.ids)}
    shown = np.full((len(found.moments), K), -1, np.int32)
    for start in range(0, len(found.moments), BATCH):
        batch = snapshots(found.moments[start : start + BATCH], bundle.items.factors, bundle.epoch)
        ranked = rank_batch(bundle, batch, view, settings, sessions)
        for number, each in enumerate(ranked, start=start):
            rows = [row_of[item.item_id] for item in each.items][:K]
            shown[number, : len(rows)] = rows
    return shown


def parts_of(ranking: list[int], own: frozenset[int]) -> dict[str, list[int]]:
    """Return the first ten of a ranking, of its repeats and of its new items."""
    repeats: list[int] = []
    new: list[int] = []
    for row in ranking:
        side = repeats if row in own else new
        if len(side) < K:
            side.append(row)
        elif len(new) == K and len(repeats) == min(K, len(own)):
            break
    return {"all": ranking[:K], "repeats": repeats, "new items": new}


def wanted_of(part: str, wanted: list[frozenset[int]], own: list[frozenset[int]]) -> list[frozenset[int]]:
    """Return what of each user's wanted items belongs to a part of `PARTS`."""
    if part == "all":
        return wanted
    if part == "repeats":
        return [items & had for items, had in zip(wanted, own, strict=True)]
    return [items - had for items, had in zip(wanted, own, strict=True)]
