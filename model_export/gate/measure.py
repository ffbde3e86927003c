"""Figures of a bundle on sessions that it has not learnt from, by the code that training measures with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_export.baselines import Baselines
from model_export.dataset import candidate_set, snapshots
from model_export.evaluation import served_names
from model_export.gate.calibration import calibration_error
from model_export.gate.replayed_value import ReplayedValue, replayed_value
from model_export.interactions import interactions
from model_export.item_side import item_rows
from model_export.list_metrics import list_metrics, top_rows
from model_export.moments import Moment, MomentSettings, collect_moments
from model_export.session_replay import SessionClicks
from model_export.sources.event_log import EventLog
from schemas.records import Example
from udfs.item_factors import ItemFactors
from udfs.model.bundle import Bundle
from udfs.model.gate import Figures
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.onnx_ranker import NotFiniteScoreError
from udfs.ranking.rank import RankSettings, rank_columns
from udfs.user_logic import LogicSettings

TIMED_USERS = 200
TIMED_RUNS = 5
Tell = Callable[[float], None]


@dataclass(frozen=True)
class LaterSessions:
    """The first session of each user after a time, and what everybody did up to it.

    Parameters
    ----------
    moments
        m, in time order.
    wanted
        m sets of item ids: what each session was about.
    clicks
        Of everybody's sessions.
    popular
        The ten most popular items before.
    """

    moments: Sequence[Moment]
    wanted: Sequence[frozenset[str]]
    clicks: SessionClicks
    popular: Sequence[str]

    def ndcg(self, lists: Sequence[Sequence[str]]) -> npt.NDArray[np.float64]:
        """Return NDCG@10 of each list, float64 (m,)."""
        pairs = zip(lists, self.wanted, strict=True)
        return np.array([list_metrics(shown, wanted)[3] for shown, wanted in pairs])

    def popular_ndcg(self) -> float:
        """Return NDCG@10 of the most popular items, shown to everybody."""
        return _mean(self.ndcg([self.popular] * len(self.moments)))


def later_sessions(
    log: EventLog,
    since_ms: int,
    factors: ItemFactors,
    logic: LogicSettings,
    most: int,
    rng: np.random.Generator,
    tell: Tell = lambda share: None,
) -> LaterSessions:
    """Replay a log and take the first session of each returning user at or after a time.

    Parameters
    ----------
    log
        Events, those before the time too: they make the states.
    since_ms
        What neither bundle has learnt from.
    factors
        What tells the categories of items while the log runs.
    logic
        The job's.
    most
        Sessions at most, drawn by `rng`.
    """
    chosen = MomentSettings(sessions=most, within=False, first_only=True, forgotten=True)
    behind = max(int(log.times_ms[-1]) + 1, since_ms) if len(log) else since_ms
    (moments,), clicks = collect_moments(
        log,
        [(since_ms, behind)],
        [chosen],
        factors,
        logic,
        rng,
        lambda row: tell(row / len(log)),
    )
    before = log.before(since_ms)
    rows = item_rows(before, [])
    popular = top_rows(Baselines.fit(interactions(before, rows), since_ms).popular) if len(rows) else []
    wanted = [frozenset(moment.taken) for moment in moments]
    return LaterSessions(moments, wanted, clicks, [rows.ids[row] for row in popular])


def measure(
    bundle: Bundle,
    later: LaterSessions,
    settings: RankSettings,
    examples: Sequence[Example],
    seed: int,
) -> tuple[Figures, npt.NDArray[np.float64]]:
    """Measure a bundle, and return NDCG@10 of each session too, float64 (m,).

    Parameters
    ----------
    bundle
        Opened, so verified.
    later
        At least one session.
    settings
        The deployment's.
    examples
        Of the product, as `replayed_value.readable` gives them; none: there are none.
    seed
        Of the intervals.
    """
    size_bytes = sum(file.size_bytes for file in bundle.manifest.files.values())
    canary = np.load(bundle.path / "canary_features.npy", allow_pickle=False)
    wanted = np.load(bundle.path / "canary_scores.npy", allow_pickle=False)
    try:
        got = bundle.ranker.score(np.ascontiguousarray(canary), len(canary))
        found = candidate_set(bundle.items, later.moments, later.clicks, settings, bundle.epoch)
        scores = bundle.ranker.score(found.features, found.finalists)
        lists = served_names(bundle, later.moments, later.clicks, settings)
        value = replayed_value(bundle, examples, settings, np.random.default_rng(seed)) if examples else None
    except NotFiniteScoreError as error:
        nan = float("nan")
        none = Figures(len(later.moments), nan, nan, 0, nan, nan, size_bytes, nan, str(error))
        return none, np.full(len(later.moments), np.nan)
    ndcg = later.ndcg(lists)
    names, half = found.items.ids, len(later.moments) // 2
    real = np.arange(found.finalists)[None, :] < found.count[:, None]
    taken = np.zeros(found.rows.shape, np.bool_)
    for number, items in enumerate(later.wanted):
        rows = found.rows[number, : found.count[number]].tolist()
        taken[number, : len(rows)] = [names[row] in items for row in rows]
    late = np.repeat((np.arange(len(later.moments)) >= half)[:, None], found.finalists, axis=1)
    hits = [bool(items & set(shown)) for items, shown in zip(later.wanted, lists, strict=True)]
    figures = Figures(
        len(later.moments),
        _mean(ndcg),
        _mean(np.array(hits, np.float64)),
        len({item for shown in lists for item in shown}),
        calibration_error(scores.reshape(found.rows.shape)[real], taken[real], late[real]),
        cpu_us_a_user(bundle, later, settings),
        size_bytes,
        float(np.abs(got.astype(np.float64) - wanted).max()),
    )
    return _with_value(figures, value), ndcg


def cpu_us_a_user(bundle: Bundle, later: LaterSessions, settings: RankSettings) -> float:
    """Return CPU microseconds to rank one user, in the fastest of several runs: other work only ever adds."""
    batch = snapshots(later.moments[:TIMED_USERS], bundle.items.factors, bundle.epoch)
    view, best = CatalogueView(bundle), float("inf")
    for _ in range(TIMED_RUNS):
        began = time.process_time()
        rank_columns(bundle, batch, view, settings)
        best = min(best, time.process_time() - began)
    return 1e6 * best / len(batch)


def _with_value(figures: Figures, found: ReplayedValue | None) -> Figures:
    if found is None:
        return figures
    if not found.tells:
        return figures._replace(value_note=f"too little: {found.note}")
    return figures._replace(value=found.reward.value, value_error=found.reward.error, value_note=found.note)


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else float("nan")
