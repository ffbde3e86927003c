"""A ranking of nobody: it compiles every kernel that lists need, or loads it, before a user waits for one."""

from __future__ import annotations

from collections.abc import Callable

from flink_jobs.list_columns import BundleTexts, encode_entries, encode_served
from udfs.model.bundle import Bundle
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.live_sessions import one_session
from udfs.ranking.rank import rank_columns
from udfs.ranking.rank_settings import RankSettings
from udfs.ranking.snapshot import Snapshot

_NOBODY = Snapshot("default/", "default", "", "0" * 32, 0, 0, b"")


def rank_nobody(
    bundle: Bundle,
    catalogue: CatalogueView,
    settings: RankSettings,
    texts: Callable[[Bundle], BundleTexts] = BundleTexts.of,
) -> None:
    """Rank one unknown user and encode the list, for nobody to see.

    Parameters
    ----------
    bundle, catalogue, settings
        As for users.
    texts
        Gives those of the bundle, grown by what the catalogue's view brought.

    Raises
    ------
    NotFiniteScoreError
        When the bundle's scores are no numbers.
    """
    nobody = _NOBODY._replace(epoch=bundle.epoch)
    batch = rank_columns(bundle, [nobody], catalogue, settings, one_session(bundle.items))
    made = texts(batch.bundle)
    encode_entries(batch, made, "nobody", 0, hash_tags=True)
    encode_served(batch, made, "nobody", 0)
