"""What the ranker learns from: the candidates and features that the rank UDF would compute at each moment.

There is no second definition of a feature. A moment's state is encoded as a job writes it, and runs through
`udfs.ranking.rank.prepare`, which the UDF calls too. A test compares both bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_export.arrivals import Arrivals
from model_export.interactions import ItemRows
from model_export.moments import Moment
from model_export.ranker import RankingExamples
from model_export.session_replay import SessionClicks
from udfs.item_factors import ItemFactors
from udfs.ranking.features import N_FEATURES
from udfs.ranking.item_index import ItemIndex
from udfs.ranking.rank import RankSettings, prepare
from udfs.ranking.snapshot import Snapshot
from udfs.user_vector import refresh_embedding

BATCH = 500  # moments at a time: bounds the memory of candidates, and tells progress


@dataclass(frozen=True)
class CandidateSet:
    """The finalists of m moments, K each.

    Parameters
    ----------
    items
        The items of the epoch, n of them, and behind them those that came later.
    moments
        m.
    count
        int32 (m,): finalists of each moment.
    rows
        int32 (m, K): their item rows.
    features
        float32 (m * K, F); rows behind a moment's count are 0.
    retrieved
        float64 (m,): share of what was taken that was among the candidates of all sources; nan if none of
        it is an item of the epoch.
    clicks
        Of everybody: what the session source was made from.
    """

    items: ItemRows
    moments: Sequence[Moment]
    count: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int32]
    features: npt.NDArray[np.float32]
    retrieved: npt.NDArray[np.float64]
    clicks: SessionClicks

    @property
    def finalists(self) -> int:
        """K."""
        return int(self.rows.shape[1])

    def taken_rows(self) -> list[dict[int, int]]:
        """Return for each moment item row to grade; items that the epoch does not know are left out."""
        row_of = {name: row for row, name in enumerate(self.items.ids)}
        return [
            {row_of[name]: grade for name, grade in moment.taken.items() if name in row_of}
            for moment in self.moments
        ]

    def ranking(self, scores: npt.NDArray[np.float32]) -> list[list[int]]:
        """Return for each moment the rows of its finalists by descending score, float32 (m * K,)."""
        by_moment = scores.reshape(self.rows.shape)
        return [
            self.rows[number][np.argsort(-by_moment[number, :count], kind="stable")].tolist()
            for number, count in enumerate(self.count.tolist())
        ]

    def recall(self) -> dict[str, float | None]:
        """Return which share of what was taken is among all candidates, and among the finalists."""
        shares = [
            len(taken.keys() & set(self.rows[number, :count].tolist())) / len(taken)
            for number, (taken, count) in enumerate(zip(self.taken_rows(), self.count.tolist(), strict=True))
            if taken
        ]
        if not shares:
            return {"candidates": None, "finalists": None}
        return {
            "candidates": round(float(np.nanmean(self.retrieved)), 4),
            "finalists": round(float(np.mean(shares)), 4),
        }


def snapshots(moments: Sequence[Moment], factors: ItemFactors, epoch: int) -> list[Snapshot]:
    """Return the moments as a job hands them to the rank UDF: vectors under the epoch, states as bytes."""
    return [
        Snapshot(
            moment.key,
            moment.tenant,
            moment.user_id,
            "",
            moment.at_ms,
            epoch,
            b"" if moment.state is None else refresh_embedding(moment.state, factors, epoch).encode(),
        )
        for moment in moments
    ]


def candidate_set(
    index: ItemIndex,
    moments: Sequence[Moment],
    clicks: SessionClicks,
    settings: RankSettings,
    epoch: int,
    tell: Callable[[int], None] | None = None,
    arrivals: Arrivals | None = None,
) -> CandidateSet:
    """Compute finalists and features of moments.

    Parameters
    ----------
    index
        The items of the epoch.
    moments
        m of them, in time order.
    clicks
        Of everybody; each moment knows those before it.
    settings
        How the workers rank.
    epoch
        The number that the states' vectors are tagged with.
    tell
        Called after every batch with the number of moments done.
    arrivals
        Items that the epoch does not know, of which each moment knows those that came before it; None: nothing came.
    """
    came = arrivals or Arrivals.none()
    view = came.view(index)
    index = view.index
    items = ItemRows(tuple(index.item_ids), np.asarray(index.columns.hashes))
    row_of = {name: row for row, name in enumerate(items.ids)}
    sessions = clicks.replay()
    kept = settings.finalists
    count = np.zeros(len(moments), np.int32)
    rows = np.zeros((len(moments), kept), np.int32)
    features = np.zeros((len(moments) * kept, N_FEATURES), np.float32)
    retrieved = np.full(len(moments), np.nan)
    known, late = came.known_at(moments), came.rows_in(view)
    may = view.allowed[late].copy()
    for start, stop in _batches(known):
        batch = moments[start:stop]
        view.allowed[late] = may & came.standing(known[start])[: len(late)]
        shots = snapshots(batch, index.factors, epoch)
        prepared = prepare(index, shots, view, settings, epoch, sessions)
        found = prepared.candidates
        count[start:stop], rows[start:stop] = prepared.finalists.counts, prepared.finalists.rows
        features[start * kept : stop * kept] = prepared.features
        for at, moment in enumerate(batch):
            taken = {row_of[name] for name in moment.taken if name in row_of}
            if taken:
                candidates = set(found.rows[at, : found.counts[at]].tolist())
                retrieved[start + at] = len(taken & candidates) / len(taken)
        if tell is not None:
            tell(stop)
    return CandidateSet(items, moments, count, rows, features, retrieved, clicks)


def _batches(known: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield where batches of at most `BATCH` moments that know the same begin and end."""
    start = 0
    for edge in [*(np.flatnonzero(np.diff(known)) + 1).tolist(), len(known)]:
        while start < edge:
            stop = min(start + BATCH, edge)
            yield start, stop
            start = stop


def ranking_examples(found: CandidateSet) -> RankingExamples:
    """Return the finalists as groups: a candidate's label is the grade of what the session did with it."""
    labels = np.zeros(found.rows.shape, np.int32)
    for number, (taken, count) in enumerate(zip(found.taken_rows(), found.count.tolist(), strict=True)):
        labels[number, :count] = [taken.get(row, 0) for row in found.rows[number, :count].tolist()]
    real = np.arange(found.finalists)[None, :] < found.count[:, None]
    return RankingExamples(found.features[real.ravel()], labels[real], found.count.astype(np.int64))
