"""The item half of a bundle from everything before a cut: factors, neighbours, popularity, catalogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from model_export.als import AlsSettings, fit_item_factors
from model_export.interactions import ItemRows, interactions, touched_items
from model_export.neighbours import NeighbourSettings, fit_neighbours
from model_export.popularity import fit_popularity
from model_export.sources.event_log import EventLog
from schemas.ids import category_hash
from schemas.records import Item
from udfs.model.items import ItemArrays


@dataclass(frozen=True)
class ItemSideSettings:
    """How the item half is learnt."""

    factors: AlsSettings = field(default_factory=AlsSettings)
    neighbours: NeighbourSettings = field(default_factory=NeighbourSettings)


def fit_items(
    log: EventLog,
    catalogue: Sequence[Item],
    cut_ms: int,
    settings: ItemSideSettings,
    rng: np.random.Generator,
    tell: Callable[[str], None] | None = None,
) -> ItemArrays:
    """Learn the item half from the events before `cut_ms`.

    Parameters
    ----------
    log
        Events; later ones are not looked at.
    catalogue
        Items as known before the cut. An item of the catalogue that nobody touched has zero factors and no
        neighbours; one that was touched but is not in the catalogue has no price and no category.
    cut_ms
        What trending decays to.
    settings
        How.
    rng
        Of the initial factors.
    tell
        Called with the name of each part before it begins.

    Returns
    -------
    ItemArrays in ascending order of item hash.
    """
    tell = tell or (lambda _: None)
    before = log.before(cut_ms)
    rows = item_rows(before, catalogue)
    data = interactions(before, rows)
    touched = np.bincount(data.items, minlength=len(rows)) > 0
    tell("factors")
    factors = fit_item_factors(data, settings.factors, rng)
    factors[~touched] = 0.0
    tell("neighbours")
    neighbours = fit_neighbours(data, settings.neighbours)
    tell("popularity")
    popularity = fit_popularity(data, cut_ms)
    known = {item.item_id: item for item in catalogue}
    items = [known.get(name) for name in rows.ids]
    names = {category_hash(item.category): item.category for item in catalogue if item.category}
    return ItemArrays(
        item_ids=list(rows.ids),
        factors=factors,
        categories=np.array(
            [category_hash(item.category) if item is not None and item.category else 0 for item in items],
            np.uint32,
        ),
        category_names=names,
        prices=np.array(
            [np.nan if item is None or item.price is None else item.price for item in items], np.float32
        ),
        popularity=popularity.popularity,
        trending=popularity.trending,
        neighbour_offsets=neighbours.offsets,
        neighbour_rows=neighbours.rows,
        neighbour_scores=neighbours.scores,
        rebuy_days=popularity.rebuy_days,
        repeat_rate=popularity.repeat_rate,
    )


def item_rows(log: EventLog, catalogue: Sequence[Item]) -> ItemRows:
    """Return the rows of all items that the log's interactions or the catalogue name."""
    return ItemRows.of(sorted({*touched_items(log).ids, *(item.item_id for item in catalogue)}))
