"""What ranking gets of a user: one immutable snapshot, decoded for a whole batch into fixed arrays."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.user_state import (
    HEADER_BYTES,
    MAX_ARMS,
    MAX_BOUGHT,
    MAX_DIM,
    MAX_INTERACTIONS,
    MAX_INTERESTS,
    MAX_SEEN,
    VERSION,
    StateError,
    as_of_today,
)


class Snapshot(NamedTuple):
    """One user to rank.

    `key` is the Kafka key (`schemas.ids.user_key`), `version` the fixed-width ``_v`` of the newest record
    applied, `at_ms` the effective time at which to rank, `epoch` the model epoch that the user logic named,
    `state` the bytes of `udfs.user_state.UserState`; empty for a user of whom nothing is known.
    """

    key: str
    tenant: str
    user_id: str
    version: str
    at_ms: int
    epoch: int
    state: bytes


class StateColumns(NamedTuple):
    """The states of U users, one row each; lists are padded with zeros behind their counts.

    Names are those of `UserState`; hashes uint64, times int64 ms, seconds uint32, embedding float32.
    """

    at_ms: NDArray[np.int64]
    embedding_epoch: NDArray[np.int64]
    first_ms: NDArray[np.int64]
    last_ms: NDArray[np.int64]
    session_start_ms: NDArray[np.int64]
    interests_ms: NDArray[np.int64]
    n_events: NDArray[np.int64]
    n_sessions: NDArray[np.int64]
    session_events: NDArray[np.int64]
    n_views: NDArray[np.int64]
    n_carts: NDArray[np.int64]
    n_purchases: NDArray[np.int64]
    spend: NDArray[np.float32]
    n_interactions: NDArray[np.int32]
    n_bought: NDArray[np.int32]
    n_seen: NDArray[np.int32]
    n_interests: NDArray[np.int32]
    n_arms: NDArray[np.int32]
    dim: NDArray[np.int32]
    item_hashes: NDArray[np.uint64]  # (U, 50), oldest first
    item_seconds: NDArray[np.uint32]
    item_types: NDArray[np.uint8]
    bought_hashes: NDArray[np.uint64]  # (U, 64), oldest purchase first
    bought_seconds: NDArray[np.uint32]
    bought_counts: NDArray[np.float32]
    seen_hashes: NDArray[np.uint64]  # (U, 64), shown last at the end
    interest_categories: NDArray[np.uint32]  # (U, 16)
    interest_weights: NDArray[np.float32]
    arm_alpha: NDArray[np.float32]  # (U, 8)
    arm_beta: NDArray[np.float32]
    embedding: NDArray[np.float32]  # (U, 64)


_COUNTS = ("n_interactions", "n_bought", "n_seen", "n_interests", "n_arms", "dim")


def decode_states(snapshots: Sequence[Snapshot]) -> StateColumns:
    """Decode a batch of snapshots, equal to `UserState.decode` of each.

    Parameters
    ----------
    snapshots
        U of them; an empty state gives a row of zeros.

    Raises
    ------
    StateError
        For bytes that `UserState.decode` would not read, with the user's key.
    """
    blobs = [snapshot.state for snapshot in snapshots]
    for user, blob in enumerate(blobs):
        if blob and blob[0] != VERSION:  # kept by an older release
            blobs[user] = _of_today(snapshots[user])
    users = len(blobs)
    offsets = np.zeros(users + 1, np.int64)
    np.cumsum(np.fromiter(map(len, blobs), np.int64, users), out=offsets[1:])
    columns = _empty(users)
    columns.at_ms[:] = [snapshot.at_ms for snapshot in snapshots]
    unreadable = _decode(np.frombuffer(b"".join(blobs), np.uint8), offsets, columns)
    if unreadable >= 0:
        snapshot = snapshots[unreadable]
        raise StateError(
            f"snapshot of {snapshot.key}: {len(snapshot.state)} bytes are not a state of version {VERSION}"
        )
    return columns


def _of_today(snapshot: Snapshot) -> bytes:
    try:
        return as_of_today(snapshot.state)
    except StateError as error:
        raise StateError(f"snapshot of {snapshot.key}: {error}") from error


def _empty(users: int) -> StateColumns:
    lists: dict[str, tuple[int, Any]] = {
        "item_hashes": (MAX_INTERACTIONS, np.uint64),
        "item_seconds": (MAX_INTERACTIONS, np.uint32),
        "item_types": (MAX_INTERACTIONS, np.uint8),
        "bought_hashes": (MAX_BOUGHT, np.uint64),
        "bought_seconds": (MAX_BOUGHT, np.uint32),
        "bought_counts": (MAX_BOUGHT, np.float32),
        "seen_hashes": (MAX_SEEN, np.uint64),
        "interest_categories": (MAX_INTERESTS, np.uint32),
        "interest_weights": (MAX_INTERESTS, np.float32),
        "arm_alpha": (MAX_ARMS, np.float32),
        "arm_beta": (MAX_ARMS, np.float32),
        "embedding": (MAX_DIM, np.float32),
    }
    numbers: dict[str, Any] = dict.fromkeys(_COUNTS, np.int32) | {"spend": np.float32}
    columns: dict[str, Any] = {
        name: np.zeros(users, numbers.get(name, np.int64))
        for name in StateColumns._fields
        if name not in lists
    }
    columns |= {name: np.zeros((users, length), dtype) for name, (length, dtype) in lists.items()}
    return StateColumns(**columns)


@kernel
def _u32(data: NDArray[np.uint8], at: int) -> np.uint32:
    return np.uint32(
        np.uint32(data[at])
        | (np.uint32(data[at + 1]) << np.uint32(8))
        | (np.uint32(data[at + 2]) << np.uint32(16))
        | (np.uint32(data[at + 3]) << np.uint32(24))
    )


@kernel
def _u64(data: NDArray[np.uint8], at: int) -> np.uint64:
    return np.uint64(_u32(data, at)) | (np.uint64(_u32(data, at + 4)) << np.uint64(32))


@kernel
def _half_bits(data: NDArray[np.uint8], at: int) -> np.uint32:
    """Return the bits of the float32 that equals the float16 at `at`."""
    half = np.uint32(data[at]) | (np.uint32(data[at + 1]) << np.uint32(8))
    sign = (half & np.uint32(0x8000)) << np.uint32(16)
    exponent = (half >> np.uint32(10)) & np.uint32(0x1F)
    fraction = half & np.uint32(0x3FF)
    if exponent == 0x1F:
        return np.uint32(sign | np.uint32(0x7F800000) | (fraction << np.uint32(13)))
    if exponent == 0:
        if fraction == 0:
            return np.uint32(sign)
        exponent = np.uint32(1)
        while fraction & np.uint32(0x400) == 0:  # a subnormal half is a normal float32
            fraction <<= np.uint32(1)
            exponent -= np.uint32(1)
        fraction &= np.uint32(0x3FF)
    return np.uint32(sign | ((exponent + np.uint32(112)) << np.uint32(23)) | (fraction << np.uint32(13)))


@kernel
def _decode(data: NDArray[np.uint8], offsets: NDArray[np.int64], columns: StateColumns) -> int:
    """Fill the columns; return the index of the first unreadable state, or -1.

    The byte table is that of `udfs.user_state.HEADER`.
    """
    counts = columns.bought_counts.view(np.uint32)
    weights = columns.interest_weights.view(np.uint32)
    alpha = columns.arm_alpha.view(np.uint32)
    beta = columns.arm_beta.view(np.uint32)
    embedding = columns.embedding.view(np.uint32)
    spend = columns.spend.view(np.uint32)
    for user in range(len(offsets) - 1):
        start, stop = offsets[user], offsets[user + 1]
        if start == stop:
            continue
        if stop - start < HEADER_BYTES or data[start] != VERSION:
            return user
        items, bought, seen, pending = (
            np.int64(data[start + 2]),
            np.int64(data[start + 3]),
            np.int64(data[start + 4]),
            np.int64(data[start + 5]),
        )
        interests, arms, dim, ids = (
            np.int64(data[start + 6]),
            np.int64(data[start + 7]),
            np.int64(data[start + 8]),
            np.int64(data[start + 9]),
        )
        if items > MAX_INTERACTIONS or bought > MAX_BOUGHT or seen > MAX_SEEN or interests > MAX_INTERESTS:
            return user
        size = (
            13 * items + 16 * bought + 8 * seen + 12 * pending + 8 * interests + 8 * arms + 2 * dim + 6 * ids
        )
        if arms > MAX_ARMS or dim > MAX_DIM or stop - start != HEADER_BYTES + size:
            return user
        columns.n_interactions[user] = items
        columns.n_bought[user] = bought
        columns.n_seen[user] = seen
        columns.n_interests[user] = interests
        columns.n_arms[user] = arms
        columns.dim[user] = dim
        columns.embedding_epoch[user] = _u32(data, start + 12)
        columns.first_ms[user] = np.int64(_u64(data, start + 16))
        columns.last_ms[user] = np.int64(_u64(data, start + 24))
        columns.n_events[user] = _u32(data, start + 44)
        columns.n_sessions[user] = _u32(data, start + 48)
        columns.session_events[user] = _u32(data, start + 52)
        columns.session_start_ms[user] = np.int64(_u64(data, start + 56))
        columns.interests_ms[user] = np.int64(_u64(data, start + 72))
        columns.n_views[user] = _u32(data, start + 80)
        columns.n_carts[user] = _u32(data, start + 84)
        columns.n_purchases[user] = _u32(data, start + 88)
        spend[user] = _u32(data, start + 92)
        at = start + HEADER_BYTES
        for k in range(items):
            columns.item_hashes[user, k] = _u64(data, at + 8 * k)
        at += 8 * items
        for k in range(bought):
            columns.bought_hashes[user, k] = _u64(data, at + 8 * k)
        at += 8 * bought
        for k in range(seen):
            columns.seen_hashes[user, k] = _u64(data, at + 8 * k)
        at += 8 * seen + 8 * pending
        for k in range(items):
            columns.item_seconds[user, k] = _u32(data, at + 4 * k)
        at += 4 * items
        for k in range(bought):
            columns.bought_seconds[user, k] = _u32(data, at + 4 * k)
        at += 4 * bought
        for k in range(bought):
            counts[user, k] = _u32(data, at + 4 * k)
        at += 4 * bought + 4 * pending
        for k in range(interests):
            columns.interest_categories[user, k] = _u32(data, at + 4 * k)
        at += 4 * interests
        for k in range(interests):
            weights[user, k] = _u32(data, at + 4 * k)
        at += 4 * interests
        for k in range(arms):
            alpha[user, k] = _u32(data, at + 4 * k)
            beta[user, k] = _u32(data, at + 4 * (arms + k))
        at += 8 * arms
        for k in range(dim):
            embedding[user, k] = _half_bits(data, at + 2 * k)
        at += 2 * dim + 6 * ids
        for k in range(items):
            columns.item_types[user, k] = data[at + k]
    return -1
