"""The batch decoder of states: equal to UserState.decode, and as strict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundles import NOW_MS
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.ranking.snapshot import Snapshot, StateColumns, decode_states
from udfs.user_state import EMPTY, MAX_STATE_BYTES, VERSION, StateError, UserState

LISTS = {
    "item_hashes": "<u8",
    "item_seconds": "<u4",
    "item_types": "<u1",
    "bought_hashes": "<u8",
    "bought_seconds": "<u4",
    "bought_counts": "<f4",
    "seen_hashes": "<u8",
    "interest_categories": "<u4",
    "interest_weights": "<f4",
    "arm_alpha": "<f4",
    "arm_beta": "<f4",
    "embedding": "<f2",
}
COUNTS = {
    "n_interactions": "item_hashes",
    "n_bought": "bought_hashes",
    "n_seen": "seen_hashes",
    "n_interests": "interest_weights",
    "n_arms": "arm_alpha",
    "dim": "embedding",
}


@st.composite
def states(draw: st.DrawFn) -> UserState:
    random = draw(st.randoms(use_true_random=False))
    items, bought, seen, pending, interests, arms, dim, ids = (
        draw(st.sampled_from((0, 1, limit))) for limit in (50, 64, 64, 4, 16, 8, 64, 32)
    )
    return EMPTY._replace(
        consent=draw(st.integers(0, 2)),
        flags=draw(st.integers(0, 65_535)),
        embedding_epoch=draw(st.integers(0, 2**32 - 1)),
        first_ms=draw(st.integers(-(2**63), 2**63 - 1)),
        last_ms=draw(st.integers(-(2**63), 2**63 - 1)),
        newest_offset=7,
        newest_partition=3,
        n_events=draw(st.integers(0, 2**32 - 1)),
        n_sessions=draw(st.integers(0, 2**32 - 1)),
        session_events=9,
        session_start_ms=draw(st.integers(0, 2**62)),
        session_last_ms=11,
        interests_ms=draw(st.integers(0, 2**62)),
        n_views=21,
        n_carts=22,
        n_purchases=draw(st.integers(0, 2**32 - 1)),
        spend=draw(st.floats(width=32, allow_nan=False)),
        shards=128,
        item_hashes=random.randbytes(8 * items),
        bought_hashes=random.randbytes(8 * bought),
        seen_hashes=random.randbytes(8 * seen),
        pending_hashes=random.randbytes(8 * pending),
        item_seconds=random.randbytes(4 * items),
        bought_seconds=random.randbytes(4 * bought),
        bought_counts=random.randbytes(4 * bought),
        pending_seconds=random.randbytes(4 * pending),
        interest_categories=random.randbytes(4 * interests),
        interest_weights=random.randbytes(4 * interests),
        arm_alpha=random.randbytes(4 * arms),
        arm_beta=random.randbytes(4 * arms),
        embedding=random.randbytes(2 * dim),
        event_ids=random.randbytes(6 * ids),
        item_types=random.randbytes(items),
    )


def snapshot(state: bytes, key: str = "default/u1", at_ms: int = NOW_MS) -> Snapshot:
    return Snapshot(key, "default", "u1", "0" * 32, at_ms, 1, state)


def assert_row_is_state(columns: StateColumns, row: int, state: UserState) -> None:
    for name, packed in LISTS.items():
        wanted = np.frombuffer(getattr(state, name), packed)
        got = getattr(columns, name)[row]
        np.testing.assert_array_equal(got[: len(wanted)], wanted.astype(got.dtype), err_msg=name)
        assert not got[len(wanted) :].any(), f"{name} is padded with zeros"
    for name, column in COUNTS.items():
        size = np.dtype(LISTS[column]).itemsize
        assert getattr(columns, name)[row] == len(getattr(state, column)) // size, name
    for name in set(StateColumns._fields) - set(LISTS) - set(COUNTS) - {"at_ms"}:
        assert getattr(columns, name)[row] == getattr(state, name), name


@settings(max_examples=60, deadline=None)
@given(st.lists(states(), min_size=1, max_size=4))
def test_a_batch_decodes_to_what_each_state_decodes_to(some: list[UserState]) -> None:
    blobs = [state.encode() for state in some]
    columns = decode_states([snapshot(blob) for blob in blobs])
    for row, blob in enumerate(blobs):
        assert_row_is_state(columns, row, UserState.decode(blob))


def test_every_half_precision_number_decodes_exactly() -> None:
    for start in range(0, 65_536, 64):
        halves = np.arange(start, start + 64).astype("<u2")
        columns = decode_states([snapshot(EMPTY._replace(embedding=halves.tobytes()).encode())])
        np.testing.assert_array_equal(columns.embedding[0], halves.view("<f2").astype(np.float32))


def test_a_user_without_a_state_is_a_row_of_zeros_between_others() -> None:
    full = EMPTY._replace(
        n_events=5, item_hashes=bytes(range(8)), item_seconds=b"abcd", item_types=b"\1"
    ).encode()
    columns = decode_states([snapshot(full), snapshot(b"", at_ms=4), snapshot(full)])
    assert columns.n_events.tolist() == [5, 0, 5]
    assert columns.n_interactions.tolist() == [1, 0, 1]
    assert columns.at_ms.tolist() == [NOW_MS, 4, NOW_MS]


def test_no_snapshots_give_no_rows() -> None:
    assert len(decode_states([]).at_ms) == 0


def test_a_snapshot_kept_by_an_older_release_is_read_as_its_state() -> None:
    old = (Path(__file__).parents[1] / "fixtures" / "state" / "v1" / "typical.bin").read_bytes()
    today = UserState.decode(old).encode()
    found, wanted = (
        decode_states([Snapshot("default/u", "default", "u", "", NOW_MS, 1, data)]) for data in (old, today)
    )
    assert found.bought_counts[0, : found.n_bought[0]].tolist() == [1.0] * 2
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:100],
        lambda data: bytes((VERSION + 1,)) + data[1:],
        lambda data: data[:2] + bytes([51]) + data[3:],
        lambda data: data[:8] + bytes([65]) + data[9:],
    ],
    ids=["cut short", "too long", "no header", "other version", "51 interactions", "65 dimensions"],
)
def test_unreadable_bytes_name_the_user(spoil) -> None:
    good = EMPTY.encode()
    with pytest.raises(StateError, match="default/second"):
        decode_states([snapshot(good), snapshot(spoil(good), "default/second")])


def test_more_entries_than_a_state_may_hold_are_refused_even_if_the_length_fits() -> None:
    state = EMPTY._replace(seen_hashes=bytes(8 * 65)).encode()
    assert len(state) < MAX_STATE_BYTES
    with pytest.raises(StateError):
        decode_states([snapshot(state)])
