"""What is popular in each country: for an item the weight of the newest events there, a few countries an item.

A weight is kept as `scores.timeless` tells it, so that it never needs to be decayed, and adding two of them does not
depend on which is newer.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import log2
from struct import Struct
from typing import Final

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh32_intdigest

from udfs.similarity.scores import NOTHING

MAX_COUNTRIES: Final = 16
"""Of an item, those where it weighs most."""

MAX_NAME_BYTES: Final = 255
MAX_TRENDS_BYTES: Final = MAX_COUNTRIES * (9 + MAX_NAME_BYTES)

_ENTRY: Final = Struct("<dB")  # timeless weight, bytes of the name


@lru_cache(maxsize=1_024)
def country_code(name: str) -> int:
    r"""Give the number that stands for a country in a contribution; 0 for a text that cannot name one.

    Examples
    --------
    >>> country_code("CH") == country_code("FR"), country_code(""), country_code("a\n")
    (False, 0, 0)
    """
    if not name or not name.isprintable() or len(name.encode()) > MAX_NAME_BYTES:
        return 0
    return xxh32_intdigest(name) or 1


def trends_of(
    contributions: NDArray[np.void], names: Mapping[int, bytes], half_life_ms: float
) -> dict[int, dict[bytes, float]]:
    """Add up what contributions say of countries.

    Parameters
    ----------
    contributions
        (n,) of `contribution.CONTRIBUTION`.
    names
        Country codes to names, as `contribution.unpack_packets` gives them.

    Returns
    -------
    dict
        Item to country to timeless weight.
    """
    located = contributions[(contributions["country"] != 0) & (contributions["trend"] > 0)]
    if not len(located):
        return {}
    located = located[np.lexsort((located["country"], located["item"]))]
    items, countries = located["item"], located["country"]
    is_first = np.ones(len(located), np.bool_)
    is_first[1:] = (items[1:] != items[:-1]) | (countries[1:] != countries[:-1])
    firsts = np.flatnonzero(is_first)
    # `timeless` of many at once, and their sum as `_sum` makes it of two.
    places = np.log2(located["trend"].astype(np.float64)) + located["at_ms"] / half_life_ms
    newest = np.maximum.reduceat(places, firsts)
    over_newest = np.exp2(places - newest[np.cumsum(is_first) - 1])
    sums = newest + np.log2(np.add.reduceat(over_newest, firsts))
    found: dict[int, dict[bytes, float]] = {}
    for item, country, place in zip(
        items[firsts].tolist(), countries[firsts].tolist(), sums.tolist(), strict=True
    ):
        found.setdefault(item, {})[names[country]] = place
    return found


def add_trends(blob: bytes | None, added: Mapping[bytes, float]) -> bytes:
    """Give an item's bytes with more weight in them, at most `MAX_TRENDS_BYTES`.

    Parameters
    ----------
    blob
        From this function; None: no country is known yet.
    """
    trends = read_trends(blob)
    for name, place in added.items():
        trends[name] = _sum(trends.get(name, NOTHING), place)
    if len(trends) > MAX_COUNTRIES:
        trends = dict(sorted(trends.items(), key=lambda one: (-one[1], one[0]))[:MAX_COUNTRIES])
    return b"".join([_ENTRY.pack(place, len(name)) + name for name, place in trends.items()])


def read_trends(blob: bytes | None) -> dict[bytes, float]:
    """Give country to timeless weight.

    Examples
    --------
    >>> read_trends(add_trends(None, {b"CH": 2.0})), read_trends(None)
    ({b'CH': 2.0}, {})
    """
    trends: dict[bytes, float] = {}
    start, blob = 0, blob or b""
    while start < len(blob):
        place, length = _ENTRY.unpack_from(blob, start)
        start += _ENTRY.size
        trends[blob[start : start + length]] = place
        start += length
    return trends


def _sum(one: float, other: float) -> float:
    """Give the timeless weight of two together."""
    low, high = (one, other) if one < other else (other, one)
    return high if low == NOTHING else high + log2(1.0 + 2.0 ** (low - high))
