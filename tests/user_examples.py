"""Events, states and a small model for the tests of the keyed logic."""

import numpy as np

from schemas.ids import category_hash, item_hash
from schemas.records import Credit, Event, EventItem
from udfs.item_factors import ItemFactors
from udfs.user_logic import LogicSettings, Position, Step, UserLogic
from udfs.user_state import UserState

T0 = 1_700_000_000_000
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
EPOCH = 3
ITEMS = tuple(f"item-{number}" for number in range(120))
CATEGORIES = tuple(f"category-{number}" for number in range(24))
SETTINGS = LogicSettings(session_gap_ms=30 * MINUTE, forget_after_ms=90 * DAY, shards=32)


def category_of(item_id: str) -> str:
    return CATEGORIES[ITEMS.index(item_id) % len(CATEGORIES)]


def small_model(dim: int = 8, seed: int = 5) -> ItemFactors:
    """120 items with vectors of small integers over 8, so that sums are exact on every machine."""
    order = sorted(ITEMS, key=item_hash)
    rng = np.random.default_rng(seed)
    factors = (rng.integers(-8, 9, (len(order), dim)) / 8).astype(np.float32)
    return ItemFactors(
        np.array([item_hash(item) for item in order], np.uint64),
        factors,
        factors.T @ factors,
        np.array([category_hash(category_of(item)) for item in order], np.uint32),
    )


def user_logic() -> UserLogic:
    return UserLogic(SETTINGS, {EPOCH: small_model()})


def event(event_id: str, kind: str = "view", item: str | None = "item-1", at_ms: int = T0, **fields) -> Event:
    record = Event(
        event_id, kind, "default", "u1", None, item, at_ms, at_ms, None, (), None, None, {}, "personalization"
    )
    return record._replace(**fields)


def impression(event_id: str, items: list[str], rec_id: str | None, at_ms: int = T0) -> Event:
    shown = tuple(EventItem(item, place) for place, item in enumerate(items))
    return event(event_id, "impression", None, at_ms, items=shown, rec_id=rec_id)


def credit(credit_id: str, arm: str = "ranker", reward: float = 1.0, at_ms: int = T0) -> Credit:
    return Credit("default", "u1", "rec-1", arm, reward, at_ms, credit_id)


def run(
    logic: UserLogic, events: list[Event], state: UserState | None = None, epoch: int = EPOCH
) -> list[Step]:
    """Apply events one after the other."""
    steps = []
    for offset, record in enumerate(events):
        step = logic.on_event(state, record, record.event_time, Position(0, offset), epoch)
        state = step.state
        steps.append(step)
    return steps


def golden_states() -> dict[str, UserState]:
    """A user of one search, a shopper after a week, and one whose every list is full."""
    logic = user_logic()
    search = run(logic, [event("s", "search", None, query="boots")])[-1].state

    week = []
    for number in range(23):
        at_ms = T0 + number * 7 * HOUR
        kind = "purchase" if number % 9 == 8 else "add_to_cart" if number % 4 == 3 else "view"
        week.append(
            event(f"w{number}", kind, ITEMS[number % 13], at_ms, value=12.5 if kind == "purchase" else None)
        )
    week.append(impression("shown", list(ITEMS[40:50]), "rec-1", T0 + 7 * DAY))
    typical = run(logic, week)[-1].state
    typical = logic.on_credit(typical, credit("c1", "repeat", 1.0), Position(0, 0)).state

    everything = []
    for number in range(110):
        at_ms = T0 + number * 5 * MINUTE
        everything.append(event(f"b{number}", "purchase", ITEMS[number], at_ms, value=0.1))
        everything.append(impression(f"i{number}", [ITEMS[number]], f"rec-{number}", at_ms))
    full = run(logic, everything)[-1].state
    full = logic.on_credit(full, credit("c2", "popular", 0.25), Position(0, 0)).state
    assert search is not None and typical is not None and full is not None
    return {
        "search_only": search,
        "typical": logic.refresh_embedding(typical, EPOCH),
        "full": UserLogic(SETTINGS, {EPOCH: small_model(64)}).refresh_embedding(full, EPOCH),
    }
