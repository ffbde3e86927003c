"""Snapshots to candidates and their features: everything before the ranker."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from udfs.ranking.candidates import CONTENT, DEVICES, RULES, SEQUENCE, SESSIONS, Candidates, quota
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.content_source import SCORED_BY_CONTENT, find_by_content
from udfs.ranking.device_source import find_by_devices
from udfs.ranking.feature_kernel import compute_features
from udfs.ranking.first_stage import Finalists, pick_finalists
from udfs.ranking.found_items import FoundItems, no_items
from udfs.ranking.history import History
from udfs.ranking.item_index import ItemIndex
from udfs.ranking.rank_settings import RankSettings
from udfs.ranking.retrieval import find_history, retrieve
from udfs.ranking.rule_source import SCORED_BY_RULES, find_by_rules
from udfs.ranking.sequence_source import SCORED_BY_SEQUENCE, find_by_sequence
from udfs.ranking.snapshot import Snapshot, StateColumns, decode_states
from udfs.user_state import UserState
from udfs.user_vector import refresh_embeddings


class SessionSource(Protocol):
    """Sessions of all users: `udfs.ranking.live_sessions.LiveSessions`, or a replay of them.

    `mark` says how far their log was read, `weights_version` what the learnt ranker was published as.
    """

    mark: int

    @property
    def weights_version(self) -> int:
        """0: nothing was published yet."""

    def find(
        self,
        items: ItemIndex,
        snapshots: Sequence[Snapshot],
        states: StateColumns,
        allowed: NDArray[np.bool_],
        limit: int,
    ) -> FoundItems:
        """Return what sessions like each user's last one did next, at most `limit` items a user."""


class Prepared(NamedTuple):
    """Everything before the ranker, for U users: what training learns from, and `explain` shows."""

    states: StateColumns
    history: History
    candidates: Candidates
    finalists: Finalists
    features: NDArray[np.float32]  # (U * K, F)


def prepare(
    index: ItemIndex,
    snapshots: Sequence[Snapshot],
    catalogue: CatalogueView,
    settings: RankSettings,
    epoch: int,
    sessions: SessionSource | None = None,
) -> Prepared:
    """Decode, retrieve, blend and compute features.

    Parameters
    ----------
    index
        The items of the epoch, or of the catalogue's view, which may hold arrivals.
    snapshots
        U users; a vector of another epoch is folded in again from the interactions.
    catalogue
        Row-aligned with the index.
    settings
        Sizes and the rebuy interval.
    epoch
        Of the index.
    sessions
        The session source; without one it brings nothing.

    Raises
    ------
    StateError
        For an unreadable state.
    """
    states = decode_states(snapshots)
    _refold(index, snapshots, states, epoch)
    history = find_history(index, states)
    allowed, most = catalogue.allowed, partial(quota, index, candidates=settings.candidates)
    live, devices, sequence, rules = no_items(len(snapshots)), None, None, None
    if sessions is not None:
        live = sessions.find(index, snapshots, states, allowed, most(SESSIONS))
    if index.devices is not None:
        devices = find_by_devices(index.devices, history, allowed, most(DEVICES))
    if index.sequence is not None:
        limit = SCORED_BY_SEQUENCE * most(SEQUENCE)
        sequence = find_by_sequence(index.sequence, states, history, allowed, limit)
    if index.rules is not None:
        rules = find_by_rules(index.rules, history, allowed, SCORED_BY_RULES * most(RULES))
    candidates = retrieve(
        index,
        states,
        history,
        live,
        allowed,
        settings.candidates,
        settings.rebuy_after_ms,
        devices,
        find_content(index, history, allowed, settings.candidates),
        sequence,
        rules,
    )
    finalists = pick_finalists(index, candidates, settings.finalists)
    features = compute_features(index, states, history, candidates, finalists, catalogue.price_log)
    return Prepared(states, history, candidates, finalists, features)


def find_content(
    index: ItemIndex, history: History, allowed: NDArray[np.bool_], candidates: int
) -> FoundItems | None:
    """Return what the content source brings, and lends its scores to; None: there is nothing that it could find.

    Parameters
    ----------
    candidates
        Of a user, from all sources.
    """
    if index.content is None or not index.content.table.has_links():
        return None
    limit = SCORED_BY_CONTENT * quota(index, CONTENT, candidates)
    return find_by_content(index.content.table, history, allowed, limit)


def _refold(index: ItemIndex, snapshots: Sequence[Snapshot], states: StateColumns, epoch: int) -> None:
    """Put vectors of this epoch in the place of others, by the rule and rounding that states have."""
    stale = (states.embedding_epoch != epoch) | ((states.dim != 0) & (states.dim != index.factors.dim))
    users = np.flatnonzero(stale & (states.n_interactions > 0))
    if not len(users):
        return
    decoded = [UserState.decode(snapshots[user].state) for user in users]
    for user, state in zip(users, refresh_embeddings(decoded, index.factors, epoch), strict=True):
        vector = np.frombuffer(state.embedding, "<f2")
        states.dim[user] = len(vector)
        states.embedding[user, : len(vector)] = vector
