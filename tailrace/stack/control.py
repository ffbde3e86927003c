"""Start, find and stop the supervisor from another process, by the files in its run folder."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tailrace.stack.guard import end_processes_with
from tailrace.stack.service import RUN_MARK, Plan


@dataclass(frozen=True)
class ChildState:
    """What the supervisor says of one child.

    Parameters
    ----------
    name, port, log
        As in its `Service`.
    pid
        `None` while it is down and waits for its restart.
    started_at
        Seconds since 1970.
    restarts
        Since the supervisor started.
    last_exit
        How the process before this one ended.
    """

    name: str
    pid: int | None
    port: int | None
    log: str
    started_at: float
    restarts: int
    last_exit: str | None


def supervisor_runs(run_folder: Path) -> bool:
    """Tell whether a live supervisor holds the folder's lock; a stale state file does not count."""
    lock = run_folder / "supervisor.lock"
    if not lock.exists():
        return False
    with lock.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def one_at_a_time(run_folder: Path) -> Iterator[None]:
    """Let one process at a time start or stop the stack of a home; the others wait."""
    run_folder.mkdir(parents=True, exist_ok=True)
    with (run_folder / "start.lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def supervisor_pid(run_folder: Path) -> int | None:
    """Return the pid of the live supervisor."""
    state = _state(run_folder)
    return state["supervisor"]["pid"] if state else None


def children(run_folder: Path) -> list[ChildState]:
    """Return the children of the live supervisor, in start order; none where no supervisor runs."""
    state = _state(run_folder)
    return [ChildState(**child) for child in state["services"]] if state else []


def start_supervisor(plan: Plan, tied: bool = False) -> subprocess.Popen[bytes]:
    """Start a supervisor for the plan in a session of its own and wait until its children are started.

    Parameters
    ----------
    plan
        What it runs.
    tied
        It stops when this process ends, however that happens; else it outlives it.
    """
    folder = Path(plan.run_folder)
    folder.mkdir(parents=True, exist_ok=True)
    end_leftovers(folder)
    (folder / "state.json").unlink(missing_ok=True)
    plan.write(folder / "plan.json")
    project = Path(__file__).resolve().parents[2]
    with (folder / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tailrace.stack.supervisor",
                str(folder / "plan.json"),
                *(["--tied"] if tied else []),
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(project)},
            stdin=subprocess.PIPE if tied else subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + 10.0
    while process.poll() is None and not (folder / "state.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def stop_supervisor(run_folder: Path, timeout_s: float = 90.0) -> bool:
    """Stop the supervisor and its children in order; tell whether one ran."""
    pid = supervisor_pid(run_folder)
    if pid is None:
        end_leftovers(run_folder)
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while supervisor_runs(run_folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    if supervisor_runs(run_folder):
        os.kill(pid, signal.SIGKILL)  # the kernel takes the children with it
    return True


def end_leftovers(run_folder: Path) -> None:
    """End what a supervisor that was killed together with its guard left running."""
    if not supervisor_runs(run_folder):
        end_processes_with(f"{RUN_MARK}={run_folder}")


def _state(run_folder: Path) -> dict | None:
    if not supervisor_runs(run_folder) or not (run_folder / "state.json").exists():
        return None
    return _read(run_folder)


def _read(run_folder: Path) -> dict:
    return json.loads((run_folder / "state.json").read_text(encoding="utf-8"))
