"""Everything kept of one user: a frozen value, and its bytes in the state of the recommend job.

The byte table is docs/state.md. Ranking kernels read the same offsets without this class, so a field moves
only with a new version. Lists are columns of packed little-endian bytes, not tuples: to read or write a user
is then a few slices and one join, and to append is one concatenation (measured by benchmarks/user_logic.py).
"""

import struct
from typing import Final, NamedTuple

from schemas.records import CONSENTS as CONSENTS
from schemas.records import EVENT_TYPES as EVENT_TYPES
from udfs.purchases import ONCE

VERSION: Final = 2
SOURCES: Final = ("ranker", "embedding", "neighbours", "repeat", "popular")
NEW: Final = "new"
"""Source of a slot that the share of new items took; no arm of a user."""
SLOT_SOURCES: Final = (*SOURCES, NEW)
LIST_POLICY: Final = "list:"
"""Before the name of a list policy: its arm in credits and in the shared posterior; no arm of a user."""
PERSONALIZATION: Final = CONSENTS.index("personalization")

MAX_INTERACTIONS: Final = 50
MAX_BOUGHT: Final = 64
MAX_SEEN: Final = 64
MAX_PENDING: Final = 4
MAX_INTERESTS: Final = 16
MAX_ARMS: Final = 8
MAX_DIM: Final = 64
MAX_EVENT_IDS: Final = 32

FOLDED_IN: Final = 1
"""Bit 0 of `UserState.flags`: the embedding is a fold-in, not the mean of the last five items."""

HEADER: Final = struct.Struct("<10BHI3q4I3q3IfI20x")
HEADER_BYTES: Final = HEADER.size
MAX_STATE_BYTES: Final = (
    HEADER_BYTES
    + (8 + 4 + 1) * MAX_INTERACTIONS
    + (8 + 4 + 4) * MAX_BOUGHT
    + 8 * MAX_SEEN
    + (8 + 4) * MAX_PENDING
    + (4 + 4) * MAX_INTERESTS
    + (4 + 4) * MAX_ARMS
    + 2 * MAX_DIM
    + 6 * MAX_EVENT_IDS
)
"""Bytes of a user whose every list is full."""


class StateError(ValueError):
    """Bytes that are not a user's state as this release reads it."""


class UserState(NamedTuple):
    """One user, frozen. Times are milliseconds since 1970 UTC; columns are packed little-endian bytes.

    A tuple rather than a frozen dataclass: to make one costs 0.2 microseconds instead of 3.

    Attributes
    ----------
    consent
        Index in `CONSENTS`. A user without `personalization` has no state at all.
    flags
        Bit 0: `FOLDED_IN`.
    embedding_epoch
        Epoch of the model that `embedding` belongs to; 0: none.
    first_ms, last_ms
        Effective time of the oldest and the newest event.
    newest_partition, newest_offset
        Kafka position of the last event applied.
    n_events, n_views, n_carts, n_purchases
        Counts of all time; views include clicks.
    n_sessions
        Ordinal of the current session, from 1; 0: none yet.
    session_events, session_start_ms, session_last_ms
        Events, first and last time of the current session.
    interests_ms
        The time at which `interest_weights` hold; a weight `w` is worth
        `w * 2 ** ((interests_ms - t) / half_life)` at `t`.
    spend
        Sum of purchase values, float32.
    shards
        Number of shards of the deployment that wrote this.
    item_hashes, item_seconds, item_types
        u64, u32, u8: the last interactions, oldest first; types index `EVENT_TYPES`.
    bought_hashes, bought_seconds, bought_counts
        u64, u32, f32: items bought by last purchase, oldest first, and how often: see `udfs.purchases`.
    seen_hashes
        u64: items shown, the last shown at the end.
    pending_hashes, pending_seconds
        u64 of rec_id, u32: lists shown and not answered yet.
    interest_categories, interest_weights
        u32, f32.
    arm_alpha, arm_beta
        f32 an arm in the order of `SOURCES`; empty: the prior.
    embedding
        f16 (dim,): the user's vector; empty: none.
    event_ids
        6 bytes each: the ids already applied, oldest first.
    """

    consent: int
    flags: int
    embedding_epoch: int
    first_ms: int
    last_ms: int
    newest_offset: int
    newest_partition: int
    n_events: int
    n_sessions: int
    session_events: int
    session_start_ms: int
    session_last_ms: int
    interests_ms: int
    n_views: int
    n_carts: int
    n_purchases: int
    spend: float
    shards: int
    item_hashes: bytes
    bought_hashes: bytes
    seen_hashes: bytes
    pending_hashes: bytes
    item_seconds: bytes
    bought_seconds: bytes
    bought_counts: bytes
    pending_seconds: bytes
    interest_categories: bytes
    interest_weights: bytes
    arm_alpha: bytes
    arm_beta: bytes
    embedding: bytes
    event_ids: bytes
    item_types: bytes

    def encode(self) -> bytes:
        """Return the bytes of version `VERSION`, at most `MAX_STATE_BYTES`.

        Examples
        --------
        >>> UserState.decode(EMPTY.encode()) == EMPTY
        True
        >>> len(EMPTY.encode())
        120
        """
        header = HEADER.pack(
            VERSION,
            self.consent,
            len(self.item_types),
            len(self.bought_seconds) >> 2,
            len(self.seen_hashes) >> 3,
            len(self.pending_seconds) >> 2,
            len(self.interest_weights) >> 2,
            len(self.arm_alpha) >> 2,
            len(self.embedding) >> 1,
            len(self.event_ids) // 6,
            *self[1:_N_SCALARS],
        )
        return header + b"".join(self[_N_SCALARS:])  # type: ignore[arg-type]  # the rest are columns

    @staticmethod
    def decode(data: bytes) -> "UserState":
        """Read the bytes of any released version.

        Raises
        ------
        StateError
            For a version that this release does not read, or a length that disagrees with the counts.
        """
        if len(data) < HEADER_BYTES or data[0] != VERSION:
            data = as_of_today(data)
        (
            _,
            consent,
            n_interactions,
            n_bought,
            n_seen,
            n_pending,
            n_interests,
            n_arms,
            dim,
            n_event_ids,
            *scalars,
        ) = HEADER.unpack_from(data)
        bought = HEADER_BYTES + 8 * n_interactions
        seen = bought + 8 * n_bought
        pending = seen + 8 * n_seen
        item_seconds = pending + 8 * n_pending
        bought_seconds = item_seconds + 4 * n_interactions
        bought_counts = bought_seconds + 4 * n_bought
        pending_seconds = bought_counts + 4 * n_bought
        categories = pending_seconds + 4 * n_pending
        weights = categories + 4 * n_interests
        alpha = weights + 4 * n_interests
        beta = alpha + 4 * n_arms
        embedding = beta + 4 * n_arms
        event_ids = embedding + 2 * dim
        types = event_ids + 6 * n_event_ids
        if len(data) != types + n_interactions:
            raise StateError(
                f"user state: {len(data)} bytes, its counts want {types + n_interactions}; "
                "restore from an older checkpoint"
            )
        return _new(
            UserState,
            (
                consent,
                *scalars,
                data[HEADER_BYTES:bought],
                data[bought:seen],
                data[seen:pending],
                data[pending:item_seconds],
                data[item_seconds:bought_seconds],
                data[bought_seconds:bought_counts],
                data[bought_counts:pending_seconds],
                data[pending_seconds:categories],
                data[categories:weights],
                data[weights:alpha],
                data[alpha:beta],
                data[beta:embedding],
                data[embedding:event_ids],
                data[event_ids:types],
                data[types:],
            ),
        )


