"""From a file of events to a bundle that serves.

Three times stand on the line of history: T1, T2 and the cut, a stretch apart. The ranker learns on T1..T2
from items learnt before T1, and is measured on T2..cut with items learnt before T2: at no point does it see
what came after. Then the ranker that ships learns on both stretches, and the items that ship are learnt on
everything before the cut. What lies behind the cut in the file is never learnt from; if there is any, the
shipped bundle is measured on it once, by the protocol of the published figures.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model_export import sources
from model_export.arrivals import Arrivals
from model_export.dataset import CandidateSet, ranking_examples
from model_export.evaluation import evaluate_openings, evaluate_served, evaluate_within
from model_export.interactions import DAY_MS
from model_export.inverted_cells import inverted_cells
from model_export.model_description import canary_rows, describe, describe_federated, model_version
from model_export.onnx_export import export_ranker
from model_export.popularity_balance import raise_tail
from model_export.ranker import RankingExamples, importances, predict
from model_export.sources.event_log import EventLog, midnight_ms
from model_export.stretches import TrainingError as TrainingError
from model_export.stretches import stretch_edges
from model_export.train_settings import TrainReport, TrainSettings
from model_export.training_steps import ITEM_PHASES, TrainingSteps
from model_export.training_steps import PHASES as PHASES
from model_export.training_steps import Tell as Tell
from udfs.federate.pair_table import PairTable
from udfs.model.bundle import Bundle
from udfs.model.bundle_writer import write_bundle
from udfs.ranking.features import FEATURE_NAMES

LEAST_GROUPS = 20
Judge = Callable[[EventLog, int, CandidateSet, npt.NDArray[np.float32], Bundle], None]
"""Called with log, cut, the sessions behind it with their candidates and scores, and the bundle that ships."""


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
    work = TrainingSteps(
        settings if federated is None else settings.with_devices(), epoch, seed, tell, federated
    )
    with work.phase("read"):
        log = sources.read(data)
        cut_ms = midnight_ms(until)
        if window_days is not None:
            log = log.part(log.position(cut_ms - int(window_days * DAY_MS)))
        edges = stretch_edges(settings, log, cut_ms)
        catalogues = [sources.catalogue(data, edge) for edge in edges]
    halves = [
        work.items(name, number, log, catalogues[number], edges[number])
        for number, name in enumerate(ITEM_PHASES)
    ]
    with work.phase("replay"):
        (first, second, tests, later), clicks = work.moments(log, edges, halves[-1])
    with work.phase("candidates"):
        came = [
            Arrivals.of(
                log.before(end), catalogues[number + 1], half.item_ids, edges[number], settings.arrivals
            )
            for number, (half, end) in enumerate(zip(halves, edges[1:], strict=False))
        ]
        learnt = [
            work.candidates(halves[number], moments, clicks, came[number])
            for number, moments in enumerate((first, second))
        ]
        tested = work.candidates(halves[1], tests, clicks, came[1])
    examples = [
        raise_tail(ranking_examples(found), len(found.items), settings.ranker.tail_grades) for found in learnt
    ]
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
            "arrivals": {
                "at_once": settings.arrivals,
                "came": [one.came for one in came],
                "given_way": [one.given_way for one in came],
            },
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
        canary = canary_rows(both.features, work.rng(21))
        version = model_version(until, halves[-1], export)
        lists, served, found_share = inverted_cells(halves[-1], work.settings.served())
        if found_share is not None:
            metrics["nearest_items"] = {"nprobe": served.nprobe, "recall": round(found_share, 4)}
        description = describe(log, Path(data), edges, seed, work.settings)
        if window_days is not None:
            description["window_days"] = window_days
        if federated is not None:
            description["federated"] = describe_federated(federated, edges[0])
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
            rules=work.rules(halves[-1]),
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
