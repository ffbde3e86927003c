"""From a file of events to a bundle that serves.

Three times stand on the line of history: T1, T2 and the cut, a stretch apart. The ranker learns on T1..T2
from items learnt before T1, and is measured on T2..cut with items learnt before T2: at no point does it see
what came after. Then the ranker that ships learns on both stretches, and the items that ship are learnt on
everything before the cut. What lies behind the cut in the file is never learnt from; if there is any, the
shipped bundle is measured on it once, by the protocol of the published figures.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xgboost

from model_export import sources
from model_export.arrivals import Arrivals
from model_export.content import fit_content
from model_export.dataset import CandidateSet, candidate_set, ranking_examples
from model_export.evaluation import evaluate_openings, evaluate_served, evaluate_within
from model_export.interactions import DAY_MS, interactions
from model_export.item_side import fit_items, item_rows
from model_export.moments import Moment, MomentSettings, collect_moments
from model_export.onnx_export import Export, export_ranker
from model_export.ranker import RankingExamples, fit_ranker, importances, predict
from model_export.sequence_training import FittedSequence, fit_sequence
from model_export.session_replay import SessionClicks
from model_export.sources.event_log import EventLog, midnight_ms
from model_export.train_settings import TrainReport, TrainSettings
from schemas.records import Item
from udfs.federate.pair_table import PairTable
from udfs.model.bundle import Bundle
from udfs.model.bundle_writer import write_bundle
from udfs.model.items import ItemArrays
from udfs.model.manifest import ModelSettings
from udfs.ranking.content_table import ItemContent
from udfs.ranking.device_table import DeviceTable, device_table
from udfs.ranking.features import FEATURE_NAMES
from udfs.ranking.inverted_lists import InvertedLists, build_ivf, measure_recall
from udfs.ranking.item_index import EXACT_UP_TO_ITEMS, ItemIndex

ITEM_PHASES = ("items at T1", "items at T2", "items at the cut")
PHASES = ("read", *ITEM_PHASES, "replay", "candidates", "measure", "ranker", "export", "after the cut")
CANARY_ROWS = 256
LEAST_GROUPS = 20
LEAST_RECALL = 0.95  # of the true best items by inner product, where inverted lists are searched
Tell = Callable[[str, float], None]
"""Called with a phase of `PHASES` and the share of it that is done, in [0, 1]."""
Judge = Callable[[EventLog, int, CandidateSet, npt.NDArray[np.float32], Bundle], None]
"""Called with log, cut, the sessions behind it with their candidates and scores, and the bundle that ships."""


class TrainingError(ValueError):
    """Data that no model can be trained on; the text says what is missing and what to do."""


def train(
    settings: TrainSettings,
    data: Path | str,
    until: date | str,
    epoch: int,
    *,
    root: Path,
    seed: int = 0,
    created_ms: int | None = None,
    tell: Tell | None = None,
    judge: Judge | None = None,
    federated: PairTable | None = None,
    window_days: float | None = None,
) -> TrainReport:
    """Train a bundle and write it to ``<root>/<epoch>``.

    Equal data, cut, settings and seed give equal files; `created_ms` alone enters the manifest from outside.

    Parameters
    ----------
    settings
        How.
    data
        A file that `model_export.sources` reads.
    until
        Nothing at or after this day (midnight UTC) is learnt from.
    epoch
        Number of the bundle.
    root
        The folder of all bundles.
    seed
        Of all random numbers.
    created_ms
        When, milliseconds since 1970; None: the cut.
    tell
        Called as work goes on.
    judge
        Called once if the file goes on behind the cut: for measures that the report does not have.
    federated
        What devices have learnt: a source of its own, in every stage of the training. The measures before the cut are
        clean only if its newest contribution lies before T1; the manifest says whether it does.
    window_days
        Events older than so many days before the cut are not read, for states neither; None: all are.

    Raises
    ------
    TrainingError
        When the data before the cut are too few.
    FileExistsError
        When the epoch exists.
    """
    target = root / str(epoch)
    if target.exists():
        raise FileExistsError(f"{target} exists; an epoch is written once, take the next number")
    work = _Training(settings if federated is None else settings.with_devices(), epoch, seed, tell, federated)
    with work.phase("read"):
        log = sources.read(data)
        cut_ms = midnight_ms(until)
        if window_days is not None:
            log = log.part(log.position(cut_ms - int(window_days * DAY_MS)))
        edges = _edges(settings, log, cut_ms)
        catalogues = [sources.catalogue(data, edge) for edge in edges]
    halves = [
        work.items(name, number, log, catalogues[number], edges[number])
        for number, name in enumerate(ITEM_PHASES)
    ]
    with work.phase("replay"):
        (first, second, tests, later), clicks = work.moments(log, edges, halves[-1])
    with work.phase("candidates"):
        came = [
            Arrivals.of(log.before(end), catalogues[number + 1], half.item_ids, edges[number])
            for number, (half, end) in enumerate(zip(halves, edges[1:], strict=False))
        ]
        learnt = [
            work.candidates(halves[number], moments, clicks, came[number])
            for number, moments in enumerate((first, second))
        ]
        tested = work.candidates(halves[1], tests, clicks, came[1])
    examples = [ranking_examples(found) for found in learnt]
    if min(len(part.rankable()) for part in examples) < LEAST_GROUPS:
        raise TrainingError(
            f"{data}: fewer than {LEAST_GROUPS} sessions of returning users in a stretch of "
            f"{(edges[1] - edges[0]) / DAY_MS:.3g} days before {until}: give more data or a later day"
        )
    with work.phase("measure"):
        measured = work.ranker(examples[:1], 1)
        metrics = {
            "held_out": evaluate_openings(log, edges[1], tested, predict(measured, tested.features)),
            "held_out_within": evaluate_within(learnt[1], predict(measured, learnt[1].features)),
        }
    with work.phase("ranker"):
        both = RankingExamples.joined(examples)
        ranker = work.ranker(examples, 2)
        metrics["ranker"] = {
            "groups": len(both),
            "rows": len(both.features),
            "taken": int((both.labels > 0).sum()),
            "importances": importances(ranker, FEATURE_NAMES),
        }
    with work.phase("export"):
        export = export_ranker(ranker, both.features, work.rng(20))
        metrics["onnx"] = {"max_difference": export.max_difference, "rows": export.rows}
        canary = _canary(both.features, work.rng(21))
        version = _version(until, halves[-1], export)
        lists, served, found_share = _inverted_lists(halves[-1], work.settings.served())
        if found_share is not None:
            metrics["nearest_items"] = {"nprobe": served.nprobe, "recall": round(found_share, 4)}
        description = _describe(log, Path(data), edges, seed, work.settings)
        if window_days is not None:
            description["window_days"] = window_days
        if federated is not None:
            description["federated"] = _describe_federated(federated, edges[0])
        network = work.network(halves[-1])
        if network is not None:
            difference, known = network.max_difference, len(network.arrays.rows)
            metrics["sequence"] = {"max_difference": difference, "items": known}
        sha256 = write_bundle(
            target,
            halves[-1],
            export.model,
            canary,
            predict(ranker, canary),
            epoch=epoch,
            model_version=version,
            created_ms=cut_ms if created_ms is None else created_ms,
            settings=served,
            data=description,
            metrics=metrics,
            canary={"rows": len(canary), "chosen": "at random among the rows of the examples"},
            ivf=lists,
            devices=work.devices(halves[-1]),
            content=work.content(halves[-1]),
            sequence=None if network is None else (network.model, network.arrays),
            native=bytes(ranker.save_raw("ubj")),
        )
        bundle = Bundle.open(target, sha256)
    if later:
        with work.phase("after the cut"):
            found = work.candidates(halves[-1], later, clicks)
            scores = bundle.ranker.score(found.features, found.finalists)
            after = evaluate_openings(log, cut_ms, found, scores)
            after["served"] = evaluate_served(bundle, found, work.settings.rank)
            metrics = metrics | {"after_cut": after}
            if judge is not None:
                judge(log, cut_ms, found, scores, bundle)
    wall_s, cpu_s = work.elapsed()
    return TrainReport(target, epoch, version, sha256, description, metrics, work.seconds, wall_s, cpu_s)


class _Training:
    """The steps, with their clocks and their random numbers."""

    def __init__(
        self, settings: TrainSettings, epoch: int, seed: int, tell: Tell | None, federated: PairTable | None
    ) -> None:
        self.settings = settings
        self._federated = federated
        self.epoch = epoch
        self.seed = seed
        self.seconds: dict[str, tuple[float, float]] = {}
        self._tell = tell
        self._content: dict[int, ItemContent | None] = {}
        self._networks: dict[int, FittedSequence] = {}
        self._phase = ""
        self._began = time.perf_counter(), time.process_time()

    def rng(self, number: int) -> np.random.Generator:
        """Return the generator of one step: none depends on how many numbers another took."""
        return np.random.default_rng([self.seed, number])

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._phase = name
        self.say(0.0)
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = (time.perf_counter() - wall, time.process_time() - cpu)
        self.say(1.0)

    def say(self, share: float) -> None:
        if self._tell is not None:
            self._tell(self._phase, min(share, 1.0))

    def elapsed(self) -> tuple[float, float]:
        return time.perf_counter() - self._began[0], time.process_time() - self._began[1]

    def items(
        self, name: str, number: int, log: EventLog, catalogue: Sequence[Item], at_ms: int
    ) -> ItemArrays:
        parts = {"factors": 0.1, "neighbours": 0.6, "popularity": 0.9}
        with self.phase(name):
            items = fit_items(
                log,
                catalogue,
                at_ms,
                self.settings.items,
                self.rng(10 + number),
                lambda part: self.say(parts[part]),
            )
            self._content[id(items)] = fit_content(
                items, catalogue, self.settings.content, self.rng(30 + number)
            )
            if self.settings.sequence is not None:
                before = log.before(at_ms)
                data = interactions(before, item_rows(before, catalogue))
                self._networks[id(items)] = fit_sequence(data, self.settings.sequence, self.seed, self.say)
            return items

    def moments(
        self, log: EventLog, edges: list[int], items: ItemArrays
    ) -> tuple[list[list[Moment]], SessionClicks]:
        """Return moments and sessions; moments to learn from in both stretches, to measure on, and behind the cut."""
        first, second, cut = edges
        chosen = self.settings.moments
        measured = MomentSettings(sessions=len(log), within=False, first_only=True, forgotten=True)
        behind = int(log.times_ms[-1]) + 1
        return collect_moments(
            log,
            [(first, second), (second, cut), (second, cut), (cut, max(behind, cut))],
            [chosen, chosen, measured, measured],
            self.index(items).factors,
            self.settings.logic,
            self.rng(3),
            lambda row: self.say(row / len(log)),
        )

    def candidates(
        self,
        items: ItemArrays,
        moments: list[Moment],
        clicks: SessionClicks,
        arrivals: Arrivals | None = None,
    ) -> CandidateSet:
        total = max(len(moments), 1)
        return candidate_set(
            self.index(items),
            moments,
            clicks,
            self.settings.rank,
            self.epoch,
            lambda done: self.say(done / total),
            arrivals,
        )

    def index(self, items: ItemArrays) -> ItemIndex:
        network = self.network(items)
        return ItemIndex.build(
            items,
            self.settings.served(),
            devices=self.devices(items),
            content=self.content(items),
            sequence=None if network is None else network.network(len(items.item_ids)),
        )

    def network(self, items: ItemArrays) -> FittedSequence | None:
        return self._networks.get(id(items))

    def content(self, items: ItemArrays) -> ItemContent | None:
        return self._content[id(items)]

    def devices(self, items: ItemArrays) -> DeviceTable | None:
        return None if self._federated is None else device_table(self._federated, items.item_ids)

    def ranker(self, examples: list[RankingExamples], number: int) -> xgboost.Booster:
        trees = self.settings.ranker.trees
        return fit_ranker(
            RankingExamples.joined(examples),
            self.settings.ranker,
            self.rng(number),
            lambda done, _: self.say(done / trees),
        )


def _edges(settings: TrainSettings, log: EventLog, cut_ms: int) -> list[int]:
    """Return T1, T2 and the cut; stretches are counted back from the last event before the cut."""
    known = log.position(cut_ms)
    if not known:
        raise TrainingError(f"the data hold no event before the cut; they have {len(log)} events in all")
    end_ms = int(log.times_ms[known - 1]) + 1
    span_ms = end_ms - int(log.times_ms[0])
    stretch_ms = max(int(min(settings.stretch_days * DAY_MS, settings.stretch_share * span_ms)), 1)
    return [end_ms - 2 * stretch_ms, end_ms - stretch_ms, cut_ms]


def _describe_federated(table: PairTable, before_ms: int) -> dict[str, Any]:
    newest_ms = max(version["released_time"] for version in table.versions)
    return table.privacy() | {"before_the_measures": newest_ms < before_ms}


def _inverted_lists(
    items: ItemArrays, settings: ModelSettings
) -> tuple[InvertedLists | None, ModelSettings, float | None]:
    """Return the cells of a catalogue that is too large to score whole, how many to search, and what that finds."""
    if len(items.item_ids) <= EXACT_UP_TO_ITEMS:
        return None, settings, None
    lists, recall = build_ivf(items.factors, nprobe=settings.nprobe)
    nprobe = settings.nprobe
    while recall < LEAST_RECALL and nprobe < len(lists.centroids):
        nprobe = min(2 * nprobe, len(lists.centroids))
        recall = measure_recall(items.factors, lists, nprobe, seed=0)
    return lists, dataclasses.replace(settings, nprobe=nprobe), recall


def _canary(features: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    chosen = rng.choice(len(features), min(CANARY_ROWS, len(features)), replace=False)
    return np.ascontiguousarray(features[np.sort(chosen)])


def _version(until: date | str, items: ItemArrays, export: Export) -> str:
    """Return a name that equal models share: the cut, and a hash of what scores."""
    digest = hashlib.sha256(export.model)
    for array in (items.item_hashes, items.factors, items.neighbour_rows, items.neighbour_scores):
        digest.update(np.ascontiguousarray(array).tobytes())
    return f"{until}-{digest.hexdigest()[:12]}"


def _describe(
    log: EventLog, data: Path, edges: list[int], seed: int, settings: TrainSettings
) -> dict[str, Any]:
    learnt = log.before(edges[-1])
    return {
        "source": log.name,
        "file": data.name,
        "file_sha256": log.file_sha256,
        "events_sha256": learnt.sha256(),
        "events": len(learnt),
        "skipped": dict(log.skipped),
        "t1_ms": edges[0],
        "t2_ms": edges[1],
        "cut_ms": edges[2],
        "seed": seed,
        "settings": json.loads(json.dumps(settings.to_dict())),
    }
