"""How likely a model would have put a logged item into its slot, given the slots before as they were logged.

The same draws as `udfs.ranking.exploration`, with the logged item taken in place of the drawn one. For a list that
the model itself made, these are its propensities. What all users taught, and the share of slots for new items, are
left out: they are the same whichever model ranks.
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
) -> NDArray[np.float64]:
    """Return how likely each logged item was.

    Parameters
    ----------
    bundle
        The model in question; not that which made the lists.
    snapshots
        U users, as logged.
    logged
        int32 (U, L): rows of the shown items in `bundle`; `NO_ITEM` where there is none, or none that it knows.
    catalogue
        A view of the bundle.
    settings
        How to rank.

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
    shares = np.zeros(logged.shape, np.float64)
    _shares(
        scores.reshape(len(snapshots), -1),
        bundle.items.columns.category,
        found.candidates.rank,
        found.finalists,
        play_probabilities(found.states, settings.exploration_floor, settings.exploration_policy),
        settings.diversity,
        logged,
        shares,
    )
    return shares


@kernel
def _shares(
    scores: NDArray[np.float32],
    category: NDArray[np.uint32],
    rank: NDArray[np.int16],
    finalists: Finalists,
    probabilities: NDArray[np.float64],
    diversity: float,
    logged: NDArray[np.int32],
    shares: NDArray[np.float64],
) -> None:
    kept = scores.shape[1]
    relevance = np.zeros(kept)
    repeated = np.zeros(kept, np.int64)
    taken = np.zeros(kept, np.bool_)
    arm_rank = np.zeros((N_ARMS, kept), np.int32)
    for user in range(len(finalists.counts)):
        count = finalists.counts[user]
        scale_scores(scores[user], count, relevance)
        arm_ranks(rank, user, finalists.slots, count, arm_rank)
        repeated[:] = 0
        taken[:] = False
        for slot in range(logged.shape[1]):
            wanted = logged[user, slot]
            if wanted < 0:
                continue
            best = best_marginal(relevance, repeated, taken, count, slot, diversity)
            for arm in range(N_ARMS):
                pick = best if arm == RANKER else best_of_arm(arm_rank[arm], taken, count)
                if pick < 0:
                    pick = best
                if pick >= 0 and finalists.rows[user, pick] == wanted:
                    shares[user, slot] += probabilities[user, arm]
            of_shown = category[wanted]
            for k in range(count):
                taken[k] |= finalists.rows[user, k] == wanted
                if of_shown != 0:
                    repeated[k] += category[finalists.rows[user, k]] == of_shown
