"""Handing a job to a Flink cluster through the `flink` program of the installed wheel."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flink_jobs.settings import Settings
from flink_jobs.shipped_code import package_code
from tailrace.errors import ExitCode, UserError
from tailrace.stack.flink import flink_command_environment, prepare_flink

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy of the environment
_JOB_ID = re.compile(r"JobID ([0-9a-f]{32})")


def local_jobmanager(settings: Settings) -> str:
    """Give HOST:PORT of the local stack's JobManager."""
    return f"{settings.stack.host}:{settings.stack.flink_port}"


def run_command(
    settings: Settings,
    job: str,
    jobmanager: str,
    config: Path | None,
    savepoint: str | None = None,
    allow_non_restored_state: bool = False,
    overrides: Sequence[str] = (),
) -> list[str]:
    """Give the plain `flink run` line that submits a job.

    Parameters
    ----------
    config
        The TOML file that the job reads at submission; None for the defaults and the environment.
    savepoint
        Path to start from.
    allow_non_restored_state
        Start also when the savepoint has state of operators that this job no longer has.
    overrides
        Settings as ``section.key=value``, above the file's and the environment's.
    """
    program, _ = flink_command_environment(settings)
    code = package_code(settings.stack.cache.resolve() / "job-code")
    resume = [] if savepoint is None else ["--fromSavepoint", savepoint]
    if allow_non_restored_state:
        resume.append("--allowNonRestoredState")
    chosen = [] if config is None else [str(config.resolve())]
    target = ["--detached", "--jobmanager", jobmanager, "--parallelism", str(settings.job.parallelism)]
    return [
        str(program), "run", *target, *resume,
        "--pyModule", "flink_jobs.submit", "--pyFiles", str(code), job, *chosen, *overrides,
    ]  # fmt: skip


def submit(
    settings: Settings,
    job: str,
    jobmanager: str,
    config: Path | None = None,
    savepoint: str | None = None,
    allow_non_restored_state: bool = False,
    overrides: Sequence[str] = (),
) -> str:
    """Submit a job and return its id; the arguments are those of `run_command`.

    Raises
    ------
    UserError
        TR-251 with what the client said, when the cluster did not take it.
    """
    command = run_command(settings, job, jobmanager, config, savepoint, allow_non_restored_state, overrides)
    printed = _flink(settings, command)
    found = _JOB_ID.search(printed)
    if found is None:
        raise UserError(
            "TR-251",
            f"{job}: the cluster at {jobmanager} did not take it:\n{_essence(printed)}",
            "the cluster is not up, or lacks the worker environment",
            f"tailrace doctor --cluster {jobmanager}",
        )
    return found.group(1)


def stop_with_savepoint(
    job_id: str, jobmanager: str, folder: Path | None = None, timeout_s: float = 300.0
) -> str:
    """Stop a job and return the path of its savepoint.

    Parameters
    ----------
    folder
        Where to; None: where the cluster's configuration says.

    Raises
    ------
    UserError
        TR-252 when no savepoint was written, and after `timeout_s`.
    """
    place = None if folder is None else folder.resolve().as_uri()
    orders = f"/jobs/{job_id}/stop"
    order = rest(jobmanager, orders, "POST", body={"targetDirectory": place, "drain": False})["request-id"]
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        answer = rest(jobmanager, f"/jobs/{job_id}/savepoints/{order}")
        if answer["status"]["id"] == "COMPLETED":
            done = answer["operation"]
            if "location" in done:
                return str(done["location"])
            cause = _essence(done["failure-cause"]["stack-trace"])
            raise UserError("TR-252", f"job {job_id}: no savepoint was written:\n{cause}")
        time.sleep(0.1)
    raise UserError("TR-252", f"job {job_id}: no savepoint was written within {timeout_s:.0f} s")


def rest(jobmanager: str, path: str, method: str = "GET", timeout_s: float = 30.0, body: Any = None) -> Any:
    """Ask Flink's REST interface.

    Parameters
    ----------
    body
        Sent as JSON, if given.

    Raises
    ------
    UserError
        TR-253 when it does not answer.
    """
    request = urllib.request.Request(f"http://{jobmanager}{path}", method=method)
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    try:
        with _DIRECT.open(request, timeout=timeout_s) as answer:
            return json.loads(answer.read() or b"{}")
    except (urllib.error.URLError, OSError) as error:
        raise UserError(
            "TR-253",
            f"http://{jobmanager}{path}: {error}",
            "the JobManager is not up, or listens elsewhere",
            "tailrace status",
            ExitCode.NOT_RUNNING,
        ) from error


def running_jobs(jobmanager: str, name: str | None = None) -> dict[str, str]:
    """Give job id → state of the jobs that have not ended, all or those of one name."""
    over = ("FINISHED", "CANCELED", "FAILED")
    jobs = rest(jobmanager, "/jobs/overview")["jobs"]
    return {
        job["jid"]: job["state"] for job in jobs if job["state"] not in over and name in (None, job["name"])
    }


def cancel(jobmanager: str, job_id: str) -> None:
    """Cancel a job; its last checkpoint stays."""
    rest(jobmanager, f"/jobs/{job_id}?mode=cancel", method="PATCH")


def wait_until_running(
    jobmanager: str,
    job_id: str,
    timeout_s: float = 120.0,
    progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Wait until every task of the job runs.

    Raises
    ------
    UserError
        TR-254 with the job's own exception, when it failed or did not come up in time.
    """
    deadline = time.monotonic() + timeout_s
    said = ""
    while time.monotonic() < deadline:
        job = rest(jobmanager, f"/jobs/{job_id}")
        tasks = [vertex["status"] for vertex in job["vertices"]]
        line = f"{job['name']}: {tasks.count('RUNNING')} of {len(tasks)} operators run"
        if line != said:
            progress(line)
            said = line
        if job["state"] in ("FAILED", "CANCELED"):
            break
        if tasks and set(tasks) == {"RUNNING"}:
            return
        time.sleep(0.3)
    exceptions = rest(jobmanager, f"/jobs/{job_id}/exceptions").get("exceptionHistory", {}).get("entries", [])
    text = exceptions[0]["stacktrace"] if exceptions else "no exception was reported"
    raise UserError(
        "TR-254", f"job {job_id} does not run:\n{_essence(text)}", fix="tailrace logs taskmanager-1"
    )


def _flink(settings: Settings, command: list[str]) -> str:
    if not (settings.stack.home / "flink" / "conf").is_dir():  # no stack was ever started here
        prepare_flink(settings)
    _, environment = flink_command_environment(settings)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def _essence(text: str, lines: int = 25) -> str:
    """Give the causes of a Java stack trace and the last lines of a Python one."""
    kept = [
        line for line in text.splitlines() if line.strip() and not line.lstrip().startswith(("at ", "..."))
    ]
    return "\n".join(kept[-lines:])
