"""Moments at which users are ranked for training: the state as it stood, and what the user did next.

The whole log runs through `udfs.user_logic.UserLogic` in time order, as the stream runs it, with the same
settings; a moment holds the state object itself (it is frozen), so its bytes are those a job would have held.
Two kinds: at the opening of a session, before its first event, when a returning user is shown a page; and
within one, after one of its events, when the stream ranks again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from model_export.interactions import IMPLICIT_WEIGHTS, session_numbers
from model_export.session_replay import ClickRecorder, SessionClicks
from model_export.sources.event_log import EventLog
from schemas.ids import item_hash, user_key
from schemas.validation import effective_time
from udfs.item_factors import ItemFactors
from udfs.user_logic import LogicSettings, Position, UserLogic
from udfs.user_state import UserState

REPLAY_EPOCH = 1
TELL_EVERY = 20_000
# What the strongest thing done with an item later in the session is worth to the ranker.
GRADES: Mapping[str, int] = {"view": 1, "click": 1, "add_to_cart": 2, "purchase": 3}
Kind = Literal["opening", "within"]


class Moment(NamedTuple):
    """A state to rank and what came after it.

    Attributes
    ----------
    key, tenant, user_id
        The user.
    at_ms
        Now: for an opening the time of the session's first event, within one that of the last event applied.
    state
        As the stream held it. Its vector is not refreshed: that takes the factors of an epoch. None for a
        user who was forgotten.
    taken
        Item to grade (`GRADES`), of what the rest of the session did; never empty.
    kind
        See the module.
    """

    key: str
    tenant: str
    user_id: str
    at_ms: int
    state: UserState | None
    taken: Mapping[str, int]
    kind: Kind


@dataclass(frozen=True)
class MomentSettings:
    """Which moments are taken from a stretch of time."""

    sessions: int = 5_000  # at most; drawn at random
    sessions_a_user: int = 6  # so that a wholesaler does not write the ranker
    within: bool = True  # also one moment within each session drawn
    first_only: bool = False  # of each user only the first session, drawn or not: for measuring
    forgotten: bool = False  # also users whose state had been forgotten


class _Plan(NamedTuple):
    """A moment to take: at which row (before or after it), and what will have been done."""

    before: bool
    taken: dict[str, int]
    kind: Kind
    stretch: int
    forgotten: bool


def collect_moments(
    log: EventLog,
    stretches: list[tuple[int, int]],
    settings: list[MomentSettings],
    items: ItemFactors | None,
    logic: LogicSettings,
    rng: np.random.Generator,
    tell: Callable[[int], None] | None = None,
) -> tuple[list[list[Moment]], SessionClicks]:
    """Replay a log once and take moments of the sessions that begin in each stretch of time.

    Parameters
    ----------
    log
        Events in time order.
    stretches
        [start, end) in milliseconds.
    settings
        For each stretch.
    items
        What tells the categories of items while the log runs, as the model in force does in the stream.
    logic
        The job's own settings of the keyed logic.
    rng
        Draws sessions, and the events within them.
    tell
        Called now and then with the number of events that ran.

    Returns
    -------
    moments
        For each stretch, in time order. Users without a state at that moment (their first visit) are left out:
        the stream has nothing to rank for them.
    clicks
        What everybody's sessions got, up to the last moment.
    """
    users, sessions = _sessions(log)
    plans: dict[int, list[_Plan]] = {}
    for number, ((start_ms, end_ms), chosen) in enumerate(zip(stretches, settings, strict=True)):
        _plan(log, users, sessions, start_ms, end_ms, chosen, number, rng, plans)
    found: list[list[Moment]] = [[] for _ in stretches]
    return found, _replay(log, users, plans, items, logic, tell, found)


def _replay(
    log: EventLog,
    users: npt.NDArray[np.int32],
    plans: dict[int, list[_Plan]],
    items: ItemFactors | None,
    settings: LogicSettings,
    tell: Callable[[int], None] | None,
    found: list[list[Moment]],
) -> SessionClicks:
    keyed = UserLogic(settings, {} if items is None else {REPLAY_EPOCH: items})
    states: dict[int, UserState | None] = {}
    recorder = ClickRecorder()
    last = max(plans, default=-1)
    for row, (event, user) in enumerate(zip(log, users.tolist(), strict=True)):
        if row > last:
            break
        if tell is not None and row % TELL_EVERY == 0:
            tell(row)
        at_ms, _ = effective_time(event)
        state = states.get(user)
        here = plans.get(row, ())
        for plan in here:
            if plan.before and state is not None:
                forgotten = at_ms > state.last_ms + settings.forget_after_ms
                if not forgotten or plan.forgotten:
                    held = None if forgotten else state
                    found[plan.stretch].append(_moment(event.tenant, event.user_id, at_ms, held, plan))
        state, deltas, *_ = keyed.on_event(state, event, at_ms, Position(0, row), REPLAY_EPOCH)
        states[user] = state
        for delta in deltas:
            recorder.add(delta)
        for plan in here:
            if not plan.before and state is not None:
                found[plan.stretch].append(_moment(event.tenant, event.user_id, at_ms, state, plan))
    return recorder.clicks()


def _moment(tenant: str, user_id: str, at_ms: int, state: UserState | None, plan: _Plan) -> Moment:
    return Moment(user_key(tenant, user_id), tenant, user_id, at_ms, state, plan.taken, plan.kind)


def _sessions(log: EventLog) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return user codes and session numbers, both int32 (n,)."""
    codes: dict[tuple[str, str], int] = {}
    keys = zip(log.columns["tenant"], log.columns["user_id"], strict=True)
    users = np.fromiter((codes.setdefault(key, len(codes)) for key in keys), np.int32, len(log))
    return users, session_numbers(users, log.times_ms, log.columns["session_id"])


