"""What something a user did changes in the user's state: the hot path of the recommend job.

One flat function and tuples of locals, because it runs for every event: see benchmarks/user_logic.py before
you make it prettier.
"""

from collections.abc import Sequence
from struct import Struct, unpack
from typing import Final

from xxhash import xxh3_64_intdigest

from schemas.ids import item_hash
from schemas.records import Event, SessionDelta
from udfs.interests import add_interest
from udfs.item_factors import INTERACTION_WEIGHTS, ItemFactors
from udfs.purchases import insert_bought
from udfs.recency_set import U8_CODES, find, insert, pack_u32, place_in_time, seconds_of
from udfs.sessions import Session
from udfs.step import Position
from udfs.user_state import EVENT_TYPES, MAX_BOUGHT, MAX_INTERACTIONS, UserState

CODES: Final = {name: code for code, name in enumerate(EVENT_TYPES)}
VIEW, CLICK, CART, REMOVE, PURCHASE, SEARCH, IMPRESSION = (
    CODES[name]
    for name in ("view", "click", "add_to_cart", "remove_from_cart", "purchase", "search", "impression")
)
INTERACTIONS: Final = frozenset((VIEW, CLICK, CART, REMOVE, PURCHASE))
MAX_COUNT: Final = 0xFFFF_FFFF
MAX_PREVIOUS_ITEMS: Final = 10
MAX_ORDER_LINES: Final = MAX_INTERACTIONS
MAX_COUNTRY_CHARACTERS: Final = 64

_VIEWS: Final = (VIEW, CLICK)
_ANSWERS: Final = frozenset((CLICK, CART, PURCHASE))
_WEIGHTS: Final = tuple(float(weight) for weight in INTERACTION_WEIGHTS)
_LAST_MS: Final = MAX_COUNT * 1000
_MAX_SPEND: Final = 3e38  # of float32
_NO_DELTAS: Final[tuple[SessionDelta, ...]] = ()
_new_tuple = tuple.__new__
_pack_u64 = Struct("<Q").pack
_float32 = Struct("<f")
_unpack_second = Struct("<I").unpack_from


