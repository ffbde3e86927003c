"""A user as one who has done nothing since: equal to the state that the events before made."""

from __future__ import annotations

from pathlib import Path

import pytest
from bundles import EPOCH, item_id, make_bundle
from hypothesis import given
from hypothesis import strategies as st
from user_examples import T0, event

from schemas.records import Credit
from udfs.experiments.holdout import state_until
from udfs.model.bundle import Bundle
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.rank import RankSettings, rank_batch
from udfs.ranking.snapshot import Snapshot
from udfs.user_logic import LogicSettings, Position, UserLogic
from udfs.user_state import UserState

SAME = (
    "item_hashes", "item_seconds", "item_types", "interest_categories", "interest_weights", "interests_ms",
    "bought_hashes", "bought_seconds", "bought_counts", "n_views", "n_purchases", "first_ms", "last_ms", "n_sessions",
)  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "7")


def logic(bundle: Bundle) -> UserLogic:
    return UserLogic(LogicSettings(), {EPOCH: bundle.items.factors})


def state_after(bundle: Bundle, actions: list[tuple[str, int]], until: int | None = None) -> UserState | None:
    """The state after some actions, a minute apart; `until`: after so many of them."""
    state: UserState | None = None
    for number, (kind, item) in enumerate(actions[:until]):
        at_ms = T0 + 60_000 * number
        one = event(f"e{number}", kind, item_id(item), at_ms)
        state = logic(bundle).on_event(state, one, at_ms, Position(0, number + 1), EPOCH).state
    return state


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["view", "click", "purchase"]), st.integers(0, 40)), min_size=1, max_size=30
)


@given(actions=ACTIONS, known=st.integers(0, 30))
def test_it_is_what_the_events_before_the_moment_made(
    bundle: Bundle, actions: list[tuple[str, int]], known: int
) -> None:
    full = state_after(bundle, actions)
    assert full is not None
    full = (
        logic(bundle)
        .on_credit(full, Credit("default", full and "u", "r", "ranker", 1.0, T0, "c", ()), Position(0, 99))
        .state
    )
    assert full is not None
    data = state_until(full.encode(), (T0 + 60_000 * known) // 1_000, bundle.items, EPOCH)
    before = state_after(bundle, actions, known)
    if before is None:
        assert data == b""
        return
    found = UserState.decode(data)
    assert {name: getattr(found, name) for name in SAME} == {name: getattr(before, name) for name in SAME}
    assert (found.arm_alpha, found.seen_hashes, found.session_events) == (b"", b"", 0)


def test_nobody_is_known_at_the_beginning_of_time_and_a_stranger_never(bundle: Bundle) -> None:
    full = state_after(bundle, [("click", 2)])
    assert full is not None
    assert state_until(full.encode(), 0, bundle.items, EPOCH) == b""
    assert state_until(b"", 2_000_000_000, bundle.items, EPOCH) == b""


def test_its_list_does_not_change_with_what_the_user_does_after(bundle: Bundle) -> None:
    actions = [("click", 2), ("view", 4), ("purchase", 6)]

    def ranked(more: list[tuple[str, int]], cut: bool) -> list[str]:
        state = state_after(bundle, actions + more)
        assert state is not None
        data = state.encode()
        if cut:
            data = state_until(data, T0 // 1_000 + 180, bundle.items, EPOCH)
        shot = Snapshot("default/u", "default", "u", "0" * 32, T0 + 600_000, EPOCH, data)
        (one,) = rank_batch(bundle, [shot], CatalogueView(bundle), RankSettings())
        return [item.item_id for item in one.items]

    later = [("click", 1), ("click", 3), ("purchase", 5), ("click", 7)]
    assert ranked(later, cut=True) == ranked([], cut=True)
    assert ranked(later, cut=False) != ranked([], cut=False)


def test_a_model_that_does_not_know_an_item_leaves_it_out(bundle: Bundle, tmp_path: Path) -> None:
    state = state_after(bundle, [("click", 2), ("click", 100_000)])
    assert state is not None
    found = UserState.decode(state_until(state.encode(), T0 // 1_000 + 999, bundle.items, EPOCH))
    assert len(found.item_types) == 1
