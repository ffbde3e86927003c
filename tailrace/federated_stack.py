"""A stack of its own with a federate job, for the simulation of `tailrace fed run`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from benchmarks.edge_fleet import Fleet, budget_of
from benchmarks.loaded_job import cpu_seconds
from flink_jobs.federate_settings import model_lines
from flink_jobs.settings import Settings, load
from tailrace import flink_client
from tailrace.connections import ensure_topics
from tailrace.errors import ExitCode, UserError
from tailrace.federated_run import JOB, FederatedRun
from tailrace.stack.local import LocalStack
from tailrace.stack.noise_key import VARIABLE, noise_key
from tailrace.toml_text import settings_toml
from udfs.federate.release import Seed

LINE = "simulated"
CHECKPOINT_MS = 2_000
WASTE = 1.06
"""Devices that a cohort costs: some are lost."""


def simulate(
    settings: Settings,
    clients: int,
    releases: int,
    mode: str,
    dimension: int,
    noise_multiplier: float,
    kills: int,
    seed: int,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Start a stack, submit the job, let a fleet fill cohorts, and give the report.

    Parameters
    ----------
    settings
        Ports and memory of [stack]; its home gets a folder `fed`, emptied first.
    clients, releases
        A cohort has about clients / releases contributions.

    Raises
    ------
    UserError
        TR-757 where the stack runs already, TR-758 for a line that breaks a promise, else those of `FederatedRun`.
    """
    if LocalStack(settings).running():
        raise UserError(
            "TR-757",
            f"the local stack of {settings.stack.home} runs",
            "the simulation kills TaskManagers, and would share its ports",
            "tailrace down",
            ExitCode.USAGE,
        )
    settings = _with_line(
        settings, max(2, int(clients / releases / WASTE)), mode, dimension, noise_multiplier
    )
    line = model_lines(settings.federate)[LINE]
    stack = LocalStack(settings)
    stack.down(purge=True)
    stack.up(progress=progress, tied=True)
    try:
        ensure_topics(settings)
        config = settings.stack.home / "fed.toml"
        config.write_text(settings_toml(settings), encoding="utf-8")
        jobmanager = flink_client.local_jobmanager(settings)
        job_id = flink_client.submit(settings, JOB, jobmanager, config)
        flink_client.wait_until_running(jobmanager, job_id, progress=progress)
        noise = Seed(settings.federate.noise_key_id, bytes.fromhex(noise_key(settings.stack.home)[VARIABLE]))
        fleet = Fleet(line, clients, seed, noise)
        running = FederatedRun(settings, stack, fleet, progress)
        began_s = time.monotonic()
        running.run(releases, [round((n + 1) * releases / (kills + 1)) - 1 for n in range(kills)])
        running.wait_for_counts(dict(fleet.counts.refused))
        wall_s = time.monotonic() - began_s
        pids = [pid for name, pid in stack.pids().items() if name.startswith("taskmanager")]
        return {
            **running.report(),
            "clients": clients,
            "seed": seed,
            "wall_s": round(wall_s, 1),
            "taskmanagers_cpu_s_since_their_start": round(cpu_seconds(pids), 1),
            "cores": os.cpu_count(),
        }
    finally:
        stack.down(purge=True)


def _with_line(
    settings: Settings, cohort: int, mode: str, dimension: int, noise_multiplier: float
) -> Settings:
    line = {
        "dimension": dimension,
        "mode": mode,
        "noise_multiplier": noise_multiplier,
        "cohort_size": cohort,
        "cohort_min": max(1, cohort // 2),
        "timeout_ms": 24 * 3_600_000,
    }
    given = settings.model_dump(exclude_unset=True)
    given.setdefault("stack", {})["home"] = settings.stack.home.resolve() / "fed"
    given.setdefault("job", {})["checkpoint_interval_ms"] = CHECKPOINT_MS
    try:
        lines = model_lines(load(environment={}, federate={"lines": {LINE: line}}).federate)
        given["federate"] = {
            "batch_ms": 200,
            "line_batch_ms": 200,
            "budget_epsilon": budget_of(lines[LINE]),
            "lines": {LINE: line},
        }
        return load(environment={}, **given)
    except ValueError as error:
        raise UserError("TR-758", str(error), exit_code=ExitCode.USAGE) from error
