"""How likely a model would have put a logged item into its slot, given the slots before as they were logged.

The same draws as `udfs.ranking.exploration`, with the logged item taken in place of the drawn one, and the share of
slots for the items that are new to this model. How likely each source is does not depend on the model: what the list
logged is taken, and with it what all users had taught. For a list that the model itself made, these are its
propensities.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.model.bundle import Bundle
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.diversity import best_marginal, scale_scores
from udfs.ranking.exploration import RANKER, arm_ranks, best_of_arm
from udfs.ranking.first_stage import Finalists
from udfs.ranking.list_policies import NONE, apply_list_policies
from udfs.ranking.new_items import NewItems, draw_new_item, find_new_items
from udfs.ranking.play_shares import N_ARMS, play_probabilities
from udfs.ranking.rank import RankSettings, prepare
from udfs.ranking.snapshot import Snapshot

NO_ITEM = -1


def slot_shares(
    bundle: Bundle,
    snapshots: Sequence[Snapshot],
    logged: NDArray[np.int32],
    catalogue: CatalogueView,
    settings: RankSettings,
    logged_probabilities: NDArray[np.float64] | None = None,
    list_policies: Sequence[str] = (),
) -> NDArray[np.float64]:
    """Return how likely each logged item was.

    Parameters
    ----------
    bundle
        The model in question; not that which made the lists.
    snapshots
        U users, as logged.
    logged
        int32 (U, L): rows of the lists' items in `bundle`, from the first slot on; `NO_ITEM` where there is none, or
        none that it knows.
    catalogue
        A view of the bundle.
    settings
        How to rank.
    logged_probabilities
        float64 (U, 5): how likely each source was at a slot; a row of NaN, or None: not logged, and what the user's
        own credits say is taken.
    list_policies
        Name of each list's policy, as logged; empty: none. One that the settings do not know is as none.

    Returns
    -------
    float64 (U, L)
        0 for an item that the model would never have put there.

    Raises
    ------
    StateError, NotFiniteScoreError
        As `udfs.ranking.rank.rank_columns`.
    """
    found = prepare(bundle.items, snapshots, catalogue, settings, bundle.epoch)
    scores = bundle.ranker.score(found.features, settings.finalists)
    probabilities = play_probabilities(found.states, settings.exploration_floor, settings.exploration_policy)
    if logged_probabilities is not None:
        probabilities = np.where(np.isnan(logged_probabilities), probabilities, logged_probabilities)
    new_items = find_new_items(
        catalogue,
        found.history,
        found.states,
        settings.new_item_share,
        settings.new_item_weight,
        settings.rebuy_after_ms,
    )
    shares = np.zeros(logged.shape, np.float64)
    _shares(
        scores.reshape(len(snapshots), -1),
        bundle.items.columns.category,
        found.candidates.rank,
        found.finalists,
        probabilities,
        _diversity(settings, len(snapshots), list_policies),
        new_items,
        logged,
        shares,
    )
    return shares


def _diversity(settings: RankSettings, users: int, chosen: Sequence[str]) -> NDArray[np.float64]:
    """Return the weight of diversity of each list, float64 (U,)."""
    names = [one.name for one in settings.list_policies]
    drawn = np.array(
        [names.index(name) if name in names else NONE for name in chosen or [""] * users], np.int32
    )
    nothing = np.empty((users, N_ARMS))
    return apply_list_policies(settings.list_policies, drawn, nothing, settings.diversity, 0.0)[1]


@kernel
def _shares(
    scores: NDArray[np.float32],
    category: NDArray[np.uint32],
    rank: NDArray[np.int16],
    finalists: Finalists,
    probabilities: NDArray[np.float64],
    diversity: NDArray[np.float64],
    new_items: NewItems,
    logged: NDArray[np.int32],
    shares: NDArray[np.float64],
) -> None:
    kept = scores.shape[1]
    relevance = np.zeros(kept)
    repeated = np.zeros(kept, np.int64)
    taken = np.zeros(kept, np.bool_)
    arm_rank = np.zeros((N_ARMS, kept), np.int32)
    left_out = np.zeros(kept + new_items.bought_rows.shape[1], np.int32)
    for user in range(len(finalists.counts)):
        count = finalists.counts[user]
        scale_scores(scores[user], count, relevance)
        arm_ranks(rank, user, finalists.slots, count, arm_rank)
        repeated[:] = 0
        taken[:] = False
        eligible = 0  # new items that the list may still take one of
        if new_items.share > 0.0:
            _, eligible = draw_new_item(new_items, user, finalists.rows[user], count, 0.0, left_out)
        for slot in range(logged.shape[1]):
            wanted = logged[user, slot]
            if wanted < 0:
                continue
            if eligible > 0 and _may_be_new(new_items, wanted, left_out, eligible):
                shares[user, slot] = new_items.share / eligible
                eligible = 0
            else:
                best = best_marginal(relevance, repeated, taken, count, slot, diversity[user])
                for arm in range(N_ARMS):
                    pick = best if arm == RANKER else best_of_arm(arm_rank[arm], taken, count)
                    if pick < 0:
                        pick = best
                    if pick >= 0 and finalists.rows[user, pick] == wanted:
                        shares[user, slot] += probabilities[user, arm]
                if eligible > 0:
                    shares[user, slot] *= 1.0 - new_items.share
            of_shown = category[wanted]
            for k in range(count):
                taken[k] |= finalists.rows[user, k] == wanted
                if of_shown != 0:
                    repeated[k] += category[finalists.rows[user, k]] == of_shown


@kernel
def _may_be_new(new_items: NewItems, row: int, left_out: NDArray[np.int32], eligible: int) -> bool:
    """Whether a row is one of the new items that `draw_new_item` has counted."""
    place = new_items.place[row]
    if place < 0:
        return False
    return not (left_out[: len(new_items.rows) - eligible] == place).any()
