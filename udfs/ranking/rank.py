"""Snapshots to lists: decode, retrieve, blend, features, ranker, diversity and exploration, rules.

Every stage handles the whole batch with kernels that treat each user alone, so a user's list is the same, bit
for bit, whoever is ranked with them. No clock, no network, no random state: a replay repeats it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128_hexdigest

from udfs.model.bundle import Bundle
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.device_source import find_by_devices
from udfs.ranking.exploration import fill_slots, list_seed, play_probabilities
from udfs.ranking.feature_kernel import compute_features
from udfs.ranking.first_stage import Finalists, pick_finalists
from udfs.ranking.history import History
from udfs.ranking.item_index import ItemIndex
from udfs.ranking.live_sessions import SessionCandidates, no_sessions
from udfs.ranking.ranked import Ranked as Ranked
from udfs.ranking.ranked import RankedBatch
from udfs.ranking.retrieval import Candidates, find_history, retrieve
from udfs.ranking.rules import check_lists
from udfs.ranking.snapshot import Snapshot, StateColumns, decode_states
from udfs.user_state import UserState
from udfs.user_vector import refresh_embeddings

SCORE_DECIMALS = 6
"""Enough to tell scores apart; their texts in the store are half as long."""
PROPENSITY_DECIMALS = 9
"""Logged and stored alike; the floor is .01, so the part that is cut off is below one in ten million."""

_REC_ID = Struct("<QqqI")


@dataclass(frozen=True, slots=True)
class RankSettings:
    """How to rank; the defaults are those of `flink_jobs.settings.Model`.

    `candidates` and `finalists` bound the stages, `diversity` is the weight of category repetition in [0, 1],
    `exploration_floor` the least probability of each of the five arms, `rebuy_after_ms` for how long a bought
    item is not shown.
    """

    candidates: int = 200
    finalists: int = 40
    list_size: int = 10
    diversity: float = 0.15
    exploration_floor: float = 0.01
    rebuy_after_ms: int = 86_400_000

    def __post_init__(self) -> None:
        if not 1 <= self.list_size <= self.finalists <= self.candidates <= 10_000:
            raise ValueError(
                f"wanted 1 <= list_size <= finalists <= candidates <= 10,000, got {self.list_size}, "
                f"{self.finalists}, {self.candidates}"
            )
        if not 0.0 <= self.diversity <= 1.0:
            raise ValueError(f"diversity: wanted 0 to 1, got {self.diversity}")


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
    ) -> SessionCandidates:
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
        The items of the epoch.
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
    live = no_sessions(len(snapshots))
    if sessions is not None:
        most = int(min(settings.candidates, len(index)) * index.settings.share_sessions)
        live = sessions.find(index, snapshots, states, catalogue.allowed, most)
    devices = None
    if index.devices is not None:
        most = int(min(settings.candidates, len(index)) * index.settings.share_devices)
        devices = find_by_devices(index.devices, history, catalogue.allowed, most)
    candidates = retrieve(
        index, states, history, live, catalogue.allowed, settings.candidates, settings.rebuy_after_ms, devices
    )
    finalists = pick_finalists(index, candidates, settings.finalists)
    features = compute_features(index, states, history, candidates, finalists, catalogue.price_log)
    return Prepared(states, history, candidates, finalists, features)


def rank_batch(
    bundle: Bundle,
    snapshots: Sequence[Snapshot],
    catalogue: CatalogueView,
    settings: RankSettings,
    sessions: SessionSource | None = None,
) -> list[Ranked]:
    """Rank users with one epoch of the model: `rank_columns` as records.

    Returns
    -------
    list[Ranked]
        In the order of the snapshots.
    """
    return rank_columns(bundle, snapshots, catalogue, settings, sessions).lists() if snapshots else []


def rank_columns(
    bundle: Bundle,
    snapshots: Sequence[Snapshot],
    catalogue: CatalogueView,
    settings: RankSettings,
    sessions: SessionSource | None = None,
) -> RankedBatch:
    """Rank users with one epoch of the model.

    Parameters
    ----------
    bundle
        The epoch. It need not be the one that a snapshot names: then the vector is folded in again, and the
        list names the epoch that made it.
    snapshots
        At least one user, in any order.
    catalogue
        A view of this bundle.
    settings
        How to rank.
    sessions
        The session source; without one it brings nothing.

    Returns
    -------
    RankedBatch
        In the order of the snapshots. A list is shorter than `list_size` only where the catalogue has no more
        items that the rules allow.

    Raises
    ------
    StateError
        For an unreadable state.
    NotFiniteScoreError
        When the ranker answers NaN or infinity.
    ValueError
        For a catalogue of another bundle.
    """
    if catalogue.index is not bundle.items:
        raise ValueError("the catalogue view belongs to another bundle; make one with CatalogueView(bundle)")
    prepared = prepare(bundle.items, snapshots, catalogue, settings, bundle.epoch, sessions)
    scores = bundle.ranker.score(prepared.features, settings.finalists)
    seeds = [list_seed(snapshot.key, snapshot.version, bundle.epoch) for snapshot in snapshots]
    lists = fill_slots(
        scores,
        bundle.items.columns.category,
        prepared.candidates,
        prepared.finalists,
        play_probabilities(prepared.states, settings.exploration_floor),
        np.array(seeds, np.uint64),
        settings.diversity,
        settings.list_size,
    )
    rows = np.take_along_axis(prepared.finalists.rows, lists.places, axis=1)
    check_lists(
        rows,
        lists.counts,
        catalogue.allowed,
        prepared.history.bought_rows,
        prepared.states.bought_seconds,
        prepared.states.at_ms,
        settings.rebuy_after_ms,
    )
    slot_scores = np.take_along_axis(scores.reshape(len(snapshots), -1), lists.places, axis=1)
    return RankedBatch(
        bundle,
        snapshots,
        catalogue.mark,
        0 if sessions is None else sessions.mark,
        sessions.weights_version if sessions is not None and bundle.items.settings.learnt_sessions else 0,
        prepared.states,
        prepared.history,
        lists.counts,
        rows,
        np.asarray(np.round(slot_scores.astype(np.float64), SCORE_DECIMALS), np.float64),
        lists.arms,
        np.asarray(np.round(lists.propensity, PROPENSITY_DECIMALS), np.float64),
        _rec_ids(seeds, bundle, catalogue.mark, rows, lists.counts),
    )


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


def _rec_ids(
    seeds: Sequence[int],
    bundle: Bundle,
    mark: int,
    rows: NDArray[np.int32],
    counts: NDArray[np.int32],
) -> list[str]:
    """Return the id of each list: the hash of seed, epoch, index mark and items."""
    hashes = bundle.items.columns.hashes[rows].tobytes()
    width = 8 * rows.shape[1]
    return [
        xxh3_128_hexdigest(
            _REC_ID.pack(seed, bundle.epoch, mark, count) + hashes[user * width : user * width + 8 * count]
        )
        for user, (seed, count) in enumerate(zip(seeds, counts.tolist(), strict=True))
    ]
