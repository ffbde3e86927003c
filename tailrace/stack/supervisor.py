"""The process that keeps the stack's children alive, and takes them with it when it dies.

It is started by `tailrace up` and needs nothing but the standard library. Each child leads its own process
group and asks the kernel to be killed with the supervisor (PR_SET_PDEATHSIG); what the children started is
ended by the guard. So `kill -9` leaves no orphans. When a child dies its whole group goes with it (a
TaskManager's Python workers), then it is started again: at once the first time, with growing pauses if it
keeps dying. SIGTERM stops all in reverse order.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tailrace.stack.service import RUN_MARK, SUPERVISOR_MARK, Plan, Service

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_STEADY_AFTER_S = 20.0
_TICK_S = 0.5
_LOG_BYTES = 32 * 1024 * 1024
_WAKING = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}
_libc = ctypes.CDLL(None, use_errno=True)


class Child:
    """One service and the process that runs it now."""

    def __init__(self, service: Service, marks: dict[str, str]) -> None:
        self.service = service
        self._environment = {**service.environment, **marks}
        self.pid: int | None = None
        self.started_at: float = 0.0
        self.restarts = 0
        self.last_exit: str | None = None
        self._pause_s = _FIRST_PAUSE_S / 2
        self._due: float = 0.0

    def start(self) -> None:
        """Start the process; the first call and each restart."""
        service = self.service
        if service.scratch is not None:
            shutil.rmtree(service.scratch, ignore_errors=True)
            Path(service.scratch).mkdir(parents=True)
        log = Path(service.log)
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            log.replace(log.with_suffix(".old.log"))
        supervisor = os.getpid()

        def settle() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != supervisor:
                os._exit(1)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())

        self.started_at = time.time()
        with log.open("ab") as stream:
            try:
                process = subprocess.Popen(
                    service.command,
                    cwd=service.folder,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=settle,
                )
            except OSError as error:
                stream.write(f"cannot be started: {error}\n".encode())
                self.ended(f"cannot be started: {error}")
                return
        process.returncode = 0  # reaped by the supervisor's waitid, not by Popen
        self.pid = process.pid

    def ended(self, how: str) -> None:
        """Note that the process is gone and when the next one is due."""
        lived_s = time.time() - self.started_at
        self._pause_s = (
            _FIRST_PAUSE_S if lived_s > _STEADY_AFTER_S else min(self._pause_s * 2, _LONGEST_PAUSE_S)
        )
        self._due = time.monotonic() + self._pause_s
        self.pid = None
        self.last_exit = how

    def restart_if_due(self) -> bool:
        """Start it again if it is down and its pause is over; tell whether it was started."""
        if self.pid is not None or time.monotonic() < self._due:
            return False
        self.restarts += 1
        self.start()
        return True

    def signal_group(self, number: int) -> None:
        """Send a signal to the process and all it started."""
        if self.pid is not None:
            _signal_group(self.pid, number)

    def as_dict(self) -> dict[str, object]:
        """What `state.json` holds of it."""
        return {
            "name": self.service.name,
            "pid": self.pid,
            "port": self.service.port,
            "log": self.service.log,
            "started_at": self.started_at,
            "restarts": self.restarts,
            "last_exit": self.last_exit,
        }


class Supervisor:
    """Starts the children of a plan and keeps them running until it is told to stop.

    Parameters
    ----------
    plan
        What to run.
    tied
        Stop when standard input closes, that is when the process that started the supervisor ends.
    """

    def __init__(self, plan: Plan, tied: bool = False) -> None:
        # Two marks: of the home, for the next `up` to find leftovers; of this supervisor, for its guard,
        # which must not touch the children of the next one.
        self._own_mark = f"{os.getpid()}.{time.time_ns()}"
        marks = {RUN_MARK: plan.run_folder, SUPERVISOR_MARK: self._own_mark}
        self._children = [Child(service, marks) for service in plan.services]
        self._guard: subprocess.Popen[bytes] | None = None
        self._folder = Path(plan.run_folder)
        self._tied = tied
        self._started_at = time.time()

    def run(self) -> int:
        """Run until SIGTERM, SIGINT or the end of a tied parent; return the exit status."""
        lock = (self._folder / "supervisor.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 1
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        signal.pthread_sigmask(signal.SIG_BLOCK, _WAKING)
        self._start_guard()
        for child in self._children:
            child.start()
        self._write_state()
        while not self._told_to_stop():
            changed = self._reap()
            for child in self._children:
                changed |= child.restart_if_due()
            if changed:
                self._write_state()
        self._stop()
        (self._folder / "state.json").unlink(missing_ok=True)
        return 0

    def _told_to_stop(self) -> bool:
        waiting = any(child.pid is None for child in self._children)
        caught = signal.sigtimedwait(_WAKING, 0.05 if waiting else _TICK_S)
        if caught is not None and caught.si_signo != signal.SIGCHLD:
            return True
        return self._tied and bool(select.select([sys.stdin], [], [], 0)[0]) and not os.read(0, 1)

    def _reap(self) -> bool:
        changed = False
        by_pid = {child.pid: child for child in self._children if child.pid is not None}
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return changed
            if ended is None:
                return changed
            child = by_pid.pop(ended.si_pid, None)
            if child is not None:
                # The group first: its number cannot be given to another process until the leader is reaped.
                child.signal_group(signal.SIGKILL)
                exited = ended.si_code == os.CLD_EXITED
                child.ended(f"exit status {ended.si_status}" if exited else f"signal {ended.si_status}")
                changed = True
            os.waitpid(ended.si_pid, 0)
            if self._guard is not None and ended.si_pid == self._guard.pid:
                self._start_guard()

    def _start_guard(self) -> None:
        self._guard = subprocess.Popen(
            [sys.executable, "-m", "tailrace.stack.guard", f"{SUPERVISOR_MARK}={self._own_mark}"],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self._guard.returncode = 0  # reaped by waitid

    def _stop(self) -> None:
        for child in reversed(self._children):
            child.signal_group(signal.SIGTERM)
            deadline = time.monotonic() + child.service.stop_s
            while child.pid is not None and time.monotonic() < deadline:
                signal.sigtimedwait({signal.SIGCHLD}, 0.1)
                self._reap()
            child.signal_group(signal.SIGKILL)
        self._reap()

    def _write_state(self) -> None:
        state = {
            "supervisor": {"pid": os.getpid(), "started_at": self._started_at},
            "services": [child.as_dict() for child in self._children],
        }
        partial = self._folder / "state.json.new"
        partial.write_text(json.dumps(state, indent=1), encoding="utf-8")
        partial.replace(self._folder / "state.json")


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def main(arguments: list[str]) -> int:
    """Run the plan in the file that the first argument names."""
    return Supervisor(Plan.read(Path(arguments[0])), tied="--tied" in arguments[1:]).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
