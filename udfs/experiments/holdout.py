"""A user as somebody who has done nothing since: what a variant is ranked with that is not to learn any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from schemas.records import Event
from udfs.ranking.item_index import ItemIndex
from udfs.ranking.snapshot import Snapshot
from udfs.user_logic import LogicSettings, Position, UserLogic
from udfs.user_state import EVENT_TYPES, UserState

UNTIL: Final = "history_until_s"
"""Name of the setting: seconds since 1970."""
_NOWHERE: Final = Position(0, 0)


def cut_off(snapshots: Sequence[Snapshot], until_s: int, items: ItemIndex, epoch: int) -> list[Snapshot]:
    """Return `state_until` of users who are to be ranked."""
    return [one._replace(state=state_until(one.state, until_s, items, epoch)) for one in snapshots]


def state_until(data: bytes, until_s: int, items: ItemIndex, epoch: int) -> bytes:
    """Return the state of a user without what was done from a moment on.

    The interactions before it go through the keyed logic again. So vector, interests, purchases and counts are those
    of the interactions that the state still holds, its newest 50; credits, items seen and the session are left out,
    and an order's value is not known any more.

    Parameters
    ----------
    data
        A state's bytes; empty: a user of whom nothing is known.
    until_s
        Seconds since 1970; 0: nobody is known.
    items
        Of the epoch; an interaction with an item that it does not know is left out.
    epoch
        Of the model.

    Returns
    -------
    bytes
        A state, whose newest event is at offset 0; empty where nothing is left.

    Raises
    ------
    StateError
        For an unreadable state.
    """
    if not data or not until_s:
        return b""
    full = UserState.decode(data)
    seconds, kinds = np.frombuffer(full.item_seconds, "<u4"), np.frombuffer(full.item_types, np.uint8)
    rows = items.factors.rows_of(np.frombuffer(full.item_hashes, "<u8"))
    logic = UserLogic(LogicSettings(shards=full.shards), {epoch: items.factors})
    state: UserState | None = None
    for place in np.flatnonzero((seconds < until_s) & (rows >= 0)).tolist():
        at_ms = 1_000 * int(seconds[place])
        event = Event(
            f"{place}", EVENT_TYPES[kinds[place]], "", "", None, items.item_ids[rows[place]], at_ms, at_ms, None, (),
            None, None, {}, "personalization",
        )  # fmt: skip
        state = logic.on_event(state, event, at_ms, _NOWHERE, epoch).state
    if state is None:
        return b""
    # A session of what was done before would be followed by what others do now.
    return state._replace(session_events=0, session_start_ms=1_000 * until_s).encode()
