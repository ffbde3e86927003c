"""Sessions by inactivity, decided when the next event comes: no timer closes one, so none can be late."""

from typing import NamedTuple

_new_tuple = tuple.__new__  # a third of the time of Session(...)


class Session(NamedTuple):
    """The user's current session.

    Attributes
    ----------
    ordinal
        From 1, counted up; 0: no session yet.
    events
        Events in it so far.
    start_ms, last_ms
        Effective times of its first and last event.
    """

    ordinal: int
    events: int
    start_ms: int
    last_ms: int


def advance(session: tuple[int, int, int, int], at_ms: int, gap_ms: int) -> Session | None:
    """Return the session that an event falls into, with the event in it; None for a session already over.

    A session ends when `gap_ms` pass without an event. An event older than the current session extends it
    backwards if it lies within the gap of its start.

    Parameters
    ----------
    session
        A `Session` or its four fields.
    at_ms
        Effective time of the event.
    gap_ms
        See above.

    Examples
    --------
    >>> first = advance(Session(0, 0, 0, 0), 100_000, gap_ms=1_000)
    >>> first
    Session(ordinal=1, events=1, start_ms=100000, last_ms=100000)
    >>> advance(first, 101_000, gap_ms=1_000).ordinal
    2
    >>> advance(first, 99_500, gap_ms=1_000)
    Session(ordinal=1, events=2, start_ms=99500, last_ms=100000)
    >>> advance(first, 99_000, gap_ms=1_000) is None
    True
    """
    ordinal, events, start_ms, last_ms = session
    if not ordinal or at_ms >= last_ms + gap_ms:
        return Session(ordinal + 1, 1, at_ms, at_ms)
    if at_ms >= last_ms:
        return _new_tuple(Session, (ordinal, events + 1, start_ms, at_ms))
    if at_ms <= start_ms - gap_ms:
        return None
    return Session(ordinal, events + 1, min(start_ms, at_ms), last_ms)
