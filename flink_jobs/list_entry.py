"""What the list store takes and answers, and how it travels to `lists.lua` and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from schemas.records import ServedList
from schemas.stored_list import META_FIELDS, load_slots, store_slots

SESSION_ITEMS: Final = 20
KEPT: Final = 1
"""What `lists.lua` replies for a list that it stored."""
# Length of a piece -> its part of a struct format. Propensities of 50 slots are the longest there is.
MAX_PIECE_BYTES: Final = 1_500
_LENGTHS: Final = [f"c{length}" for length in range(MAX_PIECE_BYTES + 1)]


class ListEntry(NamedTuple):
    """What to store for one user.

    Parameters
    ----------
    served
        The list. Its `served_time` is stamped by the store's clock.
    session
        Items of the session, newest first; the first 20 are kept.
    features
        The user's features as served; empty for none.
    """

    served: ServedList
    session: Sequence[str] = ()
    features: Mapping[str, object] = {}


class EraseEntry(NamedTuple):
    """Delete all that is stored for one user, and let no older list come back.

    A version of offset 0 wins over every list of its generation with a smaller order number: so is a user erased
    whose state, and with it the newest offset, is gone already.
    """

    tenant: str
    user_id: str
    version: str


class Outcome(NamedTuple):
    """What became of an entry.

    Parameters
    ----------
    state
        ``kept``: stored now. ``equal``: its version stood there already. ``older``: a newer version, or the
        mark of an erasure, stands there; nothing changed. ``erased``: deleted.
    served
        The list as it stands in Redis, to be logged: of ``kept`` and ``equal``; else None.
    """

    state: Literal["kept", "equal", "older", "erased"]
    served: ServedList | None


def as_pieces(served: ServedList, entry: ListEntry) -> tuple[str, bytes]:
    """One entry as `lists.lua` wants it: shape and pieces, all texts, because Lua prints numbers its own way.

    A piece of no bytes cannot be told in a struct format, so a field whose value is empty is left out.
    """
    slots = store_slots(served.items)
    event_time = str(served.event_time)
    meta = [
        "rec_id", served.rec_id,
        "_v", served.version,
        "_wm", event_time,
        "_t", str(served.served_time),
        "_epoch", str(served.epoch),
        "_model", served.model_version,
        "_mark", marks_text(
            served.index_mark, served.session_mark, served.weights_version, served.posterior_version
        ),
    ]  # fmt: skip
    if served.variant:
        meta += ("variant", served.variant)
    if slots.scored:
        meta += ("propensities", slots.propensities, "sources", slots.sources)
    if slots.order:
        meta += ("order", slots.order)
    features: list[str] = []
    if entry.features:
        features = ["_v", served.version, "_wm", event_time]
        for name, value in entry.features.items():
            text = value if type(value) is str else str(value)
            if text:
                features += (name, text)
    session = entry.session[:SESSION_ITEMS]
    counts = bytes((len(slots.scored), len(meta), len(session), len(features)))
    pieces = [*slots.scored, *meta, *session, *features]
    data = "".join(pieces).encode()
    lengths = list(map(len, pieces))
    if len(data) != sum(lengths):  # not all ASCII
        lengths = [len(piece.encode()) for piece in pieces]
    if 0 in lengths or max(lengths) > MAX_PIECE_BYTES:
        raise ValueError(
            f"list of {served.tenant}/{served.user_id}: wanted texts of 1 to {MAX_PIECE_BYTES} bytes, "
            f"got {pieces!r:.300}"
        )
    return "BBBB" + "".join([_LENGTHS[length] for length in lengths]), counts + data


def marks_text(
    index_mark: int, session_mark: int, weights_version: int = 0, posterior_version: int = 0
) -> str:
    """Give what tells in Redis how far the worker had read: catalogue, sessions, weights and posterior.

    Examples
    --------
    >>> marks_text(17, 0), marks_text(17, 250), marks_text(17, 250, 3), marks_text(17, 0, 0, 5)
    ('17', '17:250', '17:250:3', '17:0:0:5')
    """
    marks = [index_mark, session_mark, weights_version, posterior_version]
    while len(marks) > 1 and not marks[-1]:
        marks.pop()
    return ":".join(map(str, marks))


def read_marks(text: str) -> tuple[int, int, int, int]:
    """Read what `marks_text` gave.

    Examples
    --------
    >>> read_marks("17"), read_marks("17:250:3:5")
    ((17, 0, 0, 0), (17, 250, 3, 5))
    """
    index_mark, session_mark, weights_version, posterior_version = (*map(int, text.split(":")), 0, 0, 0)[:4]
    return index_mark, session_mark, weights_version, posterior_version


def as_outcome(reply: Any, served: ServedList | None) -> Outcome:
    """What one reply of `lists.lua` says; `served` is the list sent, None for an erasure."""
    if reply == KEPT:
        return Outcome("kept", served)
    if reply == 0:
        return Outcome("older", None)
    if reply == 2:
        return Outcome("erased", None)
    if served is None:
        raise RuntimeError(f"the store answered an erasure with {reply!r}")
    return Outcome("equal", _as_stored(served, *reply))


def _as_stored(served: ServedList, meta: Sequence[Any], scored: Sequence[Any]) -> ServedList:
    """The list that stands in Redis under this version; the snapshot is the given one, of equal version."""
    found = dict(zip(META_FIELDS, [_text(value) for value in meta], strict=True))
    pairs = [(_text(item), float(score)) for item, score in zip(scored[::2], scored[1::2], strict=True)]
    index_mark, session_mark, weights_version, posterior_version = read_marks(found["_mark"])
    same = found["rec_id"] == served.rec_id
    as_sent = (posterior_version, found["variant"]) == (served.posterior_version, served.variant)
    return served._replace(
        rec_id=found["rec_id"],
        event_time=int(found["_wm"]),
        served_time=int(found["_t"]),
        epoch=int(found["_epoch"]),
        model_version=found["_model"],
        variant=found["variant"],
        index_mark=index_mark,
        session_mark=session_mark,
        weights_version=weights_version,
        posterior_version=posterior_version,
        # Not in the store; the same where all that they are made of is.
        source_probabilities=served.source_probabilities
        if same or (as_sent and not served.list_policy)
        else (),
        list_policy=served.list_policy if same else "",
        list_shares=served.list_shares if same else (),
        items=load_slots(pairs, found["propensities"], found["sources"], found["order"]),
    )


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.decode() if isinstance(value, bytes) else str(value)
