"""The order in which a model puts a user's finalists, before diversity and exploration."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from udfs.model.bundle import Bundle
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.rank import RankSettings, SessionSource, prepare
from udfs.ranking.snapshot import Snapshot


def model_order(
    bundle: Bundle,
    snapshots: Sequence[Snapshot],
    catalogue: CatalogueView,
    settings: RankSettings,
    sessions: SessionSource | None = None,
) -> list[tuple[list[str], NDArray[np.float32]]]:
    """Return for each user item ids by descending score, and the scores.

    Parameters
    ----------
    bundle, snapshots, catalogue, settings, sessions
        As of `udfs.ranking.rank.rank_columns`.

    Raises
    ------
    StateError, NotFiniteScoreError
        As there.
    """
    bundle = catalogue.grown(bundle)
    found = prepare(bundle.items, snapshots, catalogue, settings, bundle.epoch, sessions)
    scores = bundle.ranker.score(found.features, settings.finalists).reshape(len(snapshots), -1)
    orders = []
    for user, count in enumerate(found.finalists.counts.tolist()):
        best = np.argsort(-scores[user, :count], kind="stable")
        rows = found.finalists.rows[user, best].tolist()
        orders.append(([bundle.items.item_ids[row] for row in rows], scores[user, best]))
    return orders
