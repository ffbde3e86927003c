"""`FEATURES` of one candidate in plain Python: slow, readable, and what `feature_kernel` is tested against.

It starts from the state as `UserState.decode` gives it and looks everything up by item hash, so that it
shares neither rows nor kernels with the fast path. Scores and ranks of the sources are inputs: they are
retrieval's.
"""

from collections.abc import Mapping
from math import log1p
from struct import unpack
from typing import NamedTuple

import numpy as np

from udfs.interests import Interests, weights_at
from udfs.item_factors import INTERACTION_WEIGHTS
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.features import FEATURE_NAMES
from udfs.user_state import EVENT_TYPES, UserState

RECENT_ITEMS = 10
DAY_S = 86_400.0


class SourceScores(NamedTuple):
    """What retrieval and the first stage said of one candidate; ranks from 1, 0: not brought by it."""

    embedding_score: float
    embedding_rank: int
    neighbour_score: float
    neighbour_max: float
    neighbour_hits: int
    neighbour_rank: int
    repeat_score: float
    repeat_rank: int
    session_score: float
    session_rank: int
    content_score: float
    content_rank: int
    sequence_score: float
    sequence_rank: int
    rule_score: float
    rule_rank: int
    first_stage_score: float


class Interaction(NamedTuple):
    """One entry of the state's history that the epoch knows."""

    row: int
    at_s: int
    kind: str


def reference_features(
    state: UserState, at_ms: int, row: int, scores: SourceScores, catalogue: CatalogueView
) -> dict[str, float]:
    """Compute all features of one candidate.

    Parameters
    ----------
    state
        The user, with a vector of this epoch or none.
    at_ms
        Now.
    row
        The candidate.
    scores
        What the sources said of it.
    catalogue
        Today's prices, and the items.

    Returns
    -------
    dict
        Name to value, in the order of `FEATURES`.
    """
    values = (
        _of_sources(scores)
        | _of_item(row, catalogue)
        | _of_history(state, at_ms, row, catalogue)
        | _of_category(state, at_ms, row, catalogue)
        | _of_user(state, at_ms, catalogue)
    )
    return {name: values[name] for name in FEATURE_NAMES}


def _of_sources(scores: SourceScores) -> dict[str, float]:
    values = dict(zip(SourceScores._fields, map(float, scores), strict=True))
    for name in values:
        if not name.endswith("_rank"):
            continue
        values[name] = _reciprocal(int(values[name]))
    return values


def _of_item(row: int, catalogue: CatalogueView) -> dict[str, float]:
    columns = catalogue.index.columns
    price, usual = float(catalogue.price_log[row]), float(columns.category_price[row])
    rebuy_days = float(columns.rebuy_days[row])
    return {
        "popularity": float(columns.popularity[row]),
        "trending": float(columns.trending[row]),
        "trend_ratio": float(columns.trending[row]) - float(columns.popularity[row]),
        "popularity_rank": float(
            np.log2(2.0 + min(columns.popular_order.tolist().index(row), len(catalogue.base)))
        ),
        "price": price,
        "price_in_category": price - usual if price >= 0 and usual == usual else 0.0,
        "repeat_rate": float(columns.repeat_rate[row]),
        "rebuy_days": log1p(rebuy_days) if rebuy_days == rebuy_days else -1.0,
        "factor_norm": float(np.linalg.norm(columns.factors[row].astype(np.float64))),
    }


def _of_history(state: UserState, at_ms: int, row: int, catalogue: CatalogueView) -> dict[str, float]:
    columns = catalogue.index.columns
    of_item = [one for one in _interactions(state, catalogue) if one.row == row]
    prices = [float(catalogue.price_log[recent]) for recent in _recent(state, catalogue)]
    prices = [price for price in prices if price >= 0]
    price = float(catalogue.price_log[row])
    item = int(columns.hashes[row])
    bought = dict(zip(_numbers("Q", state.bought_hashes), _numbers("I", state.bought_seconds), strict=True))
    counts = dict(zip(bought, _floats(state.bought_counts), strict=True))
    seen = _numbers("Q", state.seen_hashes)[::-1]
    bought_days = max(at_ms - 1000 * bought[item], 0) / (1000 * DAY_S) if item in bought else None
    rebuy_days = float(columns.rebuy_days[row])
    due = None if bought_days is None or rebuy_days != rebuy_days else bought_days / max(rebuy_days, 0.5)
    return {
        "price_relative": price - sum(prices) / len(prices) if prices and price >= 0 else 0.0,
        "item_count": float(len(of_item)),
        "item_weight": sum(_weight(one.kind) for one in of_item),
        "item_age": log1p(max(at_ms - 1000 * of_item[-1].at_s, 0) / 1000) if of_item else -1.0,
        "item_purchases": float(sum(one.kind == "purchase" for one in of_item)),
        "bought_age": log1p(bought_days) if bought_days is not None else -1.0,
        "bought_count": 0.0 if bought_days is None else log1p(counts[item] * 0.5 ** (bought_days / 45)),
        "rebuy_due": min(due, 4.0) if due is not None else -1.0,
        "in_cart": float(bool(of_item) and of_item[-1].kind == "add_to_cart"),
        "in_session": float(any(_in_session(state, one) for one in of_item)),
        "seen_recency": _reciprocal(seen.index(item) + 1) if item in seen else 0.0,
        "last_similarity": _similarity(row, _recent(state, catalogue)[:1], catalogue),
    }


