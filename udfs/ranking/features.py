"""The features of one candidate for one user: the only list, for training and serving.

`udfs.ranking.feature_kernel` computes them for a whole batch, `udfs.ranking.feature_reference` the same one
candidate at a time in plain Python. A change of a name, unit, meaning or order changes
`FEATURE_LIST_HASH`, and a bundle trained on another list is refused: raise `MEANING` when a formula changes
and the names do not.

Times are event times in UTC; "now" is the snapshot's time, never a clock's. A feature whose `missing` is a
number takes that number when it is not known; no feature is ever NaN.
"""

import hashlib
from typing import NamedTuple

MEANING = 1


class Feature(NamedTuple):
    """One column of the ranker's input, float32.

    `missing` is the value that says "not known"; None where the feature is always known.
    """

    name: str
    unit: str
    missing: float | None
    doc: str


def _feature(name: str, unit: str, doc: str, missing: float | None = None) -> Feature:
    return Feature(name, unit, missing, doc)


FEATURES: tuple[Feature, ...] = (
    # where the candidate came from
    _feature("embedding_score", "inner product", "user vector times item factors", 0.0),
    _feature("embedding_rank", "1/rank", "rank among the embedding source's candidates; 0: not one"),
    _feature("neighbour_score", "score", "co-occurrence with the last 10 items, .85 a step back, summed"),
    _feature("neighbour_max", "score", "the largest single term of neighbour_score"),
    _feature("neighbour_hits", "items", "how many of the last 10 items have it as a neighbour"),
    _feature("neighbour_rank", "1/rank", "rank among the neighbour source's candidates; 0: not one"),
    _feature("repeat_score", "score 0..1", "repeat rate times how due a repeat is"),
    _feature("repeat_rank", "1/rank", "rank among the repeat source's candidates; 0: not one"),
    _feature("session_score", "score", "by what sessions like the user's last one did next", 0.0),
    _feature("session_rank", "1/rank", "rank among the session source's candidates; 0: not one"),
    _feature(
        "content_score", "cosine", "with the last 10 items by what is said, .85 a step back, summed", 0.0
    ),
    _feature("content_rank", "1/rank", "rank among the content source's candidates; 0: not one"),
    _feature("sequence_score", "share 0..1", "the network's probability over that of the user's best", 0.0),
    _feature("sequence_rank", "1/rank", "rank among the sequence source's candidates; 0: not one"),
    _feature(
        "rule_score", "share", "of what followed the last 10 items, 1 / s for the one s back, summed", 0.0
    ),
    _feature("rule_rank", "1/rank", "rank among the sequential rules' candidates; 0: not one"),
    _feature("first_stage_score", "score", "the linear blend that made it a finalist"),
    # the item alone
    _feature("popularity", "log1p weight", "all-time weight of its interactions"),
    _feature("trending", "log1p weight", "weight of its interactions, half-life 7 days at the model's cut"),
    _feature("trend_ratio", "difference of logs", "trending minus popularity"),
    _feature("popularity_rank", "log2(1 + rank)", "place in the order of popularity, from 1"),
    _feature("price", "log1p currency", "today's price in the catalogue", -1.0),
    _feature("price_in_category", "difference of logs", "price over the category's mean price", 0.0),
    _feature("repeat_rate", "share 0..1", "of its buyers, those who bought it again"),
    _feature("rebuy_days", "log1p days", "median time between repeat purchases of it", -1.0),
    _feature("factor_norm", "length", "of the item factors"),
    # the user and the item
    _feature("price_relative", "difference of logs", "price over the mean price of the last 10 items", 0.0),
    _feature("item_count", "events", "of the user's last 50 interactions, those with it"),
    _feature("item_weight", "weight", "the same, view and click 1, add_to_cart 3, purchase 5"),
    _feature("item_age", "log1p s", "since the last interaction with it", -1.0),
    _feature("item_purchases", "events", "of the last 50 interactions, purchases of it"),
    _feature("bought_age", "log1p days", "since it was last bought", -1.0),
    _feature("bought_count", "log1p purchases", "of it, each halved every 45 days"),
    _feature("rebuy_due", "ratio 0..4", "days since bought over rebuy_days", -1.0),
    _feature("in_cart", "flag", "the user's newest event on it is add_to_cart"),
    _feature("in_session", "flag", "interacted with in this session"),
    _feature("seen_recency", "1/place", "place among the impressed items, newest 1; 0: not impressed"),
    _feature("last_similarity", "cosine", "of its factors and those of the last item", 0.0),
    # the user and the item's category
    _feature("category_interest", "log1p weight", "decayed interest in its category, half-life 7 days"),
    _feature("category_share", "share 0..1", "of the user's decayed interest that is in its category"),
    _feature("category_recent", "share 0..1", "of the last 10 items, those in its category"),
    _feature("category_session", "share 0..1", "of this session's items, those in its category"),
    _feature("category_of_last", "flag", "the last item is in its category"),
    # the user alone
    _feature("session_events", "log1p events", "in this session"),
    _feature("session_age", "log1p s", "since this session began", -1.0),
    _feature("idle", "log1p s", "since the user's newest event", -1.0),
    _feature("user_events", "log1p events", "all"),
    _feature("user_sessions", "log1p sessions", "all"),
    _feature("user_age", "log1p days", "since the user's first event", -1.0),
    _feature("user_views", "log1p events", "views and clicks"),
    _feature("cart_rate", "ratio", "add_to_cart over all counted interactions"),
    _feature("purchase_rate", "ratio", "purchases over all counted interactions"),
    _feature("user_spend", "log1p currency", "spend a purchase", -1.0),
    _feature("user_history", "items", "interactions kept, at most 50"),
    _feature("user_categories", "share 0..1", "different categories among the last 10 items"),
    _feature("user_has_vector", "flag", "the user has an embedding"),
    # the moment
    _feature("hour", "h", "of the day, 0 to 23, UTC"),
    _feature("weekday", "day", "Monday 0 to Sunday 6, UTC"),
)

FEATURE_NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
N_FEATURES = len(FEATURES)


def feature_list_hash(features: tuple[Feature, ...] = FEATURES, meaning: int = MEANING) -> str:
    """Return the SHA-256, hex, of names, units, missing values and order; prose does not count."""
    rows = [f"{feature.name}|{feature.unit}|{feature.missing}" for feature in features]
    return hashlib.sha256("\n".join([f"meaning {meaning}", *rows]).encode()).hexdigest()


FEATURE_LIST_HASH = feature_list_hash()
