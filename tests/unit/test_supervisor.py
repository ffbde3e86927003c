"""The supervisor with children that sleep: restarts, order, and no orphans whoever is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tailrace.stack import control
from tailrace.stack.guard import processes_with
from tailrace.stack.service import RUN_MARK, Plan, Service
from tailrace.stack.supervisor import Child

# A child that starts a grandchild in a session of its own, as far from the child's group as can be.
WITH_GRANDCHILD = (
    "import subprocess, time; subprocess.Popen(['sleep', '600'], start_new_session=True); time.sleep(600)"
)


def service(folder: Path, name: str, *command: str) -> Service:
    return Service(
        name, list(command), {"PATH": os.environ["PATH"]}, str(folder), str(folder / f"{name}.log"), stop_s=60
    )


def wait_for(condition: Callable[[], bool]) -> bool:
    """Wait for what comes within a second or two, or later where the machine has much else to do."""
    deadline = time.monotonic() + 120.0
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def pid_of(folder: Path, name: str) -> int | None:
    return next((child.pid for child in control.children(folder) if child.name == name), None)


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def guards(supervisor_pid: int) -> list[int]:
    """The supervisor's live guards; a process may end while it is looked at."""
    found = []
    for child in psutil.Process(supervisor_pid).children():
        with contextlib.suppress(psutil.Error):
            if "tailrace.stack.guard" in child.cmdline():
                found.append(child.pid)
    return found


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "run"
    folder.mkdir()
    yield folder
    control.stop_supervisor(folder)
    assert processes_with(f"{RUN_MARK}={folder}") == []


@pytest.fixture
def supervisor(run: Path) -> Iterator[subprocess.Popen[bytes]]:
    plan = Plan(
        str(run),
        [
            service(run, "steady", "sleep", "600"),
            service(run, "parent", sys.executable, "-c", WITH_GRANDCHILD),
        ],
    )
    process = control.start_supervisor(plan)
    yield process
    control.stop_supervisor(run)
    process.wait(120)


def test_a_killed_child_is_back_and_the_others_stay(run: Path, supervisor: subprocess.Popen[bytes]) -> None:
    first, other = pid_of(run, "steady"), pid_of(run, "parent")
    os.kill(first, signal.SIGKILL)
    assert wait_for(lambda: pid_of(run, "steady") not in (None, first))
    child = next(child for child in control.children(run) if child.name == "steady")
    assert (child.restarts, child.last_exit) == (1, "signal 9")
    assert pid_of(run, "parent") == other


def test_a_child_that_keeps_dying_is_started_at_growing_intervals(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1_000.0
    clock = SimpleNamespace(time=lambda: now_s, monotonic=lambda: now_s)
    monkeypatch.setattr("tailrace.stack.supervisor.time", clock)
    child = Child(service(run, "brief", "true"), {})

    def start() -> None:
        child.started_at = now_s

    def pause_s(lived_s: float) -> float:
        nonlocal now_s
        now_s += lived_s
        child.ended("exit 0")
        before_s = now_s
        while not child.restart_if_due():
            now_s += 0.05
        return now_s - before_s

    monkeypatch.setattr(child, "start", start)
    start()
    assert [pause_s(0.1) for _ in range(7)] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0], abs=0.06)
    assert pause_s(60.0) == pytest.approx(0.2, abs=0.06), "one that has lived a while is started soon again"
    assert child.restarts == 8


def test_a_child_that_ends_is_started_again_and_again(run: Path) -> None:
    starts = run / "starts"
    process = control.start_supervisor(
        Plan(str(run), [service(run, "brief", "sh", "-c", f"echo one >> {starts}")])
    )
    assert wait_for(lambda: starts.exists() and len(starts.read_text().split()) >= 3)
    control.stop_supervisor(run)
    assert process.wait(120) == 0


def test_a_program_that_does_not_exist_is_a_failed_start_and_not_the_end_of_the_supervisor(run: Path) -> None:
    process = control.start_supervisor(Plan(str(run), [service(run, "absent", str(run / "no-such-program"))]))
    assert wait_for(lambda: bool(control.children(run)) and control.children(run)[0].restarts >= 1)
    assert process.poll() is None
    assert "No such file" in (run / "absent.log").read_text()
    control.stop_supervisor(run)
    process.wait(120)


def test_killing_the_supervisor_leaves_no_orphans_not_even_grandchildren(
    run: Path, supervisor: subprocess.Popen[bytes]
) -> None:
    assert wait_for(lambda: len(processes_with(f"{RUN_MARK}={run}")) == 3)
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.wait(120)
    assert wait_for(lambda: not processes_with(f"{RUN_MARK}={run}"))
    assert not control.supervisor_runs(run)


def test_the_kernel_ends_the_children_even_when_the_guard_is_killed_too(
    run: Path, supervisor: subprocess.Popen[bytes]
) -> None:
    steady = pid_of(run, "steady")
    assert wait_for(lambda: len(psutil.Process(supervisor.pid).children()) == 3)
    (guard,) = guards(supervisor.pid)
    os.kill(supervisor.pid, signal.SIGSTOP)  # so that it does not start another guard
    os.kill(guard, signal.SIGKILL)
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.wait(120)
    assert wait_for(lambda: not alive(steady))


def test_a_killed_guard_is_replaced(run: Path, supervisor: subprocess.Popen[bytes]) -> None:
    assert wait_for(lambda: len(guards(supervisor.pid)) == 1)
    first = guards(supervisor.pid)
    os.kill(first[0], signal.SIGKILL)
    assert wait_for(lambda: len(guards(supervisor.pid)) == 1 and guards(supervisor.pid) != first)


def test_killing_the_starter_of_a_tied_supervisor_ends_everything(run: Path) -> None:
    program = f"""
import sys, time
from tailrace.stack import control
from tailrace.stack.service import Plan, Service
environment = {{"PATH": {os.environ["PATH"]!r}}}
child = Service("steady", ["sleep", "600"], environment, {str(run)!r}, {str(run / "s.log")!r})
control.start_supervisor(Plan({str(run)!r}, [child]), tied=True)
time.sleep(600)
"""
    starter = subprocess.Popen([sys.executable, "-c", program])
    try:
        assert wait_for(lambda: pid_of(run, "steady") is not None)
    finally:
        starter.kill()
        starter.wait(120)
    assert wait_for(lambda: not processes_with(f"{RUN_MARK}={run}"))


def test_sigterm_stops_the_children_in_reverse_order(run: Path) -> None:
    order = run / "order"
    trap = "trap 'echo {name} >> {order}; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    names = ["first", "second", "third"]
    plan = Plan(
        str(run), [service(run, name, "sh", "-c", trap.format(name=name, order=order)) for name in names]
    )
    process = control.start_supervisor(plan)
    assert wait_for(lambda: all((run / f"{name}.log").read_text().startswith("ready") for name in names))
    assert control.stop_supervisor(run)
    assert process.wait(120) == 0
    assert order.read_text().split() == ["third", "second", "first"]


def test_a_second_supervisor_of_the_same_folder_refuses(
    run: Path, supervisor: subprocess.Popen[bytes]
) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "tailrace.stack.supervisor", str(run / "plan.json")], timeout=120, check=False
    )
    assert second.returncode == 1
    assert supervisor.poll() is None


def test_a_stale_state_file_is_not_taken_for_a_running_supervisor(run: Path) -> None:
    (run / "state.json").write_text('{"supervisor": {"pid": 1, "started_at": 0}, "services": []}')
    assert control.supervisor_pid(run) is None
    assert not control.stop_supervisor(run)
