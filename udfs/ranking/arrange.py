"""Scores to lists: how likely each source is at a slot, the new items, and the draws."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.bandits.shared_posterior import SharedPosterior
from udfs.model.bundle import Bundle
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.exploration import Lists, fill_slots, list_seed
from udfs.ranking.list_policies import DrawnPolicies, apply_list_policies, draw_list_policies
from udfs.ranking.new_items import find_new_items
from udfs.ranking.play_shares import play_probabilities
from udfs.ranking.prepare import Prepared
from udfs.ranking.rank_settings import RankSettings
from udfs.ranking.snapshot import Snapshot


class Arranged(NamedTuple):
    """The lists of U users, and what they were drawn from."""

    lists: Lists
    probabilities: NDArray[np.float64]  # (U, 5), of each arm
    posterior_versions: NDArray[np.int64]  # (U,); 0: none
    seeds: list[int]
    policies: DrawnPolicies


def arrange(
    bundle: Bundle,
    snapshots: Sequence[Snapshot],
    prepared: Prepared,
    scores: NDArray[np.float32],
    catalogue: CatalogueView,
    settings: RankSettings,
    posteriors: Mapping[str, SharedPosterior] | None = None,
) -> Arranged:
    """Fill the slots of users' lists.

    Parameters
    ----------
    bundle
        The epoch.
    snapshots
        U users.
    prepared, scores
        Of them; float32 (U * K,).
    catalogue
        A view of the bundle.
    settings
        How to rank.
    posteriors
        As for `udfs.ranking.rank.rank_columns`.
    """
    seeds = [list_seed(snapshot.key, snapshot.version, bundle.epoch) for snapshot in snapshots]
    numbers = np.array(seeds, np.uint64)
    shared: list[SharedPosterior | None] = []
    if posteriors and (settings.shared_credits or settings.list_policies):
        shared = [posteriors.get(snapshot.tenant) for snapshot in snapshots]
    probabilities = play_probabilities(
        prepared.states,
        settings.exploration_floor,
        settings.exploration_policy,
        shared if settings.shared_credits else (),
        settings.shared_credits,
    )
    policies = draw_list_policies(
        settings.list_policies, settings.list_rule, settings.list_floor, prepared.states, shared, numbers
    )
    probabilities, diversity = apply_list_policies(
        settings.list_policies,
        policies.drawn,
        probabilities,
        settings.diversity,
        settings.exploration_floor,
    )
    new_items = find_new_items(
        catalogue,
        prepared.history,
        prepared.states,
        settings.new_item_share,
        settings.new_item_weight,
        settings.rebuy_after_ms,
    )
    lists = fill_slots(
        scores,
        bundle.items.columns.category,
        prepared.candidates,
        prepared.finalists,
        probabilities,
        numbers,
        diversity,
        settings.list_size,
        new_items,
    )
    versions = [0 if one is None else one.version for one in shared] or [0] * len(snapshots)
    return Arranged(lists, probabilities, np.array(versions, np.int64), seeds, policies)
