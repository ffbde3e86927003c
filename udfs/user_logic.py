"""What one event, credit, order or timer does to one user: pure functions from a frozen state to the next.

No clock, no I/O, no engine. The shell in flink_jobs/ runs it in micro-batches, a test calls it directly.
"""

from collections.abc import Callable, Mapping
from struct import Struct
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

from schemas.ids import event_hash, item_hash
from schemas.records import Control, Credit, Event
from udfs.bandit import credit_arm
from udfs.item_factors import ItemFactors
from udfs.recency_set import find, move_to_end, pack_u32, seconds_of
from udfs.sessions import advance
from udfs.step import Position as Position
from udfs.step import Step as Step
from udfs.step import Urgency as Urgency
from udfs.user_action import CODES, IMPRESSION, INTERACTIONS, MAX_COUNT, SEARCH, VIEW, apply_action
from udfs.user_state import (
    EMPTY,
    EVENT_TYPES,
    LIST_POLICY,
    MAX_EVENT_IDS,
    MAX_PENDING,
    MAX_SEEN,
    NEW,
    SOURCES,
    UserState,
)
from udfs.user_vector import refresh_embedding

WAKE_MARGIN_MS: Final = 8 * 86_400_000
"""Beyond `forget_after_ms`: an effective time lies at most 7 days before arrival, so no event can come that
would still have found the user."""

_URGENCY: Final = tuple(
    Urgency.SOON if code == VIEW else Urgency.NOW if code in INTERACTIONS or code == SEARCH else Urgency.NEVER
    for code in range(len(EVENT_TYPES))
)
_ARMS: Final = {name: arm for arm, name in enumerate(SOURCES)}
_ACCEPTED: Final = ("accepted",)
_pack_u64 = Struct("<Q").pack
_new_tuple = tuple.__new__  # a third of the time of Step(...)


class LogicSettings(NamedTuple):
    """What can be set.

    Attributes
    ----------
    session_gap_ms
        A session ends after this long without an event.
    forget_after_ms
        A user is forgotten after this long without an event.
    shards
        Number of shards of the deployment, written into each state.
    """

    session_gap_ms: int = 30 * 60_000
    forget_after_ms: int = 400 * 86_400_000
    shards: int = 16


