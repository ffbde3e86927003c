"""The kernel behind `list_columns.encode_entries`: one user's pieces and their shape, as `lists.lua` reads them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flink_jobs.list_entry import SESSION_ITEMS
from flink_jobs.text_kernel import Bytes, Texts, put_decimal, put_int, put_text, text_greater
from flink_jobs.user_view import TOP_CATEGORIES
from schemas.stored_list import FIRST_PLACE
from udfs.kernel_cache import kernel
from udfs.ranking.rank import PROPENSITY_DECIMALS, SCORE_DECIMALS
from udfs.ranking.snapshot import StateColumns

_NAMES = (
    *("rec_id", "_v", "_wm", "_t", "_epoch", "_model", "_mark"),
    *("variant", "propensities", "sources", "order"),
    *("events", "views", "carts", "purchases", "spend", "sessions", "session_events"),
    *("first_ms", "last_ms", "interests"),
)
_LABEL_BYTES, _LABEL_AT = Texts.of(_NAMES)
(
    _REC_ID, _V, _WM, _T, _EPOCH, _MODEL, _MARK, _VARIANT, _PROPENSITIES, _SOURCES, _ORDER,
    _EVENTS, _VIEWS, _CARTS, _PURCHASES, _SPEND, _SESSIONS, _SESSION_EVENTS, _FIRST, _LAST, _INTERESTS,
) = range(len(_NAMES))  # fmt: skip
# Places in the texts that all users of a batch share.
_VARIANT_TEXT, _MODEL_TEXT, _EPOCH_TEXT, _T_TEXT = range(4)
_SPACE, _COMMA, _C = 32, 44, 99


@kernel
def _close(shapes: Bytes, shape_at: int, length: int) -> int:
    """Append the shape of a piece of `length` bytes: ``c`` and the number."""
    shapes[shape_at] = _C
    return put_int(shapes, shape_at + 1, length)


@kernel
def _label(out: Bytes, at: int, shapes: Bytes, shape_at: int, name: int) -> tuple[int, int]:
    start, stop = _LABEL_AT[name], _LABEL_AT[name + 1]
    for k in range(start, stop):
        out[at] = _LABEL_BYTES[k]
        at += 1
    return at, _close(shapes, shape_at, stop - start)


@kernel
def _text(
    out: Bytes, at: int, shapes: Bytes, shape_at: int, name: int, texts: Texts, index: int
) -> tuple[int, int]:
    """Append a field of a HASH: its name and a text."""
    at, shape_at = _label(out, at, shapes, shape_at, name)
    stop = put_text(out, at, texts, index)
    return stop, _close(shapes, shape_at, stop - at)


@kernel
def _number(out: Bytes, at: int, shapes: Bytes, shape_at: int, name: int, value: int) -> tuple[int, int]:
    """Append a field of a HASH: its name and an integer."""
    at, shape_at = _label(out, at, shapes, shape_at, name)
    stop = put_int(out, at, value)
    return stop, _close(shapes, shape_at, stop - at)


@kernel
def _places(
    scores: NDArray[np.float64],
    rows: NDArray[np.int32],
    count: int,
    item_ids: Texts,
    ranked: NDArray[np.int64],
) -> bool:
    """Write the slots in the order of ZREVRANGE; tell whether that is another order than the slots' own."""
    moved = False
    for slot in range(count):
        place = slot
        while place > 0:
            other = ranked[place - 1]
            if scores[slot] < scores[other]:
                break
            if scores[slot] == scores[other] and not text_greater(item_ids, rows[slot], rows[other]):
                break
            ranked[place] = other
            place -= 1
            moved = True
        ranked[place] = slot
    return moved


@kernel
def _interests(
    out: Bytes, at: int, states: StateColumns, user: int, hashes: NDArray[np.uint32], names: Texts
) -> int:
    """Write the user's best categories, by weight and then by hash, the greatest first, with commas between."""
    n_interests = states.n_interests[user]
    weights, categories = states.interest_weights[user], states.interest_categories[user]
    last = -1
    for nth in range(min(n_interests, TOP_CATEGORIES)):
        best = -1
        for k in range(n_interests):
            behind = (
                last < 0
                or weights[k] < weights[last]
                or (weights[k] == weights[last] and categories[k] < categories[last])
            )
            if behind and (
                best < 0
                or weights[k] > weights[best]
                or (weights[k] == weights[best] and categories[k] > categories[best])
            ):
                best = k
        if best < 0:
            break
        if nth:
            out[at] = _COMMA
            at += 1
        known = np.searchsorted(hashes, categories[best])
        if known < len(hashes) and hashes[known] == categories[best]:
            at = put_text(out, at, names, known)
        else:
            at = put_int(out, at, np.int64(categories[best]))
        last = best
    return at


