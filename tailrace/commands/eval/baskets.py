"""`tailrace eval baskets`: the first purchase after a cut."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from flink_jobs.settings import load
from tailrace.commands.eval.surroundings import (
    Out,
    Seed,
    fetched,
    import_evaluation,
    publish,
    unusable,
    usage,
)
from tailrace.commands.options import Config, Json
from tailrace.commands.train import import_pytorch, train_settings
from tailrace.phase_progress import phase_progress

ONLINE_RETAIL = Path(__file__).parents[3] / "datasets" / "online-retail" / "online_retail.parquet"
NAMES = ("online-retail", "complete-journey")


def baskets(
    data: Annotated[
        str,
        typer.Option("--data", help="online-retail, complete-journey (fetched), both, or a file of events."),
    ] = "both",
    until: Annotated[
        datetime | None,
        typer.Option("--until", formats=["%Y-%m-%d"], help="The cut, UTC; each known data set has its own."),
    ] = None,
    seed: Seed = 0,
    ablation: Annotated[
        bool,
        typer.Option(
            "--ablation", help="Instead: what each source and group of features brings, before the cut."
        ),
    ] = False,
    part: Annotated[
        list[str] | None,
        typer.Option("--part", help="With --ablation: only what has this word in its name; may be repeated."),
    ] = None,
    sequence: Annotated[
        bool,
        typer.Option("--sequence", help="With a sequential network among the sources; it wants PyTorch."),
    ] = False,
    rules: Annotated[bool, typer.Option("--rules", help="With sequential rules among the sources.")] = False,
    config: Config = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """First baskets after a cut, by the bundle that `tailrace train` makes; repeats and new items apart."""
    import_evaluation()
    from model_export.protocols.basket_ablation import ablate
    from model_export.protocols.baskets import COMPLETE_JOURNEY, CUTS, BasketOutcome, BasketReport, evaluate
    from model_export.protocols.quality_page import QualityReport
    from model_export.sources import SourceError
    from model_export.train import TrainingError

    chosen = list(NAMES) if data == "both" else [data]
    if until is None and not set(chosen) <= set(NAMES):
        raise usage("baskets", f"--until: wanted a day, since {data} is not one of {', '.join(NAMES)}")
    settings = train_settings(load(config))
    if sequence:
        import_pytorch()
        settings = settings.with_sequence()
    if rules:
        settings = settings.with_rules()
    if ablation and len(chosen) > 1:
        raise usage("baskets", "--ablation: wanted --data with one data set, got both")
    outcomes: list[BasketOutcome] = []
    report: QualityReport | None = None
    for name in chosen:
        if name == "online-retail":
            path = ONLINE_RETAIL
        elif name == "complete-journey":
            path = fetched(COMPLETE_JOURNEY, "--data FILE --until DAY")[0]
        else:
            path = Path(name)
        day = CUTS[name] if until is None else until.date().isoformat()
        try:
            with phase_progress(shown=not as_json, width=16) as tell:
                called = name if name in NAMES else path.name
                if ablation:
                    report = ablate(called, path, day, settings, seed, tell, part or ())
                else:
                    outcomes.append(evaluate(called, path, day, settings, seed, tell))
        except (SourceError, TrainingError, ValueError) as error:
            raise unusable(error) from error
    command = (
        f"tailrace eval baskets --data {data if data in (*NAMES, 'both') else Path(data).name} --seed {seed}"
    )
    if until is not None:
        command += f" --until {until.date().isoformat()}"
    command += " --ablation" if ablation else ""
    command += "".join(f" --part {one}" for one in part or ())
    command += " --sequence" if sequence else ""
    command += " --rules" if rules else ""
    publish(report or BasketReport(tuple(outcomes), seed), command, out, as_json=as_json)
