"""The continual protocol on session clicks: learn the periods before t, predict every next click of period t.

In a test period clicks on items not seen in earlier periods are dropped, then sessions left with one click. For
every next click all known items are ranked. Metrics are means over the periods. Two settings: `periodic` learns
nothing inside the test period; `online` learns each click right after its prediction.

Source: Mi, Lin and Faltings, "ADER: adaptively distilled exemplar replay", RecSys 2020, section 4.1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model_export.protocols.rank_metrics import RankMetrics, ranks_in
from model_export.protocols.session_baselines import ItemNeighbours, Popularity, SequentialRules
from model_export.protocols.session_log import SessionLog
from model_export.protocols.session_models import (
    PLAIN_VMIS,
    LearntModel,
    NeighbourModel,
    PublishedModel,
    SessionModel,
)
from udfs.online.candidate_features import FEATURES
from udfs.online.item_embeddings import EMBEDDING_FEATURES
from udfs.online.item_lift import LIFT_FEATURES
from udfs.online.publisher import PublisherSettings
from udfs.online.session_learner import LearnerSettings
from udfs.online.session_ranker import SessionRankerSettings

SETTINGS = ("online", "periodic")
BATCH = 4096
"""Clicks a call; models learn click by click inside."""
ONLINE_CAUTION = (
    "Online figures predict each click and then learn it. Where a file holds no times of day, as DIGINETICA does "
    "not, a day's rows lie by the time since their session began, so a day's sessions run side by side: the gain "
    "over periodic says little about a real stream."
)
Tell = Callable[[str, float], None]


@dataclass(frozen=True)
class Outcome:
    """What one model reached in one setting.

    Parameters
    ----------
    model, setting
        Names.
    periods
        Period to its metrics.
    mean
        Over the periods.
    coverage
        Share of the items known at the end that were among the first `DEEPEST` of any list.
    predict_us
        CPU microseconds a prediction: search, features, scores and order, and the one click that the index learns
        between two answers. Of a model that does not tell its learning apart: learning too.
    learn_us
        CPU microseconds a click of the periods, predicted or not, of all other learning.
    cpu_us
        CPU microseconds a prediction of both: all that the periods cost.
    """

    model: str
    setting: str
    periods: dict[int, RankMetrics]
    mean: RankMetrics
    coverage: float
    predict_us: float
    learn_us: float
    cpu_us: float
    wall_s: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return self.mean.to_dict() | {
            "predictions": self.mean.predictions,
            "coverage": round(self.coverage, 5),
            "cpu_us_per_prediction": round(self.predict_us, 2),
            "cpu_us_per_click_learned": round(self.learn_us, 2),
            "cpu_us_per_prediction_and_learning": round(self.cpu_us, 2),
            "wall_s": round(self.wall_s, 1),
            "periods": {str(t): found.to_dict() for t, found in self.periods.items()},
        }


def ours(log: SessionLog, seed: int) -> SessionModel:
    """Return the model that serves, empty."""
    return LearntModel(len(log.item_ids), seed)


def baselines(log: SessionLog) -> dict[str, Callable[[], SessionModel]]:
    """Return how to make each baseline."""
    items = len(log.item_ids)
    return {
        "popularity": lambda: Popularity(items),
        "sequential rules": SequentialRules,
        "item-kNN per click": ItemNeighbours,
        "VMIS-kNN per click": lambda: NeighbourModel(PLAIN_VMIS, items),
    }


def published(
    log: SessionLog, seed: int, every_clicks: Sequence[int]
) -> dict[str, Callable[[], SessionModel]]:
    """Return how to make the model that serves as the rank workers have it: ordered by what was published last.

    Parameters
    ----------
    every_clicks
        Delays, in clicks from one version to the next. The last model also finds candidates as workers do, with their
        lighter scan, at the learn job's own delay.
    """
    items, job = len(log.item_ids), LearnerSettings()

    def maker(publisher: PublisherSettings, settings: SessionRankerSettings) -> Callable[[], SessionModel]:
        return lambda: PublishedModel(items, seed, publisher, settings)

    found = {
        f"published every {clicks:,} clicks": maker(
            job.publisher._replace(clicks=clicks), SessionRankerSettings()
        )
        for clicks in every_clicks
    }
    return found | {"published as in the job": maker(job.publisher, job.ranker)}


def networks(log: SessionLog, seed: int) -> dict[str, Callable[[], SessionModel]]:
    """Return how to make a sequential network, alone and beside the model that serves.

    Raises
    ------
    SequenceTrainingError
        When it is made without PyTorch.
    """
    from model_export.protocols.session_network import BlendedModel, NetworkModel

    items = len(log.item_ids)
    return {
        "network alone": lambda: NetworkModel(items, seed),
        "network beside tailrace": lambda: BlendedModel(items, seed),
    }


def ablation(log: SessionLog, seed: int) -> dict[str, Callable[[], SessionModel]]:
    """Return how to make the model that serves, each time without one of its parts."""
    items, whole = len(log.item_ids), SessionRankerSettings()
    item_features = ("log_now", "log_lately", "log_long", "log_age", "log_sessions", "trend")
    placed = ("is_", "recency_", "log_repeats")
    place_features = tuple(name for name in FEATURES if name.startswith(placed))
    parts = {
        "without item vectors": whole._replace(left_out=EMBEDDING_FEATURES),
        "without lift": whole._replace(left_out=LIFT_FEATURES),
        "without popularity and age": whole._replace(left_out=item_features),
        "without places in the session": whole._replace(left_out=place_features),
        "without hidden units": whole._replace(learning=whole.learning._replace(hidden=0)),
        "without second hop": whole._replace(scan=whole.scan._replace(hop_items=0)),
    }

    def maker(settings: SessionRankerSettings) -> Callable[[], SessionModel]:
        return lambda: LearntModel(items, seed, settings)

    found: dict[str, Callable[[], SessionModel]] = {name: maker(part) for name, part in parts.items()}
    found["without ranker"] = lambda: NeighbourModel(whole.scan, items, whole.limits)
    return found


def evaluate(
    name: str,
    make: Callable[[], SessionModel],
    log: SessionLog,
    setting: str,
    tested: range,
    tell: Tell | None = None,
) -> Outcome:
    """Play a log through one model.

    Parameters
    ----------
    name, make
        Of the model; it starts empty.
    log
        The clicks.
    setting
        One of `SETTINGS`.
    tested
        Periods to predict; those before are learnt.
    tell
        Called with a phase and the share that is done.

    Raises
    ------
    ValueError
        If the setting is unknown.
    """
    if setting not in SETTINGS:
        raise ValueError(f"setting: wanted one of {', '.join(SETTINGS)}, got {setting!r}")
    started_s, predict_s, learn_s = time.perf_counter(), 0.0, 0.0
    model = make()
    found: dict[int, RankMetrics] = {}
    shown = np.zeros(len(log.item_ids), np.bool_)
    total, done = int((log.periods < tested.stop).sum()), 0
    for period in range(int(log.periods.min()), tested.stop):
        known = log.known(period)
        lists: list[npt.NDArray[np.int32]] = []
        period_s, told_s, inside_s = time.process_time(), model.learning_s, 0.0
        if period in tested and setting == "periodic":
            began_s = time.process_time()
            lists = [model.predict(part, known) for part in log.clicks(period, BATCH, predicted_only=True)]
            inside_s += time.process_time() - began_s
        for part in log.clicks(period, BATCH):
            if period in tested and setting == "online":
                began_s = time.process_time()
                lists.append(model.predict_and_learn(part, known))
                inside_s += time.process_time() - began_s
            else:
                model.learn(part)
            done += len(part.items)
            if tell is not None:
                tell(f"{name}, {setting}", done / total)
        model.end_period()
        if period in tested:
            period_s = time.process_time() - period_s
            period_predict_s = inside_s - (model.learning_s - told_s)
            predict_s, learn_s = predict_s + period_predict_s, learn_s + period_s - period_predict_s
            rows = np.concatenate(lists)
            items, sessions = log.predicted(period)
            found[period] = RankMetrics.of(ranks_in(rows, items), sessions)
            shown[rows[rows >= 0]] = True
    mean = RankMetrics.mean_of(list(found.values()))
    clicks = int(np.isin(log.periods, list(tested)).sum())
    return Outcome(
        name,
        setting,
        found,
        mean,
        coverage=float(shown.sum() / max(log.known(tested.stop - 1).sum(), 1)),
        predict_us=predict_s / max(mean.predictions, 1) * 1e6,
        learn_us=learn_s / max(clicks, 1) * 1e6,
        cpu_us=(predict_s + learn_s) / max(mean.predictions, 1) * 1e6,
        wall_s=time.perf_counter() - started_s,
    )
