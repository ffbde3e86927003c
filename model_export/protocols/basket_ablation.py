"""What each source and each group of features brings to first baskets, and how popular what is listed is.

Everything lies before the cut: the ranker learns on the stretch before the last one, and is measured on the last. A
source that is left out brings no candidates, has no weight in the first stage, and hides its columns from the ranker;
of a group of features only the columns are hidden. Differences are those of the same users' lists.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model_export import sources
from model_export.arrivals import Arrivals
from model_export.dataset import CandidateSet, ranking_examples
from model_export.interactions import interactions
from model_export.list_metrics import K, list_metrics
from model_export.moments import Moment
from model_export.popularity_balance import HEAD, raise_tail
from model_export.protocols.ablation_report import AblationReport, Variant
from model_export.ranker import fit_ranker, predict
from model_export.session_replay import SessionClicks
from model_export.sources.event_log import EventLog, midnight_ms
from model_export.stretches import stretch_edges
from model_export.train_settings import TrainSettings
from model_export.training_steps import ITEM_PHASES, Tell, TrainingSteps
from udfs.model.items import ItemArrays
from udfs.ranking.features import FEATURE_NAMES

WHOLE, WITHOUT_RANKER = "all of it", "without ranker"
PLACES = (0, 8, 16, 24, 28)
"""Finalists that are kept for items new to the user, each other number a variant; as `ModelSettings.reserve_new`."""
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


def ablate(
    name: str,
    path: Path,
    until: str,
    settings: TrainSettings,
    seed: int,
    tell: Tell | None = None,
    parts: Sequence[str] = (),
) -> AblationReport:
    """Train before the cut, once whole and once without each part.

    Parameters
    ----------
    name, path, until, settings, seed, tell
        As for `model_export.protocols.baskets.evaluate`; a sequential network in the settings is a source too.
    parts
        Only the variants whose names hold one of these; empty: all.

    Raises
    ------
    TrainingError, SourceError
        As for `model_export.train.train`.
    ValueError
        For a part that no variant has.
    """
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    chosen = variant_names(settings, parts)
    log, cut_ms = sources.read(path), midnight_ms(until)
    work = _Work(path, log.before(cut_ms), settings, seed, tell, cut_ms)
    whole = work.candidates(settings)
    variants = [work.variant(WHOLE, whole, ())]
    for source, starts in SOURCES.items():
        if f"without source {source}" in chosen:
            left = replace(settings.model, **{f"share_{source}": 0.0, f"weight_{source}": 0.0})
            hidden = tuple(one for one in FEATURE_NAMES if starts and one.startswith(starts))
            found = work.candidates(replace(settings, model=left))
            variants.append(work.variant(f"without source {source}", found, hidden))
    for places in PLACES:
        if _places_name(places) in chosen:
            found = work.candidates(replace(settings, model=replace(settings.model, reserve_new=places)))
            variants.append(work.variant(_places_name(places), found, ()))
    for group, names in feature_groups().items():
        if f"without features {group}" in chosen:
            variants.append(work.variant(f"without features {group}", whole, names))
    variants += [
        work.variant(_tail_name(grades), whole, (), grades)
        for grades in TAIL_GRADES
        if _tail_name(grades) in chosen
    ]
    if WITHOUT_RANKER in chosen:
        variants.append(work.variant(WITHOUT_RANKER, whole, None))
    return AblationReport(
        name,
        log.file_sha256,
        until,
        seed,
        tuple(variants),
        work.head_taken(whole[1]),
        time.perf_counter() - wall_s,
        time.process_time() - cpu_s,
        "baskets --ablation --part" if parts else "baskets --ablation",
    )


def variant_names(settings: TrainSettings, parts: Sequence[str] = ()) -> list[str]:
    """Return the names of the variants that leave something out, or only of those that hold one of `parts`.

    Raises
    ------
    ValueError
        For a part that no variant has.
    """
    names = [
        f"without source {source}" for source in SOURCES if getattr(settings.model, f"share_{source}") > 0.0
    ]
    names += [_places_name(places) for places in PLACES if places != settings.model.reserve_new]
    names += [f"without features {group}" for group in feature_groups()]
    names += [*map(_tail_name, TAIL_GRADES), WITHOUT_RANKER]
    for part in parts:
        if not any(part in name for name in names):
            raise ValueError(f"--part: wanted a word of {'; '.join(names)}; got {part!r}")
    return [name for name in names if not parts or any(part in name for part in parts)]


def _places_name(places: int) -> str:
    return f"places of finalists for items new to the user: {places}"


def _tail_name(grades: int) -> str:
    return f"taken beyond the popular: {grades} grade{'s' * (grades > 1)} more"


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
            (first, second, tests, _), clicks = self._steps.moments(log, self._edges, self._halves[1])
        self._moments: tuple[list[Moment], list[Moment]] = first, tests
        self._within = [moment for moment in second if moment.kind == "within"]
        self._clicks: SessionClicks = clicks
        self._came = [
            Arrivals.of(log.before(end), catalogues[number + 1], half.item_ids, self._edges[number])
            for number, (half, end) in enumerate(zip(self._halves, self._edges[1:], strict=False))
        ]

    def candidates(self, settings: TrainSettings) -> tuple[CandidateSet, CandidateSet, CandidateSet]:
        """Return candidates to learn from, and to measure on: first baskets, and moments within sessions."""
        self._steps.settings = settings
        with self._steps.phase("candidates"):
            learnt, tested = (
                self._steps.candidates(half, moments, self._clicks, came)
                for half, moments, came in zip(self._halves, self._moments, self._came, strict=True)
            )
            within = self._steps.candidates(self._halves[1], self._within, self._clicks, self._came[1])
        return learnt, tested, within

    def variant(
        self,
        name: str,
        found: tuple[CandidateSet, CandidateSet, CandidateSet],
        hidden: tuple[str, ...] | None,
        tail_grades: int = 0,
    ) -> Variant:
        """Learn without some features, measure; None: no ranker, the order of the first stage."""
        learnt, *measured = found
        if hidden is None:
            first_stage = FEATURE_NAMES.index("first_stage_score")
            scores = [np.ascontiguousarray(part.features[:, first_stage]) for part in measured]
        else:
            columns = [FEATURE_NAMES.index(one) for one in hidden]
            examples = raise_tail(ranking_examples(learnt), len(learnt.items), tail_grades)
            features = examples.features.copy()
            features[:, columns] = 0.0
            with self._steps.phase("measure"):
                ranker = fit_ranker(
                    replace(examples, features=features), self._steps.settings.ranker, self._steps.rng(1)
                )
            scores = [predict(ranker, part.features) for part in measured]
        tested, within = measured
        ranked, wanted, own = tested.ranking(scores[0]), _wanted(tested), self._own(tested)
        rest = zip(within.ranking(scores[1]), _wanted(within), strict=True)
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
            np.array([list_metrics(rows, items) for rows, items in rest if items]),
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
