"""`tailrace eval ratings`: what users will like next, from ratings with times."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from tailrace.commands.eval.surroundings import (
    Out,
    Seed,
    fetched,
    import_evaluation,
    publish,
    unusable,
    usage,
)
from tailrace.commands.options import Json
from tailrace.phase_progress import phase_progress


def ratings(
    data: Annotated[
        Path | None,
        typer.Option("--data", help="A .parquet of ratings, or MovieLens's u.data; default: 100K, fetched."),
    ] = None,
    items: Annotated[
        Path | None, typer.Option("--items", help="With --data: a .parquet of items, 0 or 1 a genre.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="by-user, at-one-time or both.")] = "both",
    seed: Seed = 0,
    ours: Annotated[
        bool, typer.Option("--ours/--no-ours", help="Run our model, or the baselines alone.")
    ] = True,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Ten items that users will like next among all they have not rated, on two splits by time."""
    import_evaluation()
    from model_export.protocols import ratings as protocol
    from model_export.protocols.rating_log import (
        MOVIELENS,
        MOVIELENS_ITEMS,
        RatingLogError,
        read_genres,
        read_ratings,
    )

    names = [name for name in protocol.SPLITS if split in (name.replace(" ", "-"), "both")]
    if not names:
        raise usage("ratings", f"--split: wanted by-user, at-one-time or both, got {split!r}")
    if items is not None and data is None:
        raise usage("ratings", "--items goes with --data")
    command = f"tailrace eval ratings --seed {seed}"
    if data is not None:
        command += f" --data {data.name}" + (f" --items {items.name}" if items is not None else "")
    else:
        data, items = fetched((MOVIELENS, MOVIELENS_ITEMS), "--data FILE")
    if split != "both":
        command += f" --split {split}"
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    outcomes, counts = [], {}
    try:
        log = read_ratings(data)
        genres = None if items is None else read_genres(items, log)
        for name in names:
            found = protocol.split(log, name)
            counts[name] = protocol.counts_of(found)
            with phase_progress(shown=not as_json, width=12) as tell:
                outcomes += protocol.evaluate(found, genres, seed, with_ours=ours, tell=tell)
    except RatingLogError as error:
        raise unusable(error) from error
    report = protocol.RatingReport(
        tuple(outcomes),
        counts,
        log.sha256,
        seed,
        time.perf_counter() - wall_s,
        time.process_time() - cpu_s,
    )
    publish(report, command, out, as_json=as_json)
