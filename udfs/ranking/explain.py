"""Why an item stands where it stands, by ranking again from the snapshot: serving keeps nothing for it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.ids import item_hash
from udfs.bandits.shared_posterior import SharedPosterior
from udfs.model.bundle import Bundle
from udfs.ranking.arrange import arrange
from udfs.ranking.candidates import RETRIEVERS
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.exploration import Lists
from udfs.ranking.features import FEATURE_NAMES
from udfs.ranking.rank import (
    PROPENSITY_DECIMALS,
    SCORE_DECIMALS,
    Prepared,
    RankSettings,
    SessionSource,
    prepare,
)
from udfs.ranking.rules import bought_recently
from udfs.ranking.snapshot import Snapshot
from udfs.user_state import SLOT_SOURCES, SOURCES

Contribute = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""Rows of features, float32 (n, F), to what each adds to the score and the base last, float64 (n, F + 1)."""


@dataclass(frozen=True)
class Explanation:
    """One item for one user.

    Parameters
    ----------
    item_id, model_version, epoch, index_mark
        What was asked, and of which model and catalogue.
    known
        Whether the epoch knows the item.
    rules_hit
        Rules that keep it out; empty for one that may be shown.
    sources
        Retrieval source to rank, for those that brought it; empty for no candidate.
    finalist_place
        Place after the first stage, from 1; None: it did not reach the ranker.
    features
        Name to value, of a finalist.
    score
        The ranker's, of a finalist.
    contributions
        Name to what the feature adds to the score. With `base` known these are exact: they and the base add up to the
        score. Without, each says how much the score falls when the feature takes the median of the user's finalists
        instead, and interactions make them add up to something else.
    base
        What the ranker gives before it looks at any feature; None: not known, the bundle has no native ranker.
    slot
        Place in the list, from 1; None: not in it.
    slot_source, propensity, draw
        Of its slot: the arm that brought it, `new` for one of the share for new items, the probability of finding it
        there, the random number drawn.
    arm_probabilities
        Arm to the probability of being drawn, at every slot of this user.
    """

    item_id: str
    model_version: str
    epoch: int
    index_mark: int
    known: bool
    rules_hit: tuple[str, ...]
    sources: dict[str, int]
    finalist_place: int | None
    features: dict[str, float]
    score: float | None
    contributions: dict[str, float]
    base: float | None
    slot: int | None
    slot_source: str | None
    propensity: float | None
    draw: float | None
    arm_probabilities: dict[str, float]


def explain(
    bundle: Bundle,
    snapshot: Snapshot,
    item_id: str,
    catalogue: CatalogueView,
    settings: RankSettings,
    sessions: SessionSource | None = None,
    contribute: Contribute | None = None,
    posteriors: Mapping[str, SharedPosterior] | None = None,
) -> Explanation:
    """Explain one item of one user's ranking.

    Parameters
    ----------
    bundle
        The epoch that made the list.
    snapshot
        What the list was made from; `ServedList` carries its state.
    item_id
        Any item, in the list or not.
    catalogue
        A view of the bundle; with the same mark as the list's the ranking is repeated exactly.
    settings
        As when it was ranked.
    sessions
        As read when it was ranked; None: not read.
    contribute
        Exact contributions of the bundle's own ranker; None: there are none, see `Explanation`.
    posteriors
        As when it was ranked; None: none.

    Raises
    ------
    StateError
        For an unreadable state.
    """
    bundle = catalogue.grown(bundle)
    found = prepare(bundle.items, [snapshot], catalogue, settings, bundle.epoch, sessions)
    scores = bundle.ranker.score(found.features, settings.finalists)
    arranged = arrange(bundle, [snapshot], found, scores, catalogue, settings, posteriors)
    lists, probabilities = arranged.lists, arranged.probabilities
    row = bundle.items.row(item_hash(item_id))
    place = _where(found.finalists.rows[0, : found.finalists.counts[0]], row)
    added, base = {}, None
    if place is not None and contribute is None:
        added = _contributions(bundle, found, place, settings)
    elif place is not None and contribute is not None:
        *parts, base = contribute(found.features[place][None, :])[0].tolist()
        added = dict(zip(FEATURE_NAMES, parts, strict=True))
    slot = _slot(lists, row, place)
    return Explanation(
        item_id=item_id,
        model_version=bundle.model_version,
        epoch=bundle.epoch,
        index_mark=catalogue.mark,
        known=row >= 0,
        rules_hit=_rules_hit(found, row, catalogue, settings) if row >= 0 else (),
        sources=_sources(found, row),
        finalist_place=None if place is None else place + 1,
        features={}
        if place is None
        else dict(zip(FEATURE_NAMES, found.features[place].tolist(), strict=True)),
        score=None if place is None else round(float(scores[place]), SCORE_DECIMALS),
        contributions=added,
        base=base,
        slot=None if slot is None else slot + 1,
        slot_source=None if slot is None else SLOT_SOURCES[lists.arms[0, slot]],
        propensity=None if slot is None else round(float(lists.propensity[0, slot]), PROPENSITY_DECIMALS),
        draw=None if slot is None else float(lists.draws[0, slot]),
        arm_probabilities=dict(zip(SOURCES, probabilities[0].tolist(), strict=True)),
    )


def _slot(lists: Lists, row: int, place: int | None) -> int | None:
    """Return where an item stands in the user's list: as a finalist, or as its new item, which is none."""
    if place is None:
        place = -1 if row >= 0 and row == lists.new_rows[0] else None
    return None if place is None else _where(lists.places[0, : lists.counts[0]], place)


def _where(values: np.ndarray[tuple[int, ...], np.dtype[np.int32]], wanted: int) -> int | None:
    found = np.flatnonzero(values == wanted)
    return int(found[0]) if len(found) else None


def _sources(found: Prepared, row: int) -> dict[str, int]:
    slot = _where(found.candidates.rows[0, : found.candidates.counts[0]], row)
    if slot is None:
        return {}
    ranks = found.candidates.rank[0, slot].tolist()
    return {name: rank for name, rank in zip(RETRIEVERS, ranks, strict=True) if rank > 0}


def _rules_hit(
    found: Prepared, row: int, catalogue: CatalogueView, settings: RankSettings
) -> tuple[str, ...]:
    hit = []
    if not catalogue.in_stock[row]:
        hit.append("out of stock")
    if catalogue.blocked[row]:
        hit.append("blocked")
    for at in np.flatnonzero(found.history.bought_rows[0] == row):
        bought_s = found.states.bought_seconds[0, at]
        if bought_recently(int(found.states.at_ms[0]), bought_s, settings.rebuy_after_ms):
            hit.append("bought within the rebuy interval")
    return tuple(hit)


def _contributions(bundle: Bundle, found: Prepared, place: int, settings: RankSettings) -> dict[str, float]:
    """Score with each feature in turn at the finalists' median; rows are padded to whole users' worth."""
    of_user = found.features[: found.finalists.counts[0]]
    width = len(FEATURE_NAMES)
    users = -(-width // settings.finalists)
    rows = np.repeat(of_user[place][None, :], users * settings.finalists, axis=0)
    at = np.arange(width)
    rows[at, at] = np.median(of_user, axis=0)
    without = bundle.ranker.score(rows, settings.finalists)[:width].astype(np.float64)
    score = float(bundle.ranker.score(found.features, settings.finalists)[place])
    return dict(zip(FEATURE_NAMES, (score - without).tolist(), strict=True))