class UserLogic:
    """The keyed logic of one user.

    **State** `UserState`, at most `udfs.user_state.MAX_STATE_BYTES` bytes; docs/state.md has the table.

    **Forgets** a user who may not be profiled, at once (`Urgency.ERASE`: the lists in Redis go too); a user
    without an event for `forget_after_ms`, at the next event or at a wake 8 days later, whichever is first,
    with the same result. Within a state each list drops its oldest entry beyond its cap.

    **Order** An event id among the user's last 32 is dropped. A late event enters the interactions at its
    time; it extends the current session if it lies within the gap of its start, else it enters no session
    and makes no delta. Lists of seen items and pending recommendations go by arrival. When `on_wake` runs
    changes no output.

    Parameters
    ----------
    settings
        Gaps and limits.
    models
        Epoch → item side of that model, or None where it is not there: a mapping or a function.
    """

    def __init__(
        self,
        settings: LogicSettings,
        models: Mapping[int, ItemFactors] | Callable[[int], ItemFactors | None],
    ) -> None:
        self.settings = settings
        self._gap_ms, self._forget_after_ms, self._shards = settings
        self._factors = models.get if isinstance(models, Mapping) else models

    def on_event(
        self, state: UserState | None, event: Event, at_ms: int, position: Position, epoch: int
    ) -> Step:
        """Apply one event of the user.

        Parameters
        ----------
        state
            What is known; None: nothing.
        event
            Validated (`schemas.validation.validate_event`).
        at_ms
            Its effective time.
        position
            Where it was read.
        epoch
            The model epoch in force, 0 for none.
        """
        if event.consent != "personalization":
            counts = ("essential_only",) if event.consent == "essential" else ("no_consent",)
            return Step(None, (), Urgency.NEVER if state is None else Urgency.ERASE, None, counts)
        wake_at_ms = None
        if state is None or at_ms > state.last_ms + self._forget_after_ms:
            if state is None:
                wake_at_ms = self._wake_at(at_ms)
            state = EMPTY._replace(first_ms=at_ms, last_ms=at_ms, shards=self._shards)
        event_id = event_hash(event.event_id)
        if find(state.event_ids, event_id) >= 0:
            return Step(state, (), Urgency.NEVER, None, ("duplicate",))
        event_ids = (state.event_ids + event_id)[-6 * MAX_EVENT_IDS :]
        code = CODES.get(event.event_type, 0)
        if code == 0:
            state = state._replace(event_ids=event_ids)
            return Step(state, (), Urgency.NEVER, wake_at_ms, ("unknown_type",))
        if code == IMPRESSION:
            state = self._impression(state, event, event_ids, at_ms, position)
            return Step(state, (), Urgency.NEVER, wake_at_ms, _ACCEPTED)
        before = state[8:12]  # n_sessions to session_last_ms
        session = advance(before, at_ms, self._gap_ms)
        factors = self._factors(epoch) if epoch else None
        state, deltas, known = apply_action(
            state, event, code, event_ids, at_ms, position, session, factors, self._shards
        )
        counted: tuple[str, ...] = _ACCEPTED
        if session is None:
            counted += ("late",)
        if not known:
            counted += ("unknown_item",)
        return _new_tuple(Step, (state, deltas, _URGENCY[code], wake_at_ms, counted))

    def on_credit(self, state: UserState | None, credit: Credit, position: Position) -> Step:
        """Let a source earn what one of its lists was worth. It makes no profile where none is.

        `credit_id` passes the same ring as event ids, so a credit that comes twice counts once.
        """
        if state is None:
            return Step(None, counts=("credit_without_user",))
        arm = _ARMS.get(credit.arm)
        if arm is None:
            return Step(state, counts=(_of_nobody(credit.arm),))
        credit_id = event_hash(credit.credit_id)
        if find(state.event_ids, credit_id) >= 0:
            return Step(state, counts=("duplicate",))
        alpha, beta = credit_arm(state.arm_alpha, state.arm_beta, arm, credit.reward)
        event_ids = (state.event_ids + credit_id)[-6 * MAX_EVENT_IDS :]
        return Step(state._replace(arm_alpha=alpha, arm_beta=beta, event_ids=event_ids), counts=("credited",))

    def on_control(self, state: UserState | None, control: Control, position: Position) -> Step:
        """Obey an order about this user; orders about models are the shell's and change nothing here."""
        kind = control.kind
        if kind == "erase_user":
            return Step(None, (), Urgency.ERASE, None, ("erased",))
        if kind == "set_consent" and control.consent is not None:
            if control.consent != "personalization":
                return Step(None, (), Urgency.ERASE, None, ("consent_withdrawn",))
            return Step(state, counts=("consent_given",))
        if kind == "republish":
            return Step(state, (), Urgency.NEVER if state is None else Urgency.NOW, None, ("republished",))
        if kind in ("activate_epoch", "preload_epoch"):
            return Step(state)
        return Step(state, counts=("bad_control",))

    def on_wake(self, state: UserState | None, clock_ms: int) -> Step:
        """Forget an idle user, or say when to look again.

        Parameters
        ----------
        state
            What is known.
        clock_ms
            The event-time clock: events before it have come, but for late ones.
        """
        if state is None:
            return Step(None)
        wake_at_ms = self._wake_at(state.last_ms)
        if clock_ms >= wake_at_ms:
            return Step(None, counts=("forgotten",))
        return Step(state, wake_at_ms=wake_at_ms)

    def refresh_embedding(self, state: UserState, epoch: int) -> UserState:
        """Return the state with its vector under the model of `epoch`; unchanged if that is not there."""
        factors = self._factors(epoch)
        return state if factors is None else refresh_embedding(state, factors, epoch)

    def _wake_at(self, last_ms: int) -> int:
        return last_ms + self._forget_after_ms + WAKE_MARGIN_MS

    def _impression(
        self, state: UserState, event: Event, event_ids: bytes, at_ms: int, position: Position
    ) -> UserState:
        """Note what was shown. It is nothing the user did: it neither opens nor extends a session."""
        item_ids = [item.item_id for item in event.items]
        if not item_ids and event.item_id is not None:
            item_ids = [event.item_id]
        seen = state.seen_hashes
        for item_id in item_ids[-MAX_SEEN:]:
            seen = move_to_end(seen, _pack_u64(item_hash(item_id)), MAX_SEEN)
        pending_hashes, pending_seconds = state.pending_hashes, state.pending_seconds
        if event.rec_id is not None:
            rec = _pack_u64(xxh3_64_intdigest(event.rec_id))
            if find(pending_hashes, rec) < 0:
                pending_hashes = (pending_hashes + rec)[-8 * MAX_PENDING :]
                pending_seconds = (pending_seconds + pack_u32(seconds_of(at_ms)))[-4 * MAX_PENDING :]
        return state._replace(
            first_ms=min(state.first_ms, at_ms),
            last_ms=max(state.last_ms, at_ms),
            newest_offset=position.offset,
            newest_partition=position.partition,
            n_events=min(state.n_events + 1, MAX_COUNT),
            shards=self._shards,
            seen_hashes=seen,
            pending_hashes=pending_hashes,
            pending_seconds=pending_seconds,
            event_ids=event_ids,
        )


def _of_nobody(arm: str) -> str:
    """Return how a credit is counted that changes no user: what it says counts for all of them together."""
    if arm.startswith(LIST_POLICY):
        return "credited_list"
    return "credited_new" if arm == NEW else "unknown_arm"
