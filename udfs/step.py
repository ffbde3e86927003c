"""What keyed logic answers: the next state, what it sends out, and when it wants to be called again."""

from enum import IntEnum
from typing import NamedTuple

from schemas.records import SessionDelta
from udfs.user_state import UserState


class Urgency(IntEnum):
    """When to rank the user after a step."""

    NEVER = 0
    SOON = 1
    NOW = 2
    ERASE = 3
    """Delete the user's keys in Redis."""


class Position(NamedTuple):
    """Where a record was read in Kafka."""

    partition: int
    offset: int


class Step(NamedTuple):
    """What a step made.

    Attributes
    ----------
    state
        The next state; None: the user is forgotten, or was never known.
    deltas
        What the event added to its session.
    rank
        Whether the user is to be ranked in `state`.
    wake_at_ms
        When to call `on_wake`; None: a wake is set already, or none is needed.
    counts
        Names of counters to raise by one.
    """

    state: UserState | None
    deltas: tuple[SessionDelta, ...] = ()
    rank: Urgency = Urgency.NEVER
    wake_at_ms: int | None = None
    counts: tuple[str, ...] = ()
