"""The cheap stage: a fixed linear blend of source scores picks the few that the learned ranker scores.

``w_embedding * e + w_neighbours * n + w_repeat * r + w_sessions * s + w_trending * t + w_popular * p`` with the
weights of `ModelSettings`, where within one user's candidates e is the inner product scaled from its least to
its greatest value to [0, 1], n and s the neighbour and session scores over their greatest, r the repeat score
as it is, and t and p are log1p weights over the greatest of the catalogue; with a table of devices
``+ w_devices * d``, d like n, with a vocabulary ``+ w_content * c``, c like n too, with a network
``+ w_sequence * q``, q as it is, with rules ``+ w_rules * u``, u like n. The best `reserve` of every source
get through whatever the blend says, of content half as many: a source that explores must have something to show.
Of the finalists `reserve_new` are items that the user has not had, where there are as many: what was had before
scores so high that the ranker would else see little beside it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.ranking.candidates import CONTENT, N_RETRIEVERS, RETRIEVERS, Candidates
from udfs.ranking.item_index import ItemColumns, ItemIndex
from udfs.ranking.top_k import order_key, row_of_key, sort_top


class Finalists(NamedTuple):
    """The candidates that are scored, K a user, by first-stage score descending.

    `slots` index the user's `Candidates`, `rows` the items; behind `counts` they are 0.
    """

    counts: NDArray[np.int32]  # (U,)
    slots: NDArray[np.int32]  # (U, K)
    rows: NDArray[np.int32]  # (U, K)
    score: NDArray[np.float32]  # (U, K)


def pick_finalists(index: ItemIndex, candidates: Candidates, finalists: int) -> Finalists:
    """Keep the best of every user's candidates.

    Parameters
    ----------
    index
        The items of the epoch, with the blend's weights.
    candidates
        What retrieval found for U users.
    finalists
        K.
    """
    users = len(candidates.counts)
    settings = index.settings
    weights = np.array([getattr(settings, f"weight_{name}") for name in RETRIEVERS], np.float32)
    picked = Finalists(
        np.zeros(users, np.int32),
        np.zeros((users, finalists), np.int32),
        np.zeros((users, finalists), np.int32),
        np.zeros((users, finalists), np.float32),
    )
    reserve = min(settings.reserve, finalists // N_RETRIEVERS)
    _pick(index.columns, candidates, weights, reserve, settings.reserve_new, picked)
    return picked


@kernel
def _pick(
    items: ItemColumns,
    candidates: Candidates,
    weights: NDArray[np.float32],
    reserve: int,
    reserve_new: int,
    picked: Finalists,
) -> None:
    limit = candidates.rows.shape[1]
    blend = np.empty(limit, np.float32)
    keys = np.empty(limit, np.uint64)
    others = np.empty(limit, np.uint64)
    zero, one = np.float32(0.0), np.float32(1.0)
    most_trending = items.trending[items.trending_order[0]]
    most_popular = items.popularity[items.popular_order[0]]
    trending_scale = one / most_trending if most_trending > zero else zero
    popular_scale = one / most_popular if most_popular > zero else zero
    has_devices = candidates.device_score.shape[1] > 0
    for user in range(len(candidates.counts)):
        count = candidates.counts[user]
        lowest, highest = np.float32(np.inf), np.float32(-np.inf)
        most, most_session, most_alike, most_after = zero, zero, zero, zero
        for c in range(count):
            lowest = min(lowest, candidates.embedding_score[user, c])
            highest = max(highest, candidates.embedding_score[user, c])
            most = max(most, candidates.neighbour_score[user, c])
            most_session = max(most_session, candidates.session_score[user, c])
            most_alike = max(most_alike, candidates.content_score[user, c])
            most_after = max(most_after, candidates.rule_score[user, c])
        embedding_scale = one / (highest - lowest) if highest > lowest else zero
        most_device = zero
        if has_devices:
            for c in range(count):
                most_device = max(most_device, candidates.device_score[user, c])
        neighbour_scale = one / most if most > zero else zero
        session_scale = one / most_session if most_session > zero else zero
        kept = 0
        for c in range(count):
            row = candidates.rows[user, c]
            blend[c] = (
                weights[0] * ((candidates.embedding_score[user, c] - lowest) * embedding_scale)
                + weights[1] * (candidates.neighbour_score[user, c] * neighbour_scale)
                + weights[2] * candidates.repeat_score[user, c]
                + weights[3] * (candidates.session_score[user, c] * session_scale)
                + weights[4] * (items.trending[row] * trending_scale)
                + weights[5] * (items.popularity[row] * popular_scale)
            )
            if most_device > zero:
                blend[c] += weights[6] * (candidates.device_score[user, c] / most_device)
            if most_alike > zero:
                blend[c] += weights[7] * (candidates.content_score[user, c] / most_alike)
            blend[c] += weights[8] * candidates.sequence_score[user, c]
            if most_after > zero:
                blend[c] += weights[9] * (candidates.rule_score[user, c] / most_after)
            score = blend[c]
            for source in range(N_RETRIEVERS):
                kept_back = (reserve + 1) // 2 if source == CONTENT else reserve
                if 0 < candidates.rank[user, c, source] <= kept_back:
                    score = np.float32(np.inf)  # reserved: before all others, put in order below
            keys[c] = order_key(score, c)
        kept = min(count, picked.rows.shape[1])
        sort_top(keys, count, kept)
        _make_room(candidates.repeat_score[user], reserve_new, keys, kept, count, others)
        for k in range(kept):
            slot = row_of_key(keys[k])
            keys[k] = order_key(blend[slot], slot)
        sort_top(keys, kept, kept)
        for k in range(kept):
            slot = row_of_key(keys[k])
            picked.slots[user, k] = slot
            picked.rows[user, k] = candidates.rows[user, slot]
            picked.score[user, k] = blend[slot]
        picked.counts[user] = kept


@kernel
def _make_room(
    repeat_score: NDArray[np.float32],
    reserve_new: int,
    keys: NDArray[np.uint64],
    kept: int,
    count: int,
    others: NDArray[np.uint64],
) -> None:
    """Let the best of what the user has not had take the places of the last that the user had, till there are enough.

    `keys` are those of a user's candidates, the `kept` best in front and in order; `others` is room for as many.
    """
    missing = reserve_new
    for k in range(kept):
        missing -= repeat_score[row_of_key(keys[k])] == np.float32(0.0)
    if missing <= 0:
        return
    waiting = 0
    for k in range(kept, count):
        if repeat_score[row_of_key(keys[k])] == np.float32(0.0):
            others[waiting] = keys[k]
            waiting += 1
    missing = min(missing, waiting)
    sort_top(others, waiting, missing)
    for k in range(kept - 1, -1, -1):
        if missing == 0:
            return
        if repeat_score[row_of_key(keys[k])] > np.float32(0.0):
            missing -= 1
            keys[k] = others[missing]