_N_SCALARS: Final = UserState._fields.index("item_hashes")  # in the order of the header
_new = tuple.__new__  # skips the keyword handling of UserState(...), a third of decode's time

EMPTY: Final = UserState(
    consent=PERSONALIZATION,
    flags=0,
    embedding_epoch=0,
    first_ms=0,
    last_ms=0,
    newest_offset=0,
    newest_partition=0,
    n_events=0,
    n_sessions=0,
    session_events=0,
    session_start_ms=0,
    session_last_ms=0,
    interests_ms=0,
    n_views=0,
    n_carts=0,
    n_purchases=0,
    spend=0.0,
    shards=0,
    item_hashes=b"",
    bought_hashes=b"",
    seen_hashes=b"",
    pending_hashes=b"",
    item_seconds=b"",
    bought_seconds=b"",
    bought_counts=b"",
    pending_seconds=b"",
    interest_categories=b"",
    interest_weights=b"",
    arm_alpha=b"",
    arm_beta=b"",
    embedding=b"",
    event_ids=b"",
    item_types=b"",
)
"""A user who may be profiled and of whom nothing is known yet."""


def as_of_today(data: bytes) -> bytes:
    """Return a state of any released version as bytes of `VERSION`.

    Version 1 had no counts of purchases: each item it knows counts once.

    Raises
    ------
    StateError
        As `UserState.decode`.
    """
    if len(data) < HEADER_BYTES or data[0] not in (1, VERSION):
        raise StateError(_why_unreadable(data))
    if data[0] == VERSION:
        return data
    n_interactions, n_bought, n_seen, n_pending = data[2:6]
    counts = HEADER_BYTES + (8 + 4) * (n_interactions + n_bought) + 8 * (n_seen + n_pending)
    if len(data) < counts:
        raise StateError(
            f"user state: {len(data)} bytes, its counts want more; restore from an older checkpoint"
        )
    return bytes((VERSION,)) + data[1:counts] + n_bought * ONCE + data[counts:]


def _why_unreadable(data: bytes) -> str:
    if not data:
        return f"user state: no bytes; wanted version {VERSION}"
    if data[0] not in (1, VERSION):
        return (
            f"user state: version {data[0]} found, this release reads version {VERSION} and before; "
            "run the release that wrote it, or replay under a new generation"
        )
    return f"user state: {len(data)} bytes, a header has {HEADER_BYTES}; restore from an older checkpoint"
