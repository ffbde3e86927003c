"""Snapshots to lists: decode, retrieve, blend, features, ranker, diversity and exploration, rules.

Every stage handles the whole batch with kernels that treat each user alone, so a user's list is the same, bit
for bit, whoever is ranked with them. No clock, no network, no random state: a replay repeats it.
"""

from collections.abc import Mapping, Sequence
from struct import Struct

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128_hexdigest

from udfs.bandits.shared_posterior import SharedPosterior
from udfs.model.bundle import Bundle
from udfs.ranking.arrange import arrange
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.list_policies import DrawnPolicies
from udfs.ranking.prepare import Prepared as Prepared
from udfs.ranking.prepare import SessionSource as SessionSource
from udfs.ranking.prepare import prepare as prepare
from udfs.ranking.rank_settings import RankSettings as RankSettings
from udfs.ranking.ranked import Ranked as Ranked
from udfs.ranking.ranked import RankedBatch
from udfs.ranking.rules import check_lists
from udfs.ranking.snapshot import Snapshot

SCORE_DECIMALS = 6
"""Enough to tell scores apart; their texts in the store are half as long."""
PROPENSITY_DECIMALS = 9
"""Logged and stored alike; the floor is .01, so the part that is cut off is below one in ten million."""
LEAST_PROPENSITY = 10.0**-PROPENSITY_DECIMALS
"""Of a new item among very many; 0 would say that it cannot have been."""

_REC_ID = Struct("<QqqI")


def rank_batch(
    bundle: Bundle,
    snapshots: Sequence[Snapshot],
    catalogue: CatalogueView,
    settings: RankSettings,
    sessions: SessionSource | None = None,
    posteriors: Mapping[str, SharedPosterior] | None = None,
) -> list[Ranked]:
    """Rank users with one epoch of the model: `rank_columns` as records.

    Returns
    -------
    list[Ranked]
        In the order of the snapshots.
    """
    if not snapshots:
        return []
    return rank_columns(bundle, snapshots, catalogue, settings, sessions, posteriors).lists()


def rank_columns(
    bundle: Bundle,
    snapshots: Sequence[Snapshot],
    catalogue: CatalogueView,
    settings: RankSettings,
    sessions: SessionSource | None = None,
    posteriors: Mapping[str, SharedPosterior] | None = None,
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
    posteriors
        Tenant → what all its users taught about the arms, in the order of `udfs.user_state.SOURCES`; None: nothing.

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
    bundle = catalogue.grown(bundle)
    prepared = prepare(bundle.items, snapshots, catalogue, settings, bundle.epoch, sessions)
    scores = bundle.ranker.score(prepared.features, settings.finalists)
    arranged = arrange(bundle, snapshots, prepared, scores, catalogue, settings, posteriors)
    lists, versions = arranged.lists, arranged.posterior_versions
    rows = lists.rows(prepared.finalists)
    check_lists(
        rows,
        lists.counts,
        catalogue.allowed,
        prepared.history.bought_rows,
        prepared.states.bought_seconds,
        prepared.states.at_ms,
        settings.rebuy_after_ms,
    )
    slot_scores = lists.scores(scores.reshape(len(snapshots), -1))
    return RankedBatch(
        bundle,
        snapshots,
        catalogue.mark,
        0 if sessions is None else sessions.mark,
        sessions.weights_version if sessions is not None and bundle.items.settings.learnt_sessions else 0,
        versions,
        arranged.probabilities,
        prepared.states,
        prepared.history,
        lists.counts,
        rows,
        np.asarray(np.round(slot_scores.astype(np.float64), SCORE_DECIMALS), np.float64),
        lists.arms,
        np.maximum(np.round(lists.propensity, PROPENSITY_DECIMALS), LEAST_PROPENSITY),
        _rec_ids(arranged.seeds, bundle, catalogue.mark, rows, lists.counts, versions, arranged.policies),
        arranged.policies,
    )


def _rec_ids(
    seeds: Sequence[int],
    bundle: Bundle,
    mark: int,
    rows: NDArray[np.int32],
    counts: NDArray[np.int32],
    posterior_versions: NDArray[np.int64],
    policies: DrawnPolicies,
) -> list[str]:
    """Return the id of each list: the hash of seed, epoch, index mark, items, shared posterior and list policy."""
    hashes = bundle.items.columns.hashes[rows].tobytes()
    width = 8 * rows.shape[1]
    return [
        xxh3_128_hexdigest(
            _REC_ID.pack(seed, bundle.epoch, mark, count)
            + hashes[user * width : user * width + 8 * count]
            + (version.to_bytes(8, "little") if version else b"")
            + policies.name_of(user).encode()
        )
        for user, (seed, count, version) in enumerate(
            zip(seeds, counts.tolist(), posterior_versions.tolist(), strict=True)
        )
    ]
