"""The lists of the product's own examples as rounds of a bandit: which list policy was drawn, what the list earned.

A list's policy and the probability of each were logged with it (`udfs.ranking.list_policies`): nothing has to be
found again.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from model_export.protocols.logged_slots import LoggedSlots, earned, user_context
from schemas.ids import user_key
from schemas.records import Example
from udfs.user_state import StateError, UserState


def logged_lists(examples: Iterable[Example], metric: str) -> tuple[LoggedSlots, tuple[str, ...]]:
    """Return lists as rounds, each once, and the names of the list policies.

    Parameters
    ----------
    metric
        One of `model_export.protocols.logged_slots.METRICS`: the sum over a list's slots, of ``reward`` at most 1, as
        its credit is.

    Raises
    ------
    ValueError
        Where no list logged its policy.
    """
    by_id = {one.rec_id: one for one in examples}
    kept: list[Example] = []
    states: list[UserState] = []
    for example in sorted(by_id.values(), key=lambda one: (one.list_time, one.rec_id)):
        shares = {share.policy: share.probability for share in example.list_shares}
        if not shares.get(example.list_policy, 0.0) > 0.0:
            continue
        try:
            states.append(UserState.decode(example.snapshot))
        except StateError:
            continue
        kept.append(example)
    if not kept:
        raise ValueError(f"examples: wanted lists that logged a list policy, got none of {len(by_id)}")
    names = tuple(sorted({share.policy for example in kept for share in example.list_shares}))
    plays = np.zeros((len(kept), len(names)))
    for row, example in enumerate(kept):
        for share in example.list_shares:
            plays[row, names.index(share.policy)] = share.probability
    arms = np.array([names.index(example.list_policy) for example in kept], np.int64)
    rows = np.arange(len(kept))
    covers = np.zeros_like(plays)
    covers[rows, arms] = 1.0
    numbers: dict[str, int] = {}
    users = [numbers.setdefault(user_key(one.tenant, one.user_id), len(numbers)) for one in kept]
    sums = np.array([sum(earned(item, metric) for item in example.items) for example in kept], np.float64)
    return LoggedSlots(
        np.array(users, np.int64),
        np.array([one.list_time for one in kept], np.int64),
        np.array([one.settled_time for one in kept], np.int64),
        user_context(states),
        np.zeros((len(kept), 2, len(names))),
        plays,
        rows,
        np.zeros(len(kept), np.int64),
        arms,
        np.minimum(sums, 1.0) if metric == "reward" else sums,
        plays[rows, arms],
        covers,
        np.ones(len(kept), np.bool_),
        len(by_id) - len(kept),
        "list",
    ), names
