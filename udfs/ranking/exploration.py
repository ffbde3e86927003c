"""Exploration: for every slot an arm is drawn, and the slot takes the arm's best item that is left.

Arms are the sources of `udfs.user_state.SOURCES`; ``ranker`` is the ranking itself, diversity included,
``neighbours`` takes items of co-occurrence, of sessions and of content by turns, ``popular`` trending and popular
ones. An arm with nothing left gives what the ranker would.
It comes last, so nothing moves an item afterwards and the logged propensity is exact: the sum of the
probabilities of all arms that would have put this item in this slot, given the slots before.

Random numbers are counted, not drawn from a stream: slot s of a list uses the (s + 1)-th number of splitmix64
from the list's seed, so a replay repeats them and nobody's depend on another's.

Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014 (splitmix64).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from udfs.kernel_cache import kernel
from udfs.ranking.candidates import (
    CONTENT,
    EMBEDDING,
    NEIGHBOURS,
    POPULAR,
    REPEAT,
    SESSIONS,
    TRENDING,
    Candidates,
)
from udfs.ranking.diversity import best_marginal, scale_scores
from udfs.ranking.first_stage import Finalists
from udfs.ranking.new_items import NO_ROW, NewItems, draw_new_item
from udfs.ranking.play_shares import N_ARMS
from udfs.user_state import NEW, SLOT_SOURCES, SOURCES

RANKER = SOURCES.index("ranker")
NEW_ITEM = SLOT_SOURCES.index(NEW)
NO_RANK = 1 << 20
_NEW_SLOT = (
    1_001  # numbers of the draws for new items: behind those of all slots, one a slot, and one for which item
)
_NEW_ITEM_DRAW = 1_000


class Lists(NamedTuple):
    """U lists of at most L items.

    `places` index the user's finalists, -1: the list's new item; `arms` `SLOT_SOURCES`; `draws` are the random
    numbers in [0, 1); `new_rows` the row of the list's new item, `NO_ROW`: none was placed.
    """

    counts: NDArray[np.int32]  # (U,)
    places: NDArray[np.int32]  # (U, L)
    arms: NDArray[np.int32]
    propensity: NDArray[np.float64]
    draws: NDArray[np.float64]
    new_rows: NDArray[np.int32]  # (U,)

    def rows(self, finalists: Finalists) -> NDArray[np.int32]:
        """Return the items' rows, int32 (U, L)."""
        placed = np.take_along_axis(finalists.rows, np.maximum(self.places, 0), axis=1)
        return np.where(self.places < 0, self.new_rows[:, None], placed)

    def scores(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the ranker's score of each slot, float32 (U, L); a new item has none, and gets the list's least.

        Parameters
        ----------
        scores
            float32 (U, K)
        """
        found = np.take_along_axis(scores, np.maximum(self.places, 0), axis=1)
        if (self.new_rows < 0).all():
            return found
        inside = (np.arange(self.places.shape[1]) < self.counts[:, None]) & (self.places >= 0)
        least = np.min(found, axis=1, where=inside, initial=np.inf)
        return np.where(self.places < 0, np.where(np.isinf(least), 0.0, least)[:, None], found).astype(
            np.float32
        )


def list_seed(key: str, version: str, epoch: int) -> int:
    """Return the seed of one list: tenant and user (in the key), the state's version, the model's epoch."""
    return xxh3_64_intdigest(f"{key}\0{version}\0{epoch}")


_NO_NEW_ITEMS = NewItems(
    0.0,
    np.empty(0, np.int32),
    np.empty(0, np.int32),
    np.empty((0, 0), np.int32),
    np.empty((0, 0), np.uint32),
    np.empty(0, np.int64),
    0,
)


def fill_slots(
    scores: NDArray[np.float32],
    category: NDArray[np.uint32],
    candidates: Candidates,
    finalists: Finalists,
    probabilities: NDArray[np.float64],
    seeds: NDArray[np.uint64],
    diversity: float | NDArray[np.float64],
    list_size: int,
    new_items: NewItems | None = None,
) -> Lists:
    """Make the lists.

    Parameters
    ----------
    scores
        float32 (U * K,): the ranker's.
    category
        uint32 (n,): of the items.
    candidates, finalists
        Of the U users.
    probabilities
        float64 (U, 5), rows sum to 1: of each arm at every slot.
    seeds
        uint64 (U,)
    diversity
        Weight of category repetition, of all lists or float64 (U,).
    list_size
        L.
    new_items
        And their share of the slots; None: no share.
    """
    users, kept = finalists.slots.shape
    lists = Lists(
        np.zeros(users, np.int32),
        np.zeros((users, list_size), np.int32),
        np.zeros((users, list_size), np.int32),
        np.zeros((users, list_size), np.float64),
        np.zeros((users, list_size), np.float64),
        np.full(users, NO_ROW, np.int32),
    )
    _fill(
        scores.reshape(users, kept),
        category,
        candidates.rank,
        finalists,
        probabilities,
        seeds,
        np.full(users, diversity, np.float64),
        _NO_NEW_ITEMS if new_items is None else new_items,
        lists,
    )
    return lists


@kernel
def uniform(seed: np.uint64, counter: int) -> float:
    """Return random number `counter` of a seed: splitmix64's top 53 bits, in [0, 1)."""
    z = seed + np.uint64(counter) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return float(z >> np.uint64(11)) * 2.0**-53


@kernel
def draw_arm(probabilities: NDArray[np.float64], user: int, draw: float) -> int:
    """Return the arm on which a random number in [0, 1) falls, of a user's row of float64 (U, K)."""
    arm, below = 0, probabilities[user, 0]
    while draw >= below and arm < probabilities.shape[1] - 1:
        arm += 1
        below += probabilities[user, arm]
    return arm


@kernel
def arm_ranks(
    rank: NDArray[np.int16], user: int, slots: NDArray[np.int32], count: int, out: NDArray[np.int32]
) -> None:
    """Write for each arm and finalist its place in the arm's order; `NO_RANK`: the arm does not have it."""
    for k in range(count):
        slot = slots[user, k]
        for arm in range(N_ARMS):
            out[arm, k] = NO_RANK
        for arm, source in ((1, EMBEDDING), (3, REPEAT)):
            if rank[user, slot, source] > 0:
                out[arm, k] = rank[user, slot, source]
        for turn, source in ((0, NEIGHBOURS), (1, SESSIONS), (2, CONTENT)):
            if rank[user, slot, source] > 0:
                out[2, k] = min(out[2, k], 3 * rank[user, slot, source] + turn)
        for turn, source in ((0, TRENDING), (1, POPULAR)):
            if rank[user, slot, source] > 0:
                out[4, k] = min(out[4, k], 2 * rank[user, slot, source] + turn)


@kernel
def best_of_arm(places: NDArray[np.int32], taken: NDArray[np.bool_], count: int) -> int:
    """Return which finalist comes first in an arm's order of those that are left; -1: the arm has none."""
    pick, best = -1, NO_RANK
    for k in range(count):
        if places[k] < best and not taken[k]:
            pick, best = k, places[k]
    return pick


@kernel
def _fill(
    scores: NDArray[np.float32],
    category: NDArray[np.uint32],
    rank: NDArray[np.int16],
    finalists: Finalists,
    probabilities: NDArray[np.float64],
    seeds: NDArray[np.uint64],
    diversity: NDArray[np.float64],
    new_items: NewItems,
    lists: Lists,
) -> None:
    kept, list_size = scores.shape[1], lists.places.shape[1]
    relevance = np.zeros(kept)
    repeated = np.zeros(kept, np.int64)
    taken = np.zeros(kept, np.bool_)
    arm_rank = np.zeros((N_ARMS, kept), np.int32)
    pick = np.zeros(N_ARMS, np.int64)
    left_out = np.zeros(kept + new_items.bought_rows.shape[1], np.int32)
    for user in range(len(finalists.counts)):
        count = finalists.counts[user]
        scale_scores(scores[user], count, relevance)
        arm_ranks(rank, user, finalists.slots, count, arm_rank)
        repeated[:] = 0
        taken[:] = False
        pick[:] = -2  # not known
        filled = min(list_size, count)
        new_row, eligible = NO_ROW, 0
        if new_items.share > 0.0:
            draw = uniform(seeds[user], _NEW_ITEM_DRAW)
            new_row, eligible = draw_new_item(new_items, user, finalists.rows[user], count, draw, left_out)
        for slot in range(filled):
            pick[RANKER] = best_marginal(relevance, repeated, taken, count, slot, diversity[user])
            for arm in range(1, N_ARMS):
                if pick[arm] == -2 or (pick[arm] >= 0 and taken[pick[arm]]):
                    pick[arm] = best_of_arm(arm_rank[arm], taken, count)
            left = 1.0
            if new_row >= 0:
                left = 1.0 - new_items.share
                draw = uniform(seeds[user], _NEW_SLOT + slot)
                if draw < new_items.share:
                    lists.new_rows[user] = new_row
                    lists.places[user, slot] = -1
                    lists.arms[user, slot] = NEW_ITEM
                    lists.propensity[user, slot] = new_items.share / eligible
                    lists.draws[user, slot] = draw
                    if category[new_row] != 0:
                        for k in range(count):
                            repeated[k] += category[finalists.rows[user, k]] == category[new_row]
                    new_row = NO_ROW
                    continue
            draw = uniform(seeds[user], slot + 1)
            arm = draw_arm(probabilities, user, draw)
            if pick[arm] < 0:
                arm = RANKER
            chosen = pick[arm]
            propensity = 0.0
            for other in range(N_ARMS):
                if pick[other] == chosen or (pick[other] < 0 and chosen == pick[RANKER]):
                    propensity += probabilities[user, other]
            taken[chosen] = True
            of_chosen = category[finalists.rows[user, chosen]]
            if of_chosen != 0:
                for k in range(count):
                    repeated[k] += category[finalists.rows[user, k]] == of_chosen
            lists.places[user, slot] = chosen
            lists.arms[user, slot] = arm
            lists.propensity[user, slot] = left * propensity
            lists.draws[user, slot] = draw
        lists.counts[user] = filled
