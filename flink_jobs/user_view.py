"""What readers see of a user beside the list: the last items, and the features as served.

The readable form of what `list_kernel` writes for a whole batch; tests hold the two together.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from udfs.user_state import UserState

SESSION_ITEMS = 20
TOP_CATEGORIES = 3


def recent_items(state: UserState, item_of: Mapping[int, str]) -> list[str]:
    """Give the ids of the last items of a user, newest first; items that the model does not know are left out.

    Parameters
    ----------
    item_of
        Item hash → item id.
    """
    recent = state.item_hashes[-8 * SESSION_ITEMS :]
    hashes = struct.unpack(f"<{len(recent) // 8}Q", recent)
    return [item_of[hashed] for hashed in reversed(hashes) if hashed in item_of]


def user_features(state: UserState, category_of: Mapping[int, str]) -> dict[str, object]:
    """Give the numbers of a user that a reader or a rule may want, absolute values as of the snapshot.

    Parameters
    ----------
    category_of
        Category hash → name.
    """
    count = len(state.interest_categories) // 4
    categories = struct.unpack(f"<{count}I", state.interest_categories)
    weights = struct.unpack(f"<{count}f", state.interest_weights)
    best = sorted(zip(weights, categories, strict=True), reverse=True)[:TOP_CATEGORIES]
    return {
        "events": state.n_events,
        "views": state.n_views,
        "carts": state.n_carts,
        "purchases": state.n_purchases,
        "spend": round(state.spend, 2),
        "sessions": state.n_sessions,
        "session_events": state.session_events,
        "first_ms": state.first_ms,
        "last_ms": state.last_ms,
        "interests": ",".join(category_of.get(category, str(category)) for _, category in best),
    }
