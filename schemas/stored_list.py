"""How a list's slots stand in Redis: a ZSET of item and score, and compact texts in the meta HASH beside it.

Exploration may put a slot above one with a better score, so the ZSET alone does not tell the order: `order`
holds, per slot, the item's place in ZREVRANGE as one character, and is empty where the two orders agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import isfinite
from typing import Final, NamedTuple

from schemas.records import ServedItem

# One letter a slot instead of a name of ten bytes.
SOURCE_LETTERS: Final = {
    "ranker": "r",
    "embedding": "e",
    "neighbours": "n",
    "repeat": "b",
    "popular": "p",
    "new": "w",
}
_SOURCE_OF_LETTER: Final = {letter: source for source, letter in SOURCE_LETTERS.items()}
FIRST_PLACE: Final = 48  # "0": places 0 to 49 are "0" to "a"
MAX_SLOTS: Final = 50

# Fields of the meta HASH in the order in which the list store's function returns them.
META_FIELDS: Final = (
    "rec_id",
    "_v",
    "_wm",
    "_t",
    "_epoch",
    "_model",
    "variant",
    "_mark",
    "propensities",
    "sources",
    "order",
)


@lru_cache(4_096)
def _number(value: float) -> str:
    """The shortest text of a propensity; few differ, because most users share the prior."""
    return repr(float(value))


class StoredSlots(NamedTuple):
    """A list's slots as stored.

    Parameters
    ----------
    scored
        Score, item, score, item, ...: arguments of ZADD; a score is the shortest text of the number.
    propensities
        Numbers with a space between, in the list's order.
    sources
        One letter a slot, in the list's order.
    order
        See the module; empty where the list is in the ZSET's order.
    """

    scored: list[str]
    propensities: str
    sources: str
    order: str


def store_slots(items: Sequence[ServedItem]) -> StoredSlots:
    """Slots to what stands in Redis.

    Raises
    ------
    ValueError
        For a number that is not finite, an unknown source, a repeated item or more than `MAX_SLOTS`.

    Examples
    --------
    >>> store_slots([ServedItem("a", 0.5, "popular", 0.1), ServedItem("b", 0.75, "ranker", 0.9)])
    StoredSlots(scored=['0.5', 'a', '0.75', 'b'], propensities='0.1 0.9', sources='pr', order='10')
    """
    if not items:
        return StoredSlots([], "", "", "")
    ids, scores, sources, propensities = zip(*items, strict=True)
    if not isfinite(sum(scores)) or not isfinite(sum(propensities)):
        raise ValueError(f"slots: wanted finite scores and propensities, got {scores} and {propensities}")
    if len(ids) > MAX_SLOTS or len(set(ids)) != len(ids):
        raise ValueError(f"slots: wanted at most {MAX_SLOTS} different items, got {ids}")
    try:
        letters = "".join([SOURCE_LETTERS[source] for source in sources])
    except KeyError as error:
        raise ValueError(f"slots: wanted a source of {', '.join(SOURCE_LETTERS)}, got {error}") from error
    scored = [text for pair in zip(map(repr, map(float, scores)), ids, strict=True) for text in pair]
    order = ""
    previous = scores[0]
    for score in scores[1:]:
        if score >= previous:
            order = _order(ids, scores)
            break
        previous = score
    return StoredSlots(scored, " ".join(map(_number, propensities)), letters, order)


def _order(ids: Sequence[str], scores: Sequence[float]) -> str:
    # ZREVRANGE breaks ties by the bytes of the member, the greater first.
    ranked = sorted(range(len(ids)), key=lambda slot: (scores[slot], ids[slot].encode()), reverse=True)
    places = [""] * len(ids)
    for place, slot in enumerate(ranked):
        places[slot] = chr(FIRST_PLACE + place)
    return "".join(places) if ranked != list(range(len(ids))) else ""


def load_slots(
    scored: Sequence[tuple[str, float]], propensities: str, sources: str, order: str
) -> tuple[ServedItem, ...]:
    """Slots from what stands in Redis.

    Parameters
    ----------
    scored
        Item and score as ZREVRANGE gives them.

    Raises
    ------
    ValueError
        If the parts do not belong together: they were read while a writer of another kind changed them.
    """
    chances = propensities.split()
    if not len(scored) == len(chances) == len(sources) or (order and len(order) != len(scored)):
        raise ValueError(
            f"slots: {len(scored)} items, {len(chances)} propensities, sources {sources!r}, order {order!r}"
        )
    ranked = [scored[ord(place) - FIRST_PLACE] for place in order] if order else scored
    return tuple(
        ServedItem(item_id, score, _SOURCE_OF_LETTER[letter], float(chance))
        for (item_id, score), letter, chance in zip(ranked, sources, chances, strict=True)
    )
