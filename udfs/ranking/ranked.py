"""What ranking gives: the lists of a batch as arrays, and one user's list as a record."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.records import ListShare, ServedItem
from udfs.model.bundle import Bundle
from udfs.ranking.history import History
from udfs.ranking.list_policies import DrawnPolicies
from udfs.ranking.snapshot import Snapshot, StateColumns
from udfs.user_state import SLOT_SOURCES


class Ranked(NamedTuple):
    """One user's list, all of a `ServedList` that ranking decides.

    `items` stand in the order of their slots; their scores are the ranker's and need not descend, because
    diversity and exploration reorder.
    """

    rec_id: str
    tenant: str
    user_id: str
    version: str
    at_ms: int
    epoch: int
    model_version: str
    index_mark: int
    items: list[ServedItem]
    session_mark: int
    weights_version: int
    posterior_version: int
    source_probabilities: tuple[float, ...]
    list_policy: str
    list_shares: tuple[ListShare, ...]


class RankedBatch(NamedTuple):
    """The lists of U users with at most L slots, as arrays: what is behind `counts` in a row says nothing.

    `rows` are rows of the bundle's items, `arms` index `udfs.user_state.SLOT_SOURCES`; scores and propensities are
    rounded to what is logged and stored. `states` and `history` are what the lists were made from.
    """

    bundle: Bundle
    snapshots: Sequence[Snapshot]
    mark: int
    session_mark: int
    weights_version: int
    posterior_versions: NDArray[np.int64]  # (U,); 0: none
    source_probabilities: NDArray[np.float64]  # (U, 5), at every slot
    states: StateColumns
    history: History
    counts: NDArray[np.int32]  # (U,)
    rows: NDArray[np.int32]  # (U, L)
    scores: NDArray[np.float64]
    arms: NDArray[np.int32]
    propensity: NDArray[np.float64]
    rec_ids: list[str]
    policies: DrawnPolicies

    def list_of(self, user: int) -> Ranked:
        """Return one user's list as a record."""
        bundle, snapshot, count = self.bundle, self.snapshots[user], self.counts[user]
        items = [
            ServedItem(bundle.items.item_ids[row], score, SLOT_SOURCES[arm], propensity)
            for row, score, arm, propensity in zip(
                self.rows[user, :count].tolist(),
                self.scores[user, :count].tolist(),
                self.arms[user, :count].tolist(),
                self.propensity[user, :count].tolist(),
                strict=True,
            )
        ]
        return Ranked(
            self.rec_ids[user],
            snapshot.tenant,
            snapshot.user_id,
            snapshot.version,
            snapshot.at_ms,
            bundle.epoch,
            bundle.model_version,
            self.mark,
            items,
            self.session_mark,
            self.weights_version,
            int(self.posterior_versions[user]),
            tuple(self.source_probabilities[user].tolist()),
            self.policies.name_of(user),
            tuple(map(ListShare, self.policies.names, self.policies.probabilities[user].tolist())),
        )

    def lists(self) -> list[Ranked]:
        """Return every user's list as a record."""
        return [self.list_of(user) for user in range(len(self.snapshots))]
