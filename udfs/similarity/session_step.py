"""What a record of recs.sessions.v1 contributes to items: from basket and record to packed contributions."""

from __future__ import annotations

from struct import iter_unpack
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

from schemas.ids import item_hash
from schemas.records import DEFAULT_TENANT, EVENT_TYPES, SessionDelta
from udfs.item_factors import INTERACTION_WEIGHTS
from udfs.similarity.basket import Basket, add
from udfs.similarity.contribution import pack_contribution
from udfs.similarity.country_trends import country_code

_WEIGHTS: Final = dict(zip(EVENT_TYPES, map(float, INTERACTION_WEIGHTS), strict=True))
_new_tuple = tuple.__new__


class SessionStep(NamedTuple):
    """What one record does.

    Attributes
    ----------
    basket
        The user's session with the record in it.
    item
        `item_key` of the record's item.
    contributions
        Item it counts for and the packed contribution, the record's own item first.
    country
        `country_code` of the record's country.
    """

    basket: Basket | None
    item: int
    contributions: tuple[tuple[int, bytes], ...]
    country: int = 0


def item_key(tenant: str, item_id: str) -> int:
    """Give the hash by which the similarity job's state names an item: two tenants' items are two.

    Examples
    --------
    >>> item_key("default", "i1") == item_hash("i1"), item_key("acme", "i1") == item_hash("i1")
    (True, False)
    """
    hash_value = item_hash(item_id)
    if tenant == DEFAULT_TENANT:
        return hash_value
    return (hash_value ^ xxh3_64_intdigest(tenant)) or 1


def step(basket: Basket | None, delta: SessionDelta, max_session_events: int) -> SessionStep:
    """Apply one record; one that came before, or is beyond the limit, contributes nothing.

    Parameters
    ----------
    basket
        The user's last session; None: none is known.
    max_session_events
        Later events of a session count for nothing: nobody shops so, and a crawler would outweigh a shop.

    Returns
    -------
    SessionStep
        At most 1 + 2 * `basket.MAX_PARTNERS` contributions of each kind; an item's own always, unless cut.
    """
    item = item_key(delta.tenant, delta.item_id)
    place = (delta.partition, delta.offset, delta.n)
    came_before = basket is not None and basket.place[0] == delta.partition and basket.place >= place
    if came_before or delta.position >= max_session_events:
        return _new_tuple(SessionStep, (basket, item, (), 0))
    added = add(
        basket,
        delta.session_ordinal,
        delta.session_start,
        delta.event_time,
        item,
        delta.event_type == "purchase",
        place,
    )
    at_ms = added.basket.at_ms
    trend, country = _WEIGHTS[delta.event_type], country_code(delta.country)
    own = pack_contribution(item, 0, at_ms, float(added.first), float(added.first_bought), trend, country)
    made = [(item, own)]
    for (other,) in iter_unpack("<Q", added.viewed):
        made.append((item, pack_contribution(item, other, at_ms, 1.0, 0.0, 0.0, 0)))
        made.append((other, pack_contribution(other, item, at_ms, 1.0, 0.0, 0.0, 0)))
    for (other,) in iter_unpack("<Q", added.bought):
        made.append((item, pack_contribution(item, other, at_ms, 0.0, 1.0, 0.0, 0)))
        made.append((other, pack_contribution(other, item, at_ms, 0.0, 1.0, 0.0, 0)))
    return _new_tuple(SessionStep, (added.basket, item, tuple(made), country))
