"""What the session ranker has learnt, as bytes that travel: the weights, and vectors of a block of items.

All that is read is checked: magic, format, sizes, the feature list, and that every number is finite.
"""

from struct import Struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.online.ranker_weights import RankerWeights, WeightsError
from udfs.online.session_ranker import RANKER_FEATURES

RANKER_PART = "ranker"
_RANKER, _ITEMS = b"TRRK", b"TRIT"
_FORMAT = 1
_RANKER_HEADER = Struct("<4sBxH")
"""Magic, format, K."""
_ITEMS_HEADER = Struct("<4sBxHI")
"""Magic, format, d, n."""
_MOST_PLACES, _MOST_DIMENSIONS, _MOST_ITEMS = 64, 1_024, 4_096


class PublishedItems(NamedTuple):
    """Vectors and lifts of n items."""

    hashes: NDArray[np.uint64]  # (n,) `schemas.ids.item_hash`
    vectors: NDArray[np.float32]  # (n, d), rounded to float16
    lifts: NDArray[np.float32]  # (n, 2) `udfs.online.item_lift.LIFT_FEATURES`, rounded to float16


def items_part(block: int) -> str:
    """Return the name of a block's part."""
    return f"items/{block}"


def encode_ranker(weights: RankerWeights, place_weights: NDArray[np.float32]) -> bytes:
    """Return weights, and what the places of a session weigh: float32 (K, K)."""
    head = _RANKER_HEADER.pack(_RANKER, _FORMAT, len(place_weights))
    return head + place_weights.astype("<f4").tobytes() + weights.encode()


def decode_ranker(data: bytes) -> tuple[RankerWeights, NDArray[np.float32]]:
    """Read what `encode_ranker` wrote.

    Raises
    ------
    WeightsError
        If it is something else, belongs to another feature list, is cut or not finite.
    """
    _, places = _head(_RANKER_HEADER, _RANKER, data)
    end = _RANKER_HEADER.size + 4 * places * places
    if not 1 <= places <= _MOST_PLACES or len(data) < end:
        raise WeightsError(f"ranker: wanted 1 to {_MOST_PLACES} places and {end} bytes, got {len(data)}")
    weights = np.frombuffer(data, "<f4", places * places, _RANKER_HEADER.size).astype(np.float32)
    if not (np.isfinite(weights).all() and (weights > 0.0).all()):
        raise WeightsError("ranker: wanted positive finite weights of places")
    return RankerWeights.decode(data[end:], RANKER_FEATURES), weights.reshape(places, places)


def encode_items(
    hashes: NDArray[np.uint64], vectors: NDArray[np.float32], lifts: NDArray[np.float32]
) -> bytes:
    """Return the bytes of `PublishedItems`: hashes, then vectors and lifts as float16."""
    head = _ITEMS_HEADER.pack(_ITEMS, _FORMAT, vectors.shape[1], len(hashes))
    numbers = vectors.astype("<f2").tobytes() + lifts.astype("<f2").tobytes()
    return head + hashes.astype("<u8").tobytes() + numbers


def decode_items(data: bytes) -> PublishedItems:
    """Read what `encode_items` wrote.

    Raises
    ------
    WeightsError
        If it is something else, is cut or not finite.
    """
    _, dimensions, count = _head(_ITEMS_HEADER, _ITEMS, data)
    at = _ITEMS_HEADER.size
    wanted = at + count * (8 + 2 * dimensions + 2 * 2)
    if dimensions > _MOST_DIMENSIONS or count > _MOST_ITEMS or len(data) != wanted:
        raise WeightsError(f"items: wanted {wanted} bytes of at most {_MOST_ITEMS} items, got {len(data)}")
    hashes = np.frombuffer(data, "<u8", count, at).astype(np.uint64)
    at += 8 * count
    vectors = np.frombuffer(data, "<f2", count * dimensions, at).astype(np.float32)
    lifts = np.frombuffer(data, "<f2", count * 2, at + 2 * count * dimensions).astype(np.float32)
    if not (np.isfinite(vectors).all() and np.isfinite(lifts).all()):
        raise WeightsError("items: a number is not finite")
    return PublishedItems(hashes, vectors.reshape(count, dimensions), lifts.reshape(count, 2))


def _head(header: Struct, magic: bytes, data: bytes) -> tuple[int, ...]:
    if len(data) < header.size:
        raise WeightsError(f"wanted at least {header.size} bytes, got {len(data)}")
    found, form, *sizes = header.unpack_from(data)
    if (found, form) != (magic, _FORMAT):
        raise WeightsError(f"wanted {magic!r} format {_FORMAT}, got {found!r} format {form}")
    return form, *sizes