def _of_category(state: UserState, at_ms: int, row: int, catalogue: CatalogueView) -> dict[str, float]:
    names = catalogue.index.columns.category
    category = int(names[row])
    recent = [int(names[one]) for one in _recent(state, catalogue)]
    session = [int(names[one.row]) for one in _interactions(state, catalogue) if _in_session(state, one)]
    interests = Interests(state.interest_categories, state.interest_weights, state.interests_ms)
    weights: Mapping[int, float] = weights_at(interests, at_ms)
    kept = dict(zip(weights, _floats(state.interest_weights), strict=True))
    if category == 0:
        return dict.fromkeys(
            (
                "category_interest",
                "category_share",
                "category_recent",
                "category_session",
                "category_of_last",
            ),
            0.0,
        )
    total = sum(kept.values())
    return {
        "category_interest": log1p(weights.get(category, 0.0)),
        "category_share": kept.get(category, 0.0) / total if total > 0 else 0.0,
        "category_recent": recent.count(category) / len(recent) if recent else 0.0,
        "category_session": session.count(category) / len(session) if session else 0.0,
        "category_of_last": float(bool(recent) and recent[0] == category),
    }


def _of_user(state: UserState, at_ms: int, catalogue: CatalogueView) -> dict[str, float]:
    columns = catalogue.index.columns
    counted = max(state.n_views + state.n_carts + state.n_purchases, 1)
    recent = {int(columns.category[row]) for row in _recent(state, catalogue)} - {0}
    known, in_session = state.n_events > 0, state.n_sessions > 0
    spend = max(state.spend, 0.0) / state.n_purchases if state.n_purchases else None
    return {
        "session_events": log1p(state.session_events),
        "session_age": log1p(max(at_ms - state.session_start_ms, 0) / 1000) if in_session else -1.0,
        "idle": log1p(max(at_ms - state.last_ms, 0) / 1000) if known else -1.0,
        "user_events": log1p(state.n_events),
        "user_sessions": log1p(state.n_sessions),
        "user_age": log1p(max(at_ms - state.first_ms, 0) / (1000 * DAY_S)) if known else -1.0,
        "user_views": log1p(state.n_views),
        "cart_rate": state.n_carts / counted,
        "purchase_rate": state.n_purchases / counted,
        "user_spend": log1p(spend) if spend is not None else -1.0,
        "user_history": float(len(state.item_types)),
        "user_categories": len(recent) / RECENT_ITEMS,
        "user_has_vector": float(len(state.embedding) == 2 * columns.factors.shape[1]),
        "hour": float(at_ms // 3_600_000 % 24),
        "weekday": float((at_ms // 86_400_000 + 3) % 7),
    }


def _interactions(state: UserState, catalogue: CatalogueView) -> list[Interaction]:
    """The interactions with known items, oldest first."""
    every = zip(
        _numbers("Q", state.item_hashes), _numbers("I", state.item_seconds), state.item_types, strict=True
    )
    known = [Interaction(catalogue.index.row(item), at_s, EVENT_TYPES[kind]) for item, at_s, kind in every]
    return [one for one in known if one.row >= 0]


def _recent(state: UserState, catalogue: CatalogueView) -> list[int]:
    """Rows of the last 10 different items whose interaction has a weight, newest first."""
    rows = [one.row for one in _interactions(state, catalogue) if _weight(one.kind) > 0]
    return list(dict.fromkeys(reversed(rows)))[:RECENT_ITEMS]


def _in_session(state: UserState, one: Interaction) -> bool:
    return state.n_sessions > 0 and one.at_s >= state.session_start_ms // 1000


def _similarity(row: int, last: list[int], catalogue: CatalogueView) -> float:
    if not last:
        return 0.0
    one, other = (catalogue.index.columns.factors[at].astype(np.float64) for at in (row, last[0]))
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths > 0 else 0.0


def _weight(kind: str) -> float:
    return float(INTERACTION_WEIGHTS[EVENT_TYPES.index(kind)])


def _reciprocal(rank: int) -> float:
    return 1.0 / rank if rank > 0 else 0.0


def _numbers(code: str, packed: bytes) -> list[int]:
    size = {"Q": 8, "I": 4}[code]
    return list(unpack(f"<{len(packed) // size}{code}", packed))


def _floats(packed: bytes) -> list[float]:
    return list(unpack(f"<{len(packed) // 4}f", packed))
