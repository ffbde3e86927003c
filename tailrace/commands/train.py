"""`tailrace train`: a bundle from a file of events."""

from __future__ import annotations

import importlib.util
import json
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from flink_jobs.settings import Settings, load
from tailrace.commands.options import Config, Json
from tailrace.errors import ExitCode, UserError
from tailrace.model_registry import record_training
from tailrace.phase_progress import phase_progress
from udfs.model.manifest import MANIFEST, parse_manifest

if TYPE_CHECKING:
    from model_export.train_settings import TrainReport, TrainSettings

NETWORKS = ("gru",)
METRICS = ("precision", "recall", "hit_rate", "ndcg")
RANKINGS = {
    "model": "this model",
    "popular_28_days": "popularity, 28 days",
    "personal_frequency": "personal frequency",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(train)


def train(
    data: Annotated[Path, typer.Option("--data", help="A .parquet, .csv or .jsonl file of events.")],
    until: Annotated[
        datetime,
        typer.Option("--until", formats=["%Y-%m-%d"], help="Learn only from what lies before this day, UTC."),
    ],
    epoch: Annotated[int, typer.Option("--epoch", min=1, help="Number of the bundle; each is written once.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of all random numbers.")] = 0,
    federated: Annotated[
        Path | None,
        typer.Option(
            help="What devices have learnt, as `tailrace fed export` writes it: a source of its own."
        ),
    ] = None,
    learnt_sessions: Annotated[
        bool,
        typer.Option(
            "--learnt-sessions",
            help="Order what sessions like the user's bring by what the learn job learns; it must run beside.",
        ),
    ] = False,
    sequence: Annotated[
        str,
        typer.Option(
            help="gru: a sequential network as a source of its own; it is trained with PyTorch and served without.",
        ),
    ] = "",
    rules: Annotated[
        bool,
        typer.Option(
            "--rules", help="Sequential rules as a source of their own: what users took after an item."
        ),
    ] = False,
    tail_grades: Annotated[
        int,
        typer.Option(
            min=0, max=10, help="Grades that taken items beyond the popular tenth count more for the ranker."
        ),
    ] = 0,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Train a model and write it as a bundle that the workers can serve."""
    import_training()
    from model_export.federated_items import TableError, read_table
    from model_export.lake.files import LakeError
    from model_export.sequence_training import SequenceTrainingError
    from model_export.sources import SourceError
    from model_export.train import TrainingError
    from model_export.train import train as train_bundle

    settings = load(config)
    chosen = train_settings(settings, learnt_sessions=learnt_sessions)
    if sequence not in ("", *NETWORKS):
        raise UserError(
            "TR-501",
            f"--sequence: wanted {', '.join(NETWORKS)}, got {sequence!r}",
            fix="tailrace train --help",
            exit_code=ExitCode.USAGE,
        )
    chosen = replace(chosen, ranker=replace(chosen.ranker, tail_grades=tail_grades))
    if sequence:
        import_pytorch()
        chosen = chosen.with_sequence()
    if rules:
        chosen = chosen.with_rules()
    try:
        with phase_progress(shown=not as_json, width=16) as tell:
            report = train_bundle(
                chosen,
                data,
                until.date().isoformat(),
                epoch,
                root=settings.model.root,
                seed=seed,
                created_ms=int(time.time() * 1000),
                tell=tell,
                federated=None if federated is None else read_table(federated),
            )
    except (LakeError, SequenceTrainingError, SourceError, TableError, TrainingError) as error:
        raise UserError("TR-501", str(error), exit_code=ExitCode.USAGE) from error
    except FileExistsError as error:
        raise UserError(
            "TR-502", str(error), fix=f"tailrace train ... --epoch {epoch + 1}", exit_code=ExitCode.USAGE
        ) from error
    bundle = parse_manifest((report.path / MANIFEST).read_bytes())
    record_training(settings.registry, bundle, report.manifest_sha256, report.path)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    else:
        _show(report)


def train_settings(settings: Settings, *, learnt_sessions: bool = False) -> TrainSettings:
    """Return how to train for these settings: users are kept and candidates found as the job does it."""
    from flink_jobs.rank_settings import rank_settings
    from model_export.train_settings import TrainSettings
    from udfs.user_logic import LogicSettings

    job = settings.job
    made = TrainSettings(
        logic=LogicSettings(job.session_gap_ms, job.forget_after_ms, job.shards),
        rank=rank_settings(settings),
        arrivals=settings.model.arrivals,
    )
    return made.with_learnt_sessions() if learnt_sessions else made


def import_training() -> None:
    """Say what to install where the extra is not there.

    Raises
    ------
    UserError
        TR-500.
    """
    try:
        import implicit  # noqa: F401
        import onnxmltools  # noqa: F401
        import xgboost  # noqa: F401
    except ImportError as error:
        raise UserError(
            "TR-500",
            f"training needs {error.name}, which is not installed",
            "the extra `training` was left out",
            "uv pip install 'tailrace[training]'",
            ExitCode.ENVIRONMENT,
        ) from error


def import_pytorch() -> None:
    """Say what to install where a sequential network cannot be trained.

    Raises
    ------
    UserError
        TR-500.
    """
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            "TR-500",
            "a sequential network needs torch, which is not installed",
            "the extra `sequence` was left out",
            "uv pip install 'tailrace[sequence]'",
            ExitCode.ENVIRONMENT,
        )


def _show(report: TrainReport) -> None:
    console = Console()
    metrics = report.metrics
    for name, title in (("held_out", "held out before the cut"), ("after_cut", "after the cut")):
        if name not in metrics:
            continue
        table = Table(title=title, box=None, header_style="bold")
        table.add_column("first ten of")
        for heading in ("items", "lists", "P@10", "R@10", "hit rate", "NDCG@10"):
            table.add_column(heading, justify="right")
        for key, ranking in RANKINGS.items():
            for part in ("all", "repeats", "new_items"):
                row = metrics[name][key][part]
                values = ["-" if row[metric] is None else f"{row[metric]:.3f}" for metric in METRICS]
                table.add_row(
                    ranking if part == "all" else "", part.replace("_", " "), str(row["lists"]), *values
                )
        if "served" in metrics[name]:
            row = metrics[name]["served"]
            values = [f"{row[metric]:.3f}" for metric in METRICS]
            table.add_row("as served", "all", str(row["lists"]), *values)
        console.print(table)
    came = metrics["arrivals"]
    if max(came["given_way"]):
        console.print(
            f"{max(came['came']):,} items came within a stretch, and workers rank the newest {came['at_once']:,} "
            f"(model.arrivals): {max(came['given_way']):,} gave way to newer ones, in training as in serving",
            soft_wrap=True,
        )
    console.print(
        f"bundle {report.path}, model {report.model_version}, manifest {report.manifest_sha256[:12]}; "
        f"{report.wall_s:.1f} s, {report.cpu_s:.1f} CPU-s",
        soft_wrap=True,
    )
