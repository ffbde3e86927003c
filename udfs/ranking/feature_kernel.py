"""Computes `FEATURES` for the finalists of a whole batch. The readable form is `feature_reference`."""

from math import exp, log, log1p

import numpy as np
from numpy.typing import NDArray

from udfs.interests import HALF_LIFE_MS
from udfs.item_factors import INTERACTION_WEIGHTS
from udfs.kernel_cache import kernel
from udfs.purchases import HALF_LIFE_DAYS
from udfs.ranking.candidates import (
    CONTENT,
    EMBEDDING,
    NEIGHBOURS,
    REPEAT,
    RULES,
    SEQUENCE,
    SESSIONS,
    Candidates,
)
from udfs.ranking.features import N_FEATURES
from udfs.ranking.first_stage import Finalists
from udfs.ranking.history import N_TYPES, NEIGHBOUR_ITEMS, History
from udfs.ranking.item_index import ItemColumns, ItemIndex
from udfs.ranking.snapshot import StateColumns
from udfs.user_state import EVENT_TYPES, MAX_INTERACTIONS

# Columns, in the order of FEATURES; a test compares the names.
(
    EMBEDDING_SCORE, EMBEDDING_RANK, NEIGHBOUR_SCORE, NEIGHBOUR_MAX, NEIGHBOUR_HITS, NEIGHBOUR_RANK,
    REPEAT_SCORE, REPEAT_RANK, SESSION_SCORE, SESSION_RANK, CONTENT_SCORE, CONTENT_RANK, SEQUENCE_SCORE,
    SEQUENCE_RANK, RULE_SCORE, RULE_RANK, FIRST_STAGE_SCORE,
    POPULARITY, TRENDING, TREND_RATIO, POPULARITY_RANK,
    PRICE, PRICE_IN_CATEGORY, REPEAT_RATE, REBUY_DAYS, FACTOR_NORM, PRICE_RELATIVE, ITEM_COUNT,
    ITEM_WEIGHT, ITEM_AGE, ITEM_PURCHASES, BOUGHT_AGE, BOUGHT_COUNT, REBUY_DUE, IN_CART, IN_SESSION,
    SEEN_RECENCY, LAST_SIMILARITY, CATEGORY_INTEREST, CATEGORY_SHARE, CATEGORY_RECENT, CATEGORY_SESSION,
    CATEGORY_OF_LAST, SESSION_EVENTS, SESSION_AGE, IDLE, USER_EVENTS, USER_SESSIONS, USER_AGE,
    USER_VIEWS, CART_RATE, PURCHASE_RATE, USER_SPEND, USER_HISTORY, USER_CATEGORIES, USER_HAS_VECTOR,
    HOUR, WEEKDAY,
) = range(N_FEATURES)  # fmt: skip
FIRST_OF_USER = SESSION_EVENTS  # from here on all candidates of a user have the same values
MS_AN_HOUR = 3_600_000
MS_A_DAY = 86_400_000
SECONDS_A_DAY = 86_400.0
MAX_DUE = 4.0
PURCHASE = EVENT_TYPES.index("purchase")
ADD_TO_CART = EVENT_TYPES.index("add_to_cart")
_INTEREST_DECAY = log(2.0) / HALF_LIFE_MS
_PURCHASE_DECAY = log(2.0) / HALF_LIFE_DAYS