@kernel
def write_entries(
    counts: NDArray[np.int32],
    rows: NDArray[np.int32],
    scores: NDArray[np.float64],
    arms: NDArray[np.int32],
    propensity: NDArray[np.float64],
    states: StateColumns,
    item_rows: NDArray[np.int32],
    item_ids: Texts,
    category_hashes: NDArray[np.uint32],
    category_names: Texts,
    rec_ids: Texts,
    versions: Texts,
    spends: Texts,
    marks: Texts,
    shared: Texts,
    letters: Bytes,
    out: Bytes,
    out_ends: NDArray[np.int64],
    shapes: Bytes,
    shape_ends: NDArray[np.int64],
) -> None:
    """Write pieces and shapes of U users one behind the other.

    Parameters
    ----------
    counts, rows, scores, arms, propensity
        (U,) and (U, L), see `RankedBatch`.
    states, item_rows
        What the lists were made from; the rows of its interactions, -1 unknown, (U, 50).
    rec_ids, versions, spends, marks
        A text a user.
    shared
        Variant, model version, epoch and time.
    letters
        Of the arms.
    out, out_ends, shapes, shape_ends
        Where to write, with room for the longest; where each user's part ends.
    """
    at, shape_at = 0, 0
    ranked = np.empty(rows.shape[1], np.int64)
    for user in range(len(counts)):
        count = counts[user]
        for _ in range(4):
            shapes[shape_at] = 66  # B
            shape_at += 1
        counted = at
        at += 4
        for slot in range(count):
            start = at
            at = put_decimal(out, at, scores[user, slot], SCORE_DECIMALS)
            shape_at = _close(shapes, shape_at, at - start)
            start = at
            at = put_text(out, at, item_ids, rows[user, slot])
            shape_at = _close(shapes, shape_at, at - start)
        out[counted] = 2 * count

        at, shape_at = _text(out, at, shapes, shape_at, _REC_ID, rec_ids, user)
        at, shape_at = _text(out, at, shapes, shape_at, _V, versions, user)
        at, shape_at = _number(out, at, shapes, shape_at, _WM, states.at_ms[user])
        at, shape_at = _text(out, at, shapes, shape_at, _T, shared, _T_TEXT)
        at, shape_at = _text(out, at, shapes, shape_at, _EPOCH, shared, _EPOCH_TEXT)
        at, shape_at = _text(out, at, shapes, shape_at, _MODEL, shared, _MODEL_TEXT)
        at, shape_at = _text(out, at, shapes, shape_at, _MARK, marks, user)
        fields = 7
        if shared.offsets[_VARIANT_TEXT + 1] > shared.offsets[_VARIANT_TEXT]:
            at, shape_at = _text(out, at, shapes, shape_at, _VARIANT, shared, _VARIANT_TEXT)
            fields += 1
        if count:
            at, shape_at = _label(out, at, shapes, shape_at, _PROPENSITIES)
            start = at
            for slot in range(count):
                if slot:
                    out[at] = _SPACE
                    at += 1
                at = put_decimal(out, at, propensity[user, slot], PROPENSITY_DECIMALS)
            shape_at = _close(shapes, shape_at, at - start)
            at, shape_at = _label(out, at, shapes, shape_at, _SOURCES)
            for slot in range(count):
                out[at] = letters[arms[user, slot]]
                at += 1
            shape_at = _close(shapes, shape_at, count)
            fields += 2
            if _places(scores[user], rows[user], count, item_ids, ranked):
                at, shape_at = _label(out, at, shapes, shape_at, _ORDER)
                for place in range(count):
                    out[at + ranked[place]] = FIRST_PLACE + place
                at += count
                shape_at = _close(shapes, shape_at, count)
                fields += 1
        out[counted + 1] = 2 * fields

        n_items, session = states.n_interactions[user], 0
        for back in range(min(n_items, SESSION_ITEMS)):
            row = item_rows[user, n_items - 1 - back]
            if row >= 0:
                start = at
                at = put_text(out, at, item_ids, row)
                shape_at = _close(shapes, shape_at, at - start)
                session += 1
        out[counted + 2] = session

        at, shape_at = _text(out, at, shapes, shape_at, _V, versions, user)
        at, shape_at = _number(out, at, shapes, shape_at, _WM, states.at_ms[user])
        at, shape_at = _number(out, at, shapes, shape_at, _EVENTS, states.n_events[user])
        at, shape_at = _number(out, at, shapes, shape_at, _VIEWS, states.n_views[user])
        at, shape_at = _number(out, at, shapes, shape_at, _CARTS, states.n_carts[user])
        at, shape_at = _number(out, at, shapes, shape_at, _PURCHASES, states.n_purchases[user])
        at, shape_at = _text(out, at, shapes, shape_at, _SPEND, spends, user)
        at, shape_at = _number(out, at, shapes, shape_at, _SESSIONS, states.n_sessions[user])
        at, shape_at = _number(out, at, shapes, shape_at, _SESSION_EVENTS, states.session_events[user])
        at, shape_at = _number(out, at, shapes, shape_at, _FIRST, states.first_ms[user])
        at, shape_at = _number(out, at, shapes, shape_at, _LAST, states.last_ms[user])
        fields = 11
        if states.n_interests[user] > 0:
            at, shape_at = _label(out, at, shapes, shape_at, _INTERESTS)
            start = at
            at = _interests(out, at, states, user, category_hashes, category_names)
            shape_at = _close(shapes, shape_at, at - start)
            fields += 1
        out[counted + 3] = 2 * fields
        out_ends[user] = at
        shape_ends[user] = shape_at