def _plan(
    log: EventLog,
    users: npt.NDArray[np.int32],
    sessions: npt.NDArray[np.int32],
    start_ms: int,
    end_ms: int,
    settings: MomentSettings,
    stretch: int,
    rng: np.random.Generator,
    plans: dict[int, list[_Plan]],
) -> None:
    """Draw sessions that begin in [start, end) and note the rows at which to take their moments."""
    order = np.argsort(sessions, kind="stable")  # by session, within it by time
    edges = np.flatnonzero(np.diff(sessions[order], prepend=-1))
    first = order[edges]
    ends = np.append(edges[1:], len(order))
    eligible = np.flatnonzero((log.times_ms[first] >= start_ms) & (log.times_ms[first] < end_ms))
    if settings.first_only:
        by_time = eligible[np.argsort(first[eligible], kind="stable")]
        _, earliest = np.unique(users[first[by_time]], return_index=True)
        eligible = np.sort(by_time[earliest])
    drawn = _draw(users[first[eligible]], settings, rng)
    kinds, names = log.columns["event_type"], log.columns["item_id"]
    for session in eligible[drawn].tolist():
        rows = [
            row for row in order[edges[session] : ends[session]].tolist() if kinds[row] in IMPLICIT_WEIGHTS
        ]
        rows = [row for row in rows if names[row] is not None]
        cut = int(rng.integers(1, len(rows))) if len(rows) > 1 else 0
        taken = _taken(rows, kinds, names)
        if taken:
            plans.setdefault(rows[0], []).append(_Plan(True, taken, "opening", stretch, settings.forgotten))
        later = _taken(rows[cut:], kinds, names)
        if settings.within and cut and later:
            plans.setdefault(rows[cut - 1], []).append(_Plan(False, later, "within", stretch, False))


def _draw(
    users: npt.NDArray[np.int32], settings: MomentSettings, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return sorted positions of at most `sessions`, of one user at most `sessions_a_user`."""
    shuffled = rng.permutation(len(users))
    by_user = shuffled[np.argsort(users[shuffled], kind="stable")]
    starts = np.flatnonzero(np.diff(users[by_user], prepend=-1))
    place = np.arange(len(users)) - np.repeat(starts, np.diff(np.append(starts, len(users))))
    allowed = np.zeros(len(users), np.bool_)
    allowed[by_user[place < settings.sessions_a_user]] = True
    return np.sort(shuffled[allowed[shuffled]][: settings.sessions])


def _taken(rows: list[int], kinds: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    taken: dict[str, int] = {}
    for row in rows:
        taken[names[row]] = max(taken.get(names[row], 0), GRADES[kinds[row]])
    return taken


def taken_hashes(moment: Moment) -> dict[int, int]:
    """Return item hash to grade of what the rest of the session did."""
    return {item_hash(name): grade for name, grade in moment.taken.items()}
