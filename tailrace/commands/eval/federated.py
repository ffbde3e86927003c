"""`tailrace eval federated`: what a table learnt from devices is worth under each privacy mode."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from tailrace.commands.eval.baskets import ONLINE_RETAIL
from tailrace.commands.eval.surroundings import Out, fetched, import_evaluation, publish, unusable, usage
from tailrace.commands.options import Json
from tailrace.phase_progress import phase_progress

NAMES = ("movielens", "online-retail")


def federated(
    data: Annotated[str, typer.Option("--data", help="movielens (fetched), online-retail or both.")] = "both",
    ratings: Annotated[
        Path | None, typer.Option("--ratings", help="A file of ratings instead of the fetched one.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Of noise, for each mode and epsilon.")] = 3,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """NDCG@10 over epsilon, in local, central and distributed mode, beside popularity and a server that sees all."""
    import_evaluation()
    from model_export.protocols import federated as protocol
    from model_export.protocols.rating_log import MOVIELENS, RatingLogError
    from model_export.sources import SourceError

    chosen = NAMES if data == "both" else (data,)
    if not set(chosen) <= set(NAMES):
        raise usage("federated", f"--data: wanted {', '.join(NAMES)} or both, got {data!r}")
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    points, counts = [], {}
    try:
        for name in chosen:
            if name == "movielens":
                problem = protocol.movielens(ratings or fetched((MOVIELENS,), "--ratings FILE")[0])
            else:
                problem = protocol.retail(ONLINE_RETAIL)
            counts[problem.name] = protocol.counts_of(problem)
            with phase_progress(shown=not as_json, width=16) as tell:
                points += protocol.curve(problem, range(seeds), tell)
    except (RatingLogError, SourceError) as error:
        raise unusable(error) from error
    report = protocol.FederatedReport(
        tuple(points), counts, seeds, time.perf_counter() - wall_s, time.process_time() - cpu_s
    )
    publish(report, f"tailrace eval federated --data {data} --seeds {seeds}", out, as_json=as_json)
