"""The slots of the product's own examples as rounds of a bandit: which arm was drawn, and how likely the item was.

An arm is a source of candidates (`udfs.user_state.SOURCES`), drawn at each slot with the probability that the example
has. What is logged besides is how likely the *item* was: the arms that would have put it there,
together. Which these were is found again from their probabilities; where two arms were equally likely, either may
have been meant, and each counts half.

Slots for new items (`udfs.ranking.new_items`) are given by no source, and whichever policy draws sources gives as
many: they are left out, and what their share left to the slots before is divided out of these slots' propensities.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.ids import user_key
from schemas.records import Example, ExampleItem
from udfs.bandit import PRIOR_ALPHA, PRIOR_BETA, arm_probabilities_batch, posteriors
from udfs.user_state import NEW, SLOT_SOURCES, SOURCES, StateError, UserState

METRICS: Final = ("reward", "click", "add_to_cart", "purchase", "revenue")
CONTEXT: Final = 2
"""Numbers known of a user before a list: 1, and how many events there were."""
_ARMS: Final = {name: arm for arm, name in enumerate(SOURCES)}
_SUBSETS: Final = np.array(
    [[subset >> arm & 1 for arm in range(len(SOURCES))] for subset in range(1 << len(SOURCES))], np.float64
)
_TOLERANCE: Final = 2e-9  # propensities are logged with nine decimals


class LoggedSlots(NamedTuple):
    """N slots of L lists, which are in order of their time.

    Attributes
    ----------
    users, list_ms, settled_ms
        (L,): a number a user, when the list was made, when its outcomes were known.
    contexts, evidence
        float64 (L, CONTEXT); float64 (L, 2, K): what the user's own credits said for and against each arm.
    plays
        float64 (L, K): with which probability each arm was drawn.
    lists, places, arms
        int64 (N,): row of the list, number of the slot, arm that was drawn.
    rewards, propensities
        float64 (N,): of the item, where a source fills the slot.
    covers
        float64 (N, K): 1 for arms that would have put the item there, a share where that is not certain.
    explained
        bool (N,): arms were found that have the logged propensity. Without, the arm drawn stands for it.
    skipped
        Lists whose snapshot could not be read.
    unit
        What a round is, for people.
    """

    users: npt.NDArray[np.int64]
    list_ms: npt.NDArray[np.int64]
    settled_ms: npt.NDArray[np.int64]
    contexts: npt.NDArray[np.float64]
    evidence: npt.NDArray[np.float64]
    plays: npt.NDArray[np.float64]
    lists: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    arms: npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float64]
    propensities: npt.NDArray[np.float64]
    covers: npt.NDArray[np.float64]
    explained: npt.NDArray[np.bool_]
    skipped: int
    unit: str = "slot"


def logged_slots(
    examples: Iterable[Example], metric: str, floor: float, new_item_share: float = 0.0
) -> LoggedSlots:
    """Return examples as rounds, each list once.

    Parameters
    ----------
    metric
        One of `METRICS`: what a slot earned.
    floor
        `model.exploration_floor` of the deployment, for lists of releases that logged no probabilities.
    new_item_share
        `model.new_item_share` of the deployment.

    Raises
    ------
    ValueError
        Where there is no list to go by.
    """
    by_id = {one.rec_id: one for one in examples}
    states: list[UserState] = []
    kept: list[Example] = []
    for example in sorted(by_id.values(), key=lambda one: (one.list_time, one.rec_id)):
        try:
            state = UserState.decode(example.snapshot)
        except StateError:
            continue
        known = all(item.source in SLOT_SOURCES and item.propensity > 0 for item in example.items)
        if known and any(item.source != NEW for item in example.items):
            states.append(state)
            kept.append(example)
    if not kept:
        raise ValueError(
            f"examples: wanted lists with a snapshot and known sources, got none of {len(by_id)}"
        )
    both = [posteriors(state.arm_alpha, state.arm_beta) for state in states]
    alpha, beta = (np.stack([pair[side][: len(SOURCES)] for pair in both]) for side in (0, 1))
    plays = arm_probabilities_batch(alpha, beta, floor)
    for row, example in enumerate(
        kept
    ):  # what was logged; lists of earlier releases had the user's own credits alone
        if len(example.source_probabilities) == len(SOURCES):
            plays[row] = example.source_probabilities
    numbers: dict[str, int] = {}
    users = [numbers.setdefault(user_key(one.tenant, one.user_id), len(numbers)) for one in kept]
    slots = [(row, item) for row, example in enumerate(kept) for item in example.items if item.source != NEW]
    lists = np.array([row for row, _ in slots], np.int64)
    arms = np.array([_ARMS[item.source] for _, item in slots], np.int64)
    before_new = np.array([item.slot < _new_slot(kept[row]) for row, item in slots])
    propensities = np.array([item.propensity for _, item in slots])
    covers, explained = _covers(plays[lists], arms, propensities)
    if new_item_share > 0.0:
        left = propensities / (1.0 - new_item_share)
        shared, fits = _covers(plays[lists], arms, left)
        # A user who could get a new item could at each slot until one stood there; one without could at none.
        takes = np.bincount(lists, before_new & fits) >= np.bincount(lists, before_new & explained)
        of_share = before_new & takes[lists]
        covers = np.where(of_share[:, None], shared, covers)
        explained = np.where(of_share, fits, explained)
        propensities = np.where(of_share, left, propensities)
    return LoggedSlots(
        np.array(users, np.int64),
        np.array([one.list_time for one in kept], np.int64),
        np.array([one.settled_time for one in kept], np.int64),
        user_context(states),
        np.stack([alpha - np.array(PRIOR_ALPHA), beta - np.array(PRIOR_BETA)], axis=1).clip(0.0),
        plays,
        lists,
        np.array([item.slot for _, item in slots], np.int64),
        arms,
        np.array([earned(item, metric) for _, item in slots]),
        propensities,
        covers,
        explained,
        len(by_id) - len(kept),
    )


def _covers(
    plays: npt.NDArray[np.float64], arms: npt.NDArray[np.int64], propensities: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return which arms have the logged propensity together, the drawn one among them."""
    fits = np.abs(plays @ _SUBSETS.T - propensities[:, None]) < _TOLERANCE
    fits &= _SUBSETS.T[arms] > 0
    found = fits.sum(axis=1)
    covers = fits @ _SUBSETS / np.maximum(found, 1)[:, None]
    alone = np.zeros_like(plays)
    alone[np.arange(len(arms)), arms] = 1.0
    return np.where(found[:, None] > 0, covers, alone), found > 0


def _new_slot(example: Example) -> int:
    """Return the slot of the list's new item; behind all slots where there is none."""
    return min(
        (item.slot for item in example.items if item.source == NEW), default=len(example.items) + 1_000
    )


def user_context(states: Sequence[UserState]) -> npt.NDArray[np.float64]:
    """Return what is known of users before their lists, float64 (L, CONTEXT)."""
    return np.stack([np.ones(len(states)), np.log1p([state.n_events for state in states]) / 8.0], axis=1)


def earned(item: ExampleItem, metric: str) -> float:
    """Return what a slot earned by one of `METRICS`."""
    if metric == "click":
        return float(item.clicked)
    if metric == "add_to_cart":
        return float(item.carted)
    if metric == "purchase":
        return float(item.bought)
    return item.revenue if metric == "revenue" else item.reward
