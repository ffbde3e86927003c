"""What each source and each group of features brings to first baskets, and how popular what is listed is.

Everything lies before the cut: the ranker learns on the stretch before the last one, and is measured on the last. A
source that is left out brings no candidates, has no weight in the first stage, and hides its columns from the ranker;
of a group of features only the columns are hidden. Differences are those of the same users' lists.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model_export import sources
from model_export.arrivals import Arrivals
from model_export.dataset import CandidateSet, ranking_examples
from model_export.interactions import interactions
from model_export.list_metrics import K, list_metrics
from model_export.moments import Moment
from model_export.popularity_balance import HEAD, raise_tail
from model_export.ranker import fit_ranker, predict
from model_export.session_replay import SessionClicks
from model_export.sources.event_log import EventLog, midnight_ms
from model_export.stretches import stretch_edges
from model_export.train_settings import TrainSettings
from model_export.training_steps import ITEM_PHASES, Tell, TrainingSteps
from udfs.model.items import ItemArrays
from udfs.ranking.features import FEATURE_NAMES

WHOLE = "all of it"
SOURCES: Mapping[str, tuple[str, ...]] = {
    "embedding": ("embedding_",),
    "neighbours": ("neighbour_",),
    "repeat": ("repeat_score", "repeat_rank"),
    "sessions": ("session_score", "session_rank"),
    "trending": (),
    "content": ("content_",),
    "sequence": ("sequence_",),
    "rules": ("rule_",),
}
"""Source to the beginnings of its features' names; the catalogue's most popular items fill up and stay."""
_FIRST = {
    "of sources": "embedding_score",
    "of the item": "popularity",
    "of user and item": "price_relative",
    "of the category": "category_interest",
    "of the user": "session_events",
    "of the moment": "hour",
}

TAIL_GRADES = (1, 2)
"""What taken items beyond the popular count more, in two more variants; as `RankerSettings.tail_grades`."""


def feature_groups() -> dict[str, tuple[str, ...]]:
    """Return group to features; every feature is in one of them."""
    edges = [FEATURE_NAMES.index(name) for name in _FIRST.values()] + [len(FEATURE_NAMES)]
    return {group: FEATURE_NAMES[edges[at] : edges[at + 1]] for at, group in enumerate(_FIRST)}


@dataclass(frozen=True)
class Variant:
    """What one variant reached.

    Parameters
    ----------
    name
        Of what is left out.
    per_list
        float64 (u, 4): precision, recall, hit and NDCG of each user's first ten, the same users in each variant.
    new
        float64 (w, 4): the same of items new to the user, for those who took some.
    head
        Share of what was listed that is popular.
    candidate_recall
        Share of what was taken that was among the candidates.
    """

    name: str
    per_list: npt.NDArray[np.float64]
    new: npt.NDArray[np.float64]
    head: float
    candidate_recall: float


@dataclass(frozen=True)
class AblationReport:
    """Variants of one data set."""

    data: str
    sha256: str
    until: str
    seed: int
    variants: tuple[Variant, ...]
    head_taken: float
    wall_s: float
    cpu_s: float
    protocol: str = "baskets --ablation"

    def title(self) -> str:
        """Return the section's heading."""
        return "Purchases: what each source and group of features brings"

    def intro(self) -> str:
        """Return what is predicted from what."""
        return (
            "First baskets of the stretch before the cut, as predicted by what was learnt before it. Without a "
            "source: no candidates, no weight, no features of it. Without features: the ranker does not see them. "
            "Without ranker: the order of the first stage. Popular: share of the first ten among the "
            f"{HEAD:.0%} of items with the most interactions."
        )

    def tables(self) -> Mapping[str, Sequence[Sequence[str]]]:
        """Return one table."""
        head = ["variant", "P@10", "NDCG@10", "difference", "NDCG@10 of new", "difference", "candidates"]
        head.append("popular")
        whole = self.variants[0]
        rows = [
            [
                found.name,
                _mean(found.per_list[:, 0]),
                _mean(found.per_list[:, 3]),
                "" if found is whole else _mean(found.per_list[:, 3] - whole.per_list[:, 3], sign=True),
                _mean(found.new[:, 3]),
                "" if found is whole else _mean(found.new[:, 3] - whole.new[:, 3], sign=True),
                f"{found.candidate_recall:.3f}",
                f"{found.head:.3f}",
            ]
            for found in self.variants
        ]
        return {f"{self.data}, before {self.until}": [head, *rows]}

    def remarks(self) -> Sequence[str]:
        """Return what is to be said with the figures."""
        return [
            f"{len(self.variants[0].per_list):,} baskets, {len(self.variants[0].new):,} of them with new items. "
            "Means ± standard errors; differences from all of it, of the same users. Candidates: share of what was "
            f"taken that is among them. Of what was taken, {self.head_taken:.3f} is popular: lists that hold more of "
            "it lean to what is popular. The treatment is to let what was taken beyond the popular count more when "
            "the ranker learns (`tailrace train --tail-grades`, 0 by default).",
            "No list led to these purchases, so there is no position that could mislead the ranker. Where lists did, "
            "positions and exact propensities are logged, and values are weighted by them (`tailrace eval policy`, "
            "`tailrace models gate`).",
            f"Seed {self.seed}. SHA-256 {self.sha256}; {self.wall_s:.0f} s, {self.cpu_s:.0f} CPU-s.",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: variant to figures."""
        found = {
            one.name: {
                "precision": round(float(one.per_list[:, 0].mean()), 5),
                "ndcg": round(float(one.per_list[:, 3].mean()), 5),
                "new_items_ndcg": round(float(one.new[:, 3].mean()), 5),
                "candidate_recall": round(one.candidate_recall, 5),
                "popular": round(one.head, 5),
            }
            for one in self.variants
        }
        return {
            "protocol": self.protocol,
            "data": self.data,
            "data_sha256": self.sha256,
            "until": self.until,
            "seed": self.seed,
            "popular_taken": round(self.head_taken, 5),
            "variants": found,
            "wall_s": round(self.wall_s, 1),
            "cpu_s": round(self.cpu_s, 1),
        }


def ablate(
    name: str, path: Path, until: str, settings: TrainSettings, seed: int, tell: Tell | None = None
) -> AblationReport:
    """Train before the cut, once whole and once without each part.

    Parameters
    ----------
    name, path, until, settings, seed, tell
        As for `model_export.protocols.baskets.evaluate`; a sequential network in the settings is a source too.

    Raises
    ------
    TrainingError, SourceError
        As for `model_export.train.train`.
    """
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    log, cut_ms = sources.read(path), midnight_ms(until)
    work = _Work(path, log.before(cut_ms), settings, seed, tell, cut_ms)
    whole = work.candidates(settings)
    variants = [work.variant(WHOLE, whole, ())]
    for source, starts in SOURCES.items():
        if getattr(settings.model, f"share_{source}") > 0.0:
            left = replace(settings.model, **{f"share_{source}": 0.0, f"weight_{source}": 0.0})
            hidden = tuple(one for one in FEATURE_NAMES if starts and one.startswith(starts))
            found = work.candidates(replace(settings, model=left))
            variants.append(work.variant(f"without source {source}", found, hidden))
    for group, names in feature_groups().items():
        variants.append(work.variant(f"without features {group}", whole, names))
    for grades in TAIL_GRADES:
        name_of = f"taken beyond the popular: {grades} grade{'s' * (grades > 1)} more"
        variants.append(work.variant(name_of, whole, (), grades))
    variants.append(work.variant("without ranker", whole, None))
    return AblationReport(
        name,
        log.file_sha256,
        until,
        seed,
        tuple(variants),
        work.head_taken(whole[1]),
        time.perf_counter() - wall_s,
        time.process_time() - cpu_s,
    )


class _Work:
    """What all variants share: items, moments, what is popular and what users had."""

    def __init__(
        self, path: Path, log: EventLog, settings: TrainSettings, seed: int, tell: Tell | None, cut_ms: int
    ) -> None:
        self._steps = TrainingSteps(settings, 1, seed, tell, None)
        self._log, self._edges = log, stretch_edges(settings, log, cut_ms)
        catalogues = [sources.catalogue(path, edge) for edge in self._edges]
        steps = zip(ITEM_PHASES[:2], catalogues, self._edges, strict=False)
        self._halves: list[ItemArrays] = [
            self._steps.items(phase, number, log, catalogue, edge)
            for number, (phase, catalogue, edge) in enumerate(steps)
        ]
        with self._steps.phase("replay"):
            (first, _, tests, _), clicks = self._steps.moments(log, self._edges, self._halves[1])
        self._moments: tuple[list[Moment], list[Moment]] = first, tests
        self._clicks: SessionClicks = clicks
        self._came = [
            Arrivals.of(log.before(end), catalogues[number + 1], half.item_ids, self._edges[number])
            for number, (half, end) in enumerate(zip(self._halves, self._edges[1:], strict=False))
        ]

    def candidates(self, settings: TrainSettings) -> tuple[CandidateSet, CandidateSet]:
        """Return candidates to learn from and to measure on."""
        self._steps.settings = settings
        with self._steps.phase("candidates"):
            learnt, tested = (
                self._steps.candidates(half, moments, self._clicks, came)
                for half, moments, came in zip(self._halves, self._moments, self._came, strict=True)
            )
        return learnt, tested

    def variant(
        self,
        name: str,
        found: tuple[CandidateSet, CandidateSet],
        hidden: tuple[str, ...] | None,
        tail_grades: int = 0,
    ) -> Variant:
        """Learn without some features, measure; None: no ranker, the order of the first stage."""
        learnt, tested = found
        if hidden is None:
            scores = np.ascontiguousarray(tested.features[:, FEATURE_NAMES.index("first_stage_score")])
        else:
            columns = [FEATURE_NAMES.index(one) for one in hidden]
            examples = raise_tail(ranking_examples(learnt), len(learnt.items), tail_grades)
            features = examples.features.copy()
            features[:, columns] = 0.0
            with self._steps.phase("measure"):
                ranker = fit_ranker(
                    replace(examples, features=features), self._steps.settings.ranker, self._steps.rng(1)
                )
            scores = predict(ranker, tested.features)
        ranked, wanted, own = tested.ranking(scores), _wanted(tested), self._own(tested)
        popular = self._popular(tested)
        per_list = [list_metrics(rows, items) for rows, items in zip(ranked, wanted, strict=True) if items]
        new = [
            list_metrics([row for row in rows if row not in had], items - had)
            for rows, items, had in zip(ranked, wanted, own, strict=True)
            if items - had
        ]
        listed = np.array([row for rows in ranked for row in rows[:K]], np.int64)
        recall = tested.recall()["candidates"]
        return Variant(
            name,
            np.array(per_list),
            np.array(new),
            float(popular[listed].mean()),
            float("nan") if recall is None else recall,
        )

    def head_taken(self, tested: CandidateSet) -> float:
        """Return the share of what was taken that is popular."""
        popular = self._popular(tested)
        return float(np.mean([popular[row] for items in _wanted(tested) for row in items]))

    def _popular(self, tested: CandidateSet) -> npt.NDArray[np.bool_]:
        """Return bool (n,): the tenth of the items with the most interactions before the measured stretch."""
        data = interactions(self._log.before(self._edges[1]), tested.items)
        counts = np.bincount(data.items, minlength=len(tested.items))
        popular = np.zeros(len(counts), np.bool_)
        popular[np.argsort(-counts, kind="stable")[: max(int(HEAD * (counts > 0).sum()), 1)]] = True
        return popular

    def _own(self, tested: CandidateSet) -> list[frozenset[int]]:
        """Return what each moment's user had before."""
        before = self._log.before(self._edges[1])
        rows = tested.items.rows_of(before.columns["item_id"])
        had: dict[tuple[str, str], set[int]] = {}
        for key, row in zip(
            zip(before.columns["tenant"], before.columns["user_id"], strict=True), rows.tolist(), strict=True
        ):
            had.setdefault(key, set()).add(row)
        return [frozenset(had.get((one.tenant, one.user_id), ())) for one in tested.moments]


def _wanted(found: CandidateSet) -> list[frozenset[int]]:
    return [frozenset(taken) for taken in found.taken_rows()]


def _mean(values: npt.NDArray[np.float64], *, sign: bool = False) -> str:
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{values.mean():+.4f} ± {error:.4f}" if sign else f"{values.mean():.4f} ± {error:.4f}"