def apply_action(
    state: UserState,
    event: Event,
    code: int,
    event_ids: bytes,
    at_ms: int,
    position: Position,
    session: Session | None,
    factors: ItemFactors | None,
    shards: int,
) -> tuple[UserState, tuple[SessionDelta, ...], bool]:
    """Apply an event of a known type that is no impression.

    Parameters
    ----------
    state
        Before the event; stays as it is.
    code
        Index of the event's type in `EVENT_TYPES`.
    event_ids
        The ring of ids with this event in it.
    at_ms
        Effective time of the event.
    session
        With the event in it; None: the event belongs to a session that is over.
    factors
        Item side of the model in force, for categories; None: no model yet.

    Returns
    -------
    state
        After the event.
    deltas
        One for each item acted on.
    known
        False when `factors` lacks an item of the event.
    """
    (
        consent,
        flags,
        embedding_epoch,
        first_ms,
        last_ms,
        _,
        _,
        n_events,
        n_sessions,
        session_events,
        session_start_ms,
        session_last_ms,
        interests_ms,
        n_views,
        n_carts,
        n_purchases,
        spend,
        _,
        item_hashes,
        bought_hashes,
        seen_hashes,
        pending_hashes,
        item_seconds,
        bought_seconds,
        bought_counts,
        pending_seconds,
        interest_categories,
        interest_weights,
        arm_alpha,
        arm_beta,
        embedding,
        _,
        item_types,
    ) = state
    partition, offset = position
    deltas = _NO_DELTAS
    known = True
    if session is not None:
        n_sessions, session_events, session_start_ms, session_last_ms = session
    if code in INTERACTIONS:
        second = at_ms // 1000 if 0 <= at_ms <= _LAST_MS else seconds_of(at_ms)
        second_bytes = pack_u32(second)
        weight = _WEIGHTS[code]
        item_ids = _order_lines(event) if event.items else (event.item_id,)
        country = event.context.get("country", "")[:MAX_COUNTRY_CHARACTERS]
        line = 0
        for item_id in item_ids:
            if item_id is None:
                continue
            hash_value = item_hash(item_id)
            item = _pack_u64(hash_value)
            place = place_in_time(item_seconds, second)
            if session is not None and weight:
                previous = _previous_items(item_hashes, item_seconds, place, session_start_ms // 1000)
                delta = (
                    event.tenant,
                    event.user_id,
                    n_sessions,
                    session_start_ms,
                    session_events - 1,
                    item_id,
                    event.event_type,
                    at_ms,
                    previous,
                    partition,
                    offset,
                    line,
                    country,
                )
                deltas += (_new_tuple(SessionDelta, delta),)
                line += 1
            item_hashes = insert(item_hashes, place, item, MAX_INTERACTIONS)
            item_seconds = insert(item_seconds, place, second_bytes, MAX_INTERACTIONS)
            item_types = insert(item_types, place, U8_CODES[code], MAX_INTERACTIONS)
            if code == PURCHASE:
                bought = (bought_hashes, bought_seconds, bought_counts)
                bought_hashes, bought_seconds, bought_counts = insert_bought(bought, item, second, MAX_BOUGHT)
            if factors is not None:
                category = factors.category_of(hash_value)
                if category is None:
                    known = False
                elif category and weight:
                    interest_categories, interest_weights, interests_ms = add_interest(
                        interest_categories, interest_weights, interests_ms, category, weight, at_ms
                    )
        if code in _VIEWS:
            n_views += n_views < MAX_COUNT
        elif code == CART:
            n_carts += n_carts < MAX_COUNT
        elif code == PURCHASE:
            n_purchases += n_purchases < MAX_COUNT
            spend = _add_spend(spend, event.value)
        if event.rec_id is not None and code in _ANSWERS:
            answered = find(pending_hashes, _pack_u64(xxh3_64_intdigest(event.rec_id)))
            if answered >= 0:
                pending_hashes = pending_hashes[:answered] + pending_hashes[answered + 8 :]
                answered >>= 1
                pending_seconds = pending_seconds[:answered] + pending_seconds[answered + 4 :]
    state = _new_tuple(
        UserState,
        (
            consent,
            flags,
            embedding_epoch,
            first_ms if first_ms < at_ms else at_ms,
            last_ms if last_ms > at_ms else at_ms,
            offset,
            partition,
            n_events + (n_events < MAX_COUNT),
            n_sessions,
            session_events,
            session_start_ms,
            session_last_ms,
            interests_ms,
            n_views,
            n_carts,
            n_purchases,
            spend,
            shards,
            item_hashes,
            bought_hashes,
            seen_hashes,
            pending_hashes,
            item_seconds,
            bought_seconds,
            bought_counts,
            pending_seconds,
            interest_categories,
            interest_weights,
            arm_alpha,
            arm_beta,
            embedding,
            event_ids,
            item_types,
        ),
    )
    return state, deltas, known


def _order_lines(event: Event) -> Sequence[str | None]:
    """Return the items of an order, each once, the event's own first; other events act on their own item."""
    if event.event_type != "purchase":
        return (event.item_id,)
    return list(dict.fromkeys((event.item_id, *(item.item_id for item in event.items))))[:MAX_ORDER_LINES]


def _previous_items(hashes: bytes, seconds: bytes, place: int, from_second: int) -> bytes:
    """Return the packed hashes of the items before index `place` since `from_second`, oldest first.

    At most `MAX_PREVIOUS_ITEMS`; an item comes as often as it was acted on.
    """
    first = place - MAX_PREVIOUS_ITEMS if place > MAX_PREVIOUS_ITEMS else 0
    if first < place and _unpack_second(seconds, 4 * first)[0] < from_second:
        times = unpack(f"<{place - first}I", seconds[4 * first : 4 * place])
        first = place - sum(time >= from_second for time in times)
    return hashes[8 * first : 8 * place]


def _add_spend(spend: float, value: float | None) -> float:
    """Return the sum as float32 holds it, so that a state and its bytes say the same."""
    if value is None:
        return spend
    total = min(max(spend + value, -_MAX_SPEND), _MAX_SPEND)
    result: float = _float32.unpack(_float32.pack(total))[0]
    return result
