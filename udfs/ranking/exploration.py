"""Exploration: for every slot an arm is drawn, and the slot takes the arm's best item that is left.

Arms are the sources of `udfs.user_state.SOURCES`; ``ranker`` is the ranking itself, diversity included,
``neighbours`` takes items of co-occurrence and of sessions by turns, ``popular`` trending and popular ones. An
arm with nothing left gives what the ranker would.
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

from udfs.bandit import PRIOR_ALPHA, PRIOR_BETA, arm_probabilities_batch
from udfs.kernel_cache import kernel
from udfs.ranking.diversity import best_marginal, scale_scores
from udfs.ranking.first_stage import Finalists
from udfs.ranking.retrieval import EMBEDDING, NEIGHBOURS, POPULAR, REPEAT, SESSIONS, TRENDING, Candidates
from udfs.ranking.snapshot import StateColumns
from udfs.user_state import SOURCES

N_ARMS = len(SOURCES)
RANKER = SOURCES.index("ranker")
NO_RANK = 1 << 20


class Lists(NamedTuple):
    """U lists of at most L items.

    `places` index the user's finalists, `arms` `SOURCES`; `draws` are the random numbers in [0, 1).
    """

    counts: NDArray[np.int32]  # (U,)
    places: NDArray[np.int32]  # (U, L)
    arms: NDArray[np.int32]
    propensity: NDArray[np.float64]
    draws: NDArray[np.float64]


def list_seed(key: str, version: str, epoch: int) -> int:
    """Return the seed of one list: tenant and user (in the key), the state's version, the model's epoch."""
    return xxh3_64_intdigest(f"{key}\0{version}\0{epoch}")


def play_probabilities(states: StateColumns, floor: float) -> NDArray[np.float64]:
    """Return how likely each arm is to be drawn, float64 (U, 5).

    Parameters
    ----------
    states
        U users; one whose state has no arms has the prior, computed once for all.
    floor
        Least probability of every arm.
    """
    prior = arm_probabilities_batch(np.array([PRIOR_ALPHA]), np.array([PRIOR_BETA]), floor)
    probabilities = np.repeat(prior, len(states.n_arms), axis=0)
    own = np.flatnonzero(states.n_arms == N_ARMS)
    if len(own):
        alpha, beta = (arms[own, :N_ARMS].astype(np.float64) for arms in (states.arm_alpha, states.arm_beta))
        probabilities[own] = arm_probabilities_batch(alpha, beta, floor)
    return probabilities


def fill_slots(
    scores: NDArray[np.float32],
    category: NDArray[np.uint32],
    candidates: Candidates,
    finalists: Finalists,
    probabilities: NDArray[np.float64],
    seeds: NDArray[np.uint64],
    diversity: float,
    list_size: int,
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
        Weight of category repetition.
    list_size
        L.
    """
    users, kept = finalists.slots.shape
    lists = Lists(
        np.zeros(users, np.int32),
        np.zeros((users, list_size), np.int32),
        np.zeros((users, list_size), np.int32),
        np.zeros((users, list_size), np.float64),
        np.zeros((users, list_size), np.float64),
    )
    _fill(
        scores.reshape(users, kept),
        category,
        candidates.rank,
        finalists,
        probabilities,
        seeds,
        diversity,
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
def _arm_ranks(
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
        for arm, first, second in ((2, NEIGHBOURS, SESSIONS), (4, TRENDING, POPULAR)):
            if rank[user, slot, first] > 0:
                out[arm, k] = 2 * rank[user, slot, first]
            if rank[user, slot, second] > 0:
                out[arm, k] = min(out[arm, k], 2 * rank[user, slot, second] + 1)


@kernel
def _fill(
    scores: NDArray[np.float32],
    category: NDArray[np.uint32],
    rank: NDArray[np.int16],
    finalists: Finalists,
    probabilities: NDArray[np.float64],
    seeds: NDArray[np.uint64],
    diversity: float,
    lists: Lists,
) -> None:
    kept, list_size = scores.shape[1], lists.places.shape[1]
    relevance = np.zeros(kept)
    repeated = np.zeros(kept, np.int64)
    taken = np.zeros(kept, np.bool_)
    arm_rank = np.zeros((N_ARMS, kept), np.int32)
    pick = np.zeros(N_ARMS, np.int64)
    for user in range(len(finalists.counts)):
        count = finalists.counts[user]
        scale_scores(scores[user], count, relevance)
        _arm_ranks(rank, user, finalists.slots, count, arm_rank)
        repeated[:] = 0
        taken[:] = False
        pick[:] = -2  # not known
        filled = min(list_size, count)
        for slot in range(filled):
            pick[RANKER] = best_marginal(relevance, repeated, taken, count, slot, diversity)
            for arm in range(1, N_ARMS):
                if pick[arm] == -2 or (pick[arm] >= 0 and taken[pick[arm]]):
                    pick[arm] = -1
                    best = NO_RANK
                    for k in range(count):
                        if arm_rank[arm, k] < best and not taken[k]:
                            pick[arm], best = k, arm_rank[arm, k]
            draw = uniform(seeds[user], slot + 1)
            arm, below = 0, probabilities[user, 0]
            while draw >= below and arm < N_ARMS - 1:
                arm += 1
                below += probabilities[user, arm]
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
            lists.propensity[user, slot] = propensity
            lists.draws[user, slot] = draw
        lists.counts[user] = filled
