"""`tailrace submit`: a job to any cluster."""

from __future__ import annotations

import json
import shlex
from typing import Annotated

import typer

from flink_jobs.settings import load
from tailrace import flink_client
from tailrace.commands.stack import Config, Json
from tailrace.connections import ensure_topics
from tailrace.edge_models import refuse_lost_ledgers
from tailrace.errors import ExitCode, UserError

JOBS = ("recommend", "similarity", "federate", "feedback", "learn")
_SECTIONS = {"recommend": "job"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(submit)


def submit(
    job: Annotated[str, typer.Argument(help="recommend, similarity, federate, feedback or learn")],
    jobmanager: Annotated[
        str | None,
        typer.Option("--jobmanager", "-m", help="HOST:PORT of Flink's REST; default: the local stack."),
    ] = None,
    config: Config = None,
    savepoint: Annotated[
        str | None, typer.Option("--from", help="Savepoint or checkpoint to start from.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Stop the running job with a savepoint and start from it.")
    ] = False,
    allow_non_restored_state: Annotated[
        bool,
        typer.Option(
            "--allow-non-restored-state",
            help="Start also where the savepoint has state of operators that the job no longer has; it is dropped.",
        ),
    ] = False,
    parallelism: Annotated[
        int | None, typer.Option("--parallelism", "-p", min=1, help="Slots it takes; default: its setting.")
    ] = None,
    forget_ledgers: Annotated[
        bool,
        typer.Option(
            "--forget-ledgers",
            help="federate: start without state though versions are out; every budget begins anew.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the `flink run` line and do nothing.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Until all tasks run.")] = True,
    as_json: Json = False,
) -> None:
    """Submit a job to the local stack or to any Flink cluster."""
    if job not in JOBS:
        raise UserError("TR-250", f"job {job!r}; there is {', '.join(JOBS)}", exit_code=ExitCode.USAGE)
    settings = load(config)
    section = _SECTIONS.get(job, job)
    overrides = [] if parallelism is None else [f"{section}.parallelism={parallelism}"]
    target = jobmanager or flink_client.local_jobmanager(settings)
    if dry_run:
        line = flink_client.run_command(
            settings, job, target, config, savepoint, allow_non_restored_state, overrides
        )
        typer.echo(shlex.join(line))
        return
    ensure_topics(settings)
    running = flink_client.running_jobs(target, job)
    if running and not replace:
        raise UserError(
            "TR-255",
            f"{job} runs already as {', '.join(running)}",
            "two of them would write the same lists",
            f"tailrace submit {job} --replace",
        )
    for job_id in running:
        local = target == flink_client.local_jobmanager(settings)
        folder = settings.stack.home / "savepoints" if local else None
        savepoint = flink_client.stop_with_savepoint(job_id, target, folder)
        if not as_json:
            typer.echo(f"stopped {job_id} with savepoint {savepoint}")
    if job == "federate" and savepoint is None and not forget_ledgers:
        refuse_lost_ledgers(settings)
    job_id = flink_client.submit(
        settings, job, target, config, savepoint, allow_non_restored_state, overrides
    )
    if wait:
        flink_client.wait_until_running(
            target, job_id, progress=lambda line: None if as_json else typer.echo(line)
        )
    if as_json:
        typer.echo(json.dumps({"job": job, "job_id": job_id, "jobmanager": target, "from": savepoint}))
    else:
        typer.echo(f"{job} runs as {job_id}; http://{target}/#/job/{job_id}/overview")
