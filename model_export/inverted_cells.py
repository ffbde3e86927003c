"""Cells for a catalogue that is too large to score whole, and how many of them find most of the true best items."""

from __future__ import annotations

import dataclasses

from udfs.model.items import ItemArrays
from udfs.model.manifest import ModelSettings
from udfs.ranking.inverted_lists import InvertedLists, build_ivf, measure_recall
from udfs.ranking.item_index import EXACT_UP_TO_ITEMS

LEAST_RECALL = 0.95  # of the true best items by inner product, where inverted lists are searched


def inverted_cells(
    items: ItemArrays, settings: ModelSettings
) -> tuple[InvertedLists | None, ModelSettings, float | None]:
    """Return the cells of a catalogue that is too large to score whole, how many to search, and what that finds."""
    if len(items.item_ids) <= EXACT_UP_TO_ITEMS:
        return None, settings, None
    lists, recall = build_ivf(items.factors, nprobe=settings.nprobe)
    nprobe = settings.nprobe
    while recall < LEAST_RECALL and nprobe < len(lists.centroids):
        nprobe = min(2 * nprobe, len(lists.centroids))
        recall = measure_recall(items.factors, lists, nprobe, seed=0)
    return lists, dataclasses.replace(settings, nprobe=nprobe), recall