def compute_features(
    index: ItemIndex,
    states: StateColumns,
    history: History,
    candidates: Candidates,
    finalists: Finalists,
    price_log: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Compute the ranker's input.

    Parameters
    ----------
    index
        The items of the epoch.
    states, history, candidates, finalists
        Of the same U users.
    price_log
        float32 (n,): log1p of today's prices, -1: not known.

    Returns
    -------
    float32 (U * K, F): the K finalists of each user one after the other; rows behind a user's count are 0.
    """
    users, kept = finalists.slots.shape
    result = np.zeros((users, kept, N_FEATURES), np.float32)
    items = index.columns
    _source_features(candidates, finalists, result)
    _item_features(items, finalists, price_log, result)
    _price_features(history, finalists, price_log, result)
    _touch_features(items, states, history, finalists, INTERACTION_WEIGHTS, result)
    _category_features(items, states, history, finalists, result)
    _user_features(items, states, history, finalists, result)
    return result.reshape(users * kept, N_FEATURES)


# Each kernel below loops over all users: passing the tuples of arrays to a function per candidate costs more
# than the features do, because every array's reference count moves, atomically.


@kernel
def _reciprocal(rank: int) -> float:
    return 1.0 / rank if rank > 0 else 0.0


@kernel
def _source_features(candidates: Candidates, finalists: Finalists, out: NDArray[np.float32]) -> None:
    for user in range(len(finalists.counts)):
        for k in range(finalists.counts[user]):
            slot = finalists.slots[user, k]
            out[user, k, EMBEDDING_SCORE] = candidates.embedding_score[user, slot]
            out[user, k, EMBEDDING_RANK] = _reciprocal(candidates.rank[user, slot, EMBEDDING])
            out[user, k, NEIGHBOUR_SCORE] = candidates.neighbour_score[user, slot]
            out[user, k, NEIGHBOUR_MAX] = candidates.neighbour_max[user, slot]
            out[user, k, NEIGHBOUR_HITS] = candidates.neighbour_hits[user, slot]
            out[user, k, NEIGHBOUR_RANK] = _reciprocal(candidates.rank[user, slot, NEIGHBOURS])
            out[user, k, REPEAT_SCORE] = candidates.repeat_score[user, slot]
            out[user, k, REPEAT_RANK] = _reciprocal(candidates.rank[user, slot, REPEAT])
            out[user, k, SESSION_SCORE] = candidates.session_score[user, slot]
            out[user, k, SESSION_RANK] = _reciprocal(candidates.rank[user, slot, SESSIONS])
            out[user, k, CONTENT_SCORE] = candidates.content_score[user, slot]
            out[user, k, CONTENT_RANK] = _reciprocal(candidates.rank[user, slot, CONTENT])
            out[user, k, SEQUENCE_SCORE] = candidates.sequence_score[user, slot]
            out[user, k, SEQUENCE_RANK] = _reciprocal(candidates.rank[user, slot, SEQUENCE])
            out[user, k, RULE_SCORE] = candidates.rule_score[user, slot]
            out[user, k, RULE_RANK] = _reciprocal(candidates.rank[user, slot, RULES])
            out[user, k, FIRST_STAGE_SCORE] = finalists.score[user, k]


@kernel
def _item_features(
    items: ItemColumns, finalists: Finalists, price_log: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    for user in range(len(finalists.counts)):
        for k in range(finalists.counts[user]):
            row = finalists.rows[user, k]
            out[user, k, POPULARITY] = items.popularity[row]
            out[user, k, TRENDING] = items.trending[row]
            out[user, k, TREND_RATIO] = items.trending[row] - items.popularity[row]
            out[user, k, POPULARITY_RANK] = items.popularity_rank[row]
            out[user, k, PRICE] = price_log[row]
            if price_log[row] >= 0.0 and not np.isnan(items.category_price[row]):
                out[user, k, PRICE_IN_CATEGORY] = price_log[row] - items.category_price[row]
            out[user, k, REPEAT_RATE] = items.repeat_rate[row]
            out[user, k, REBUY_DAYS] = items.rebuy_log[row]
            out[user, k, FACTOR_NORM] = items.factor_norm[row]


@kernel
def _price_features(
    history: History, finalists: Finalists, price_log: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    for user in range(len(finalists.counts)):
        total, known = 0.0, 0
        for j in range(history.n_recent[user]):
            price = price_log[history.recent_rows[user, j]]
            if price >= 0.0:
                total += price
                known += 1
        if known == 0:
            continue
        for k in range(finalists.counts[user]):
            price = price_log[finalists.rows[user, k]]
            if price >= 0.0:
                out[user, k, PRICE_RELATIVE] = price - total / known


@kernel
def _touch_features(
    items: ItemColumns,
    states: StateColumns,
    history: History,
    finalists: Finalists,
    type_weights: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """What the user did with each finalist: one pass over the user's lists, by each row's place."""
    place = np.full(len(items.hashes), -1, np.int32)
    for user in range(len(finalists.counts)):
        count, at_ms = finalists.counts[user], states.at_ms[user]
        for k in range(count):
            place[finalists.rows[user, k]] = k
            out[user, k, ITEM_AGE] = -1.0
            out[user, k, BOUGHT_AGE] = -1.0
            out[user, k, REBUY_DUE] = -1.0
        session_start_s = states.session_start_ms[user] // 1000
        for j in range(states.n_interactions[user]):
            row = history.item_rows[user, j]
            if row < 0 or place[row] < 0:
                continue
            k, seconds, kind = place[row], np.int64(states.item_seconds[user, j]), states.item_types[user, j]
            out[user, k, ITEM_COUNT] += np.float32(1.0)
            out[user, k, ITEM_WEIGHT] += type_weights[kind] if kind < N_TYPES else np.float32(0.0)
            out[user, k, ITEM_PURCHASES] += np.float32(kind == PURCHASE)
            # Interactions stand in the order of time: the last one found is the newest.
            out[user, k, ITEM_AGE] = log1p(max(at_ms - 1000 * seconds, 0) / 1000.0)
            out[user, k, IN_CART] = np.float32(kind == ADD_TO_CART)
            if states.n_sessions[user] > 0 and seconds >= session_start_s:
                out[user, k, IN_SESSION] = np.float32(1.0)
        for j in range(states.n_bought[user]):
            row = history.bought_rows[user, j]
            if row < 0 or place[row] < 0:
                continue
            k = place[row]
            days = max(at_ms - 1000 * np.int64(states.bought_seconds[user, j]), 0) / (1000.0 * SECONDS_A_DAY)
            out[user, k, BOUGHT_AGE] = log1p(days)
            out[user, k, BOUGHT_COUNT] = log1p(states.bought_counts[user, j] * exp(-days * _PURCHASE_DECAY))
            if not np.isnan(items.rebuy_days[row]):
                out[user, k, REBUY_DUE] = min(days / max(items.rebuy_days[row], 0.5), MAX_DUE)
        for j in range(states.n_seen[user]):
            row = history.seen_rows[user, j]
            if row >= 0 and place[row] >= 0:
                out[user, place[row], SEEN_RECENCY] = _reciprocal(states.n_seen[user] - j)
        for k in range(count):
            place[finalists.rows[user, k]] = -1


@kernel
def _category_features(
    items: ItemColumns,
    states: StateColumns,
    history: History,
    finalists: Finalists,
    out: NDArray[np.float32],
) -> None:
    """What the user did with each finalist's category, and how alike it and the last item are."""
    dimension = items.factors.shape[1]
    session = np.zeros(MAX_INTERACTIONS, np.uint32)
    last_factors = np.zeros(dimension, np.float64)
    for user in range(len(finalists.counts)):
        n_recent, n_interests = history.n_recent[user], states.n_interests[user]
        last = history.recent_rows[user, 0]
        if n_recent > 0:
            for j in range(dimension):
                last_factors[j] = items.factors[last, j]
        in_session = 0
        session_start_s = states.session_start_ms[user] // 1000
        for j in range(states.n_interactions[user]):
            row = history.item_rows[user, j]
            if row >= 0 and states.n_sessions[user] > 0 and states.item_seconds[user, j] >= session_start_s:
                session[in_session] = items.category[row]
                in_session += 1
        decay = exp((states.interests_ms[user] - states.at_ms[user]) * _INTEREST_DECAY)
        interest = 0.0
        for j in range(n_interests):
            interest += states.interest_weights[user, j]
        for k in range(finalists.counts[user]):
            row = finalists.rows[user, k]
            category = items.category[row]
            if n_recent > 0:
                lengths = np.float64(items.factor_norm[row]) * items.factor_norm[last]
                product = 0.0
                for j in range(dimension):
                    product += items.factors[row, j] * last_factors[j]
                if lengths > 0.0:
                    out[user, k, LAST_SIMILARITY] = product / lengths
            if category == 0:
                continue
            for j in range(n_interests):
                if states.interest_categories[user, j] == category:
                    out[user, k, CATEGORY_INTEREST] = log1p(states.interest_weights[user, j] * decay)
                    if interest > 0.0:
                        out[user, k, CATEGORY_SHARE] = states.interest_weights[user, j] / interest
            if n_recent > 0:
                same = 0
                for j in range(n_recent):
                    same += items.category[history.recent_rows[user, j]] == category
                out[user, k, CATEGORY_RECENT] = same / n_recent
                out[user, k, CATEGORY_OF_LAST] = np.float32(items.category[last] == category)
            if in_session > 0:
                same = 0
                for j in range(in_session):
                    same += session[j] == category
                out[user, k, CATEGORY_SESSION] = same / in_session


@kernel
def _user_features(
    items: ItemColumns,
    states: StateColumns,
    history: History,
    finalists: Finalists,
    out: NDArray[np.float32],
) -> None:
    """The features that all of a user's candidates share: computed for the first, copied to the others."""
    for user in range(len(finalists.counts)):
        if finalists.counts[user] == 0:
            continue
        at_ms = states.at_ms[user]
        out[user, 0, SESSION_EVENTS] = log1p(states.session_events[user])
        out[user, 0, SESSION_AGE] = -1.0
        if states.n_sessions[user] > 0:
            out[user, 0, SESSION_AGE] = log1p(max(at_ms - states.session_start_ms[user], 0) / 1000.0)
        out[user, 0, IDLE] = -1.0
        out[user, 0, USER_AGE] = -1.0
        if states.n_events[user] > 0:
            out[user, 0, IDLE] = log1p(max(at_ms - states.last_ms[user], 0) / 1000.0)
            out[user, 0, USER_AGE] = log1p(max(at_ms - states.first_ms[user], 0) / (1000.0 * SECONDS_A_DAY))
        out[user, 0, USER_EVENTS] = log1p(states.n_events[user])
        out[user, 0, USER_SESSIONS] = log1p(states.n_sessions[user])
        out[user, 0, USER_VIEWS] = log1p(states.n_views[user])
        carts, purchases = states.n_carts[user], states.n_purchases[user]
        counted = max(states.n_views[user] + carts + purchases, 1)
        out[user, 0, CART_RATE] = carts / counted
        out[user, 0, PURCHASE_RATE] = purchases / counted
        out[user, 0, USER_SPEND] = -1.0
        if purchases > 0:
            out[user, 0, USER_SPEND] = log1p(max(np.float64(states.spend[user]), 0.0) / purchases)
        out[user, 0, USER_HISTORY] = states.n_interactions[user]
        different = 0
        for j in range(history.n_recent[user]):
            category = items.category[history.recent_rows[user, j]]
            known = category == 0
            for i in range(j):
                known = known or items.category[history.recent_rows[user, i]] == category
            different += not known
        out[user, 0, USER_CATEGORIES] = different / NEIGHBOUR_ITEMS
        out[user, 0, USER_HAS_VECTOR] = np.float32(states.dim[user] == items.factors.shape[1])
        out[user, 0, HOUR] = (at_ms // MS_AN_HOUR) % 24
        out[user, 0, WEEKDAY] = (at_ms // MS_A_DAY + 3) % 7  # 1970 began on a Thursday
        for k in range(1, finalists.counts[user]):
            for column in range(FIRST_OF_USER, N_FEATURES):
                out[user, k, column] = out[user, 0, column]
