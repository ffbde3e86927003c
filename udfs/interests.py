"""How much a user cares for each category: weights that halve in a week.

Forward decay: weights are kept as of one past moment, so an event changes one weight instead of all, and a
late event counts what it would have counted in time.

Source: Cormode, Shkapenyuk, Srivastava, Xu, "Forward Decay", ICDE 2009.
"""

from struct import Struct, pack, unpack
from typing import Final, NamedTuple

from udfs.recency_set import find
from udfs.user_state import MAX_INTERESTS

HALF_LIFE_MS: Final = 7 * 86_400_000
_REBASE_AFTER_MS: Final = 4 * HALF_LIFE_MS
_pack_u32 = Struct("<I").pack
_pack_f32 = Struct("<f").pack
_unpack_f32 = Struct("<f").unpack_from


class Interests(NamedTuple):
    """Weights by category.

    Attributes
    ----------
    categories
        u32 hashes.
    weights
        f32, as of `at_ms`.
    at_ms
        At a time `t` each weight is worth ``w * 2 ** ((at_ms - t) / HALF_LIFE_MS)``.
    """

    categories: bytes
    weights: bytes
    at_ms: int


def add_interest(
    categories: bytes, weights: bytes, base_ms: int, category: int, weight: float, at_ms: int
) -> tuple[bytes, bytes, int]:
    """Return the fields of the `Interests` after `weight` was added to a category at `at_ms`.

    Of more than 16 categories the one of least weight is dropped, of equal ones the smaller hash.

    Parameters
    ----------
    categories, weights, base_ms
        The fields of an `Interests`, apart because this runs for every event.
    category
        u32 hash.
    weight
        Of the event.
    at_ms
        When it happened.

    Examples
    --------
    >>> one = add_interest(b"", b"", 0, 7, 1.0, at_ms=1_000)
    >>> two = add_interest(*one, 7, 1.0, at_ms=1_000 + HALF_LIFE_MS)
    >>> weights_at(Interests(*two), 1_000 + HALF_LIFE_MS)
    {7: 1.5}
    """
    name = _pack_u32(category)
    if not categories:
        return name, _pack_f32(weight), at_ms
    if at_ms - base_ms > _REBASE_AFTER_MS:
        categories, weights, base_ms = _rebase(Interests(categories, weights, base_ms), at_ms)
    added = weight * 2.0 ** ((at_ms - base_ms) / HALF_LIFE_MS)
    at = find(categories, name)
    if at >= 0:
        total = _pack_f32(_unpack_f32(weights, at)[0] + added)
        return categories, weights[:at] + total + weights[at + 4 :], base_ms
    categories += name
    weights += _pack_f32(added)
    if len(categories) > 4 * MAX_INTERESTS:
        drop = 4 * _least(categories, weights)
        categories = categories[:drop] + categories[drop + 4 :]
        weights = weights[:drop] + weights[drop + 4 :]
    return categories, weights, base_ms


def _least(categories: bytes, weights: bytes) -> int:
    """Return the index of the least weight, of equal ones that of the smaller category hash."""
    values = unpack(f"<{len(weights) >> 2}f", weights)
    least = min(values)
    if values.count(least) == 1:
        return values.index(least)
    names = unpack(f"<{len(weights) >> 2}I", categories)
    return min((value, name, place) for place, (value, name) in enumerate(zip(values, names, strict=True)))[2]


def weights_at(interests: Interests, at_ms: int) -> dict[int, float]:
    """Return category → weight as of `at_ms`."""
    count = len(interests.categories) >> 2
    decay = 2.0 ** ((interests.at_ms - at_ms) / HALF_LIFE_MS)
    names = unpack(f"<{count}I", interests.categories)
    return {
        name: weight * decay
        for name, weight in zip(names, unpack(f"<{count}f", interests.weights), strict=True)
    }


def _rebase(interests: Interests, at_ms: int) -> Interests:
    """Restate the weights as of `at_ms`, without those that vanish."""
    kept = {name: weight for name, weight in weights_at(interests, at_ms).items() if weight > 1e-9}
    return Interests(pack(f"<{len(kept)}I", *kept), pack(f"<{len(kept)}f", *kept.values()), at_ms)
