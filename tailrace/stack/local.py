"""The local stack: Kafka, the store and a Flink cluster as child processes of one supervisor."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from flink_jobs.settings import Settings
from tailrace.errors import ExitCode, UserError
from tailrace.stack import control
from tailrace.stack.flink import flink_rest, flink_services, wheel_folder
from tailrace.stack.jars import Progress, fetch_jars, locked_jars
from tailrace.stack.java import find_java
from tailrace.stack.kafka import kafka_answers, kafka_service
from tailrace.stack.ports import port_holder, port_is_free
from tailrace.stack.service import Plan, Service
from tailrace.stack.store import forget_saved_copy, store_answers, store_service

PORT_SETTINGS = (
    "kafka_port",
    "kafka_controller_port",
    "redis_port",
    "flink_port",
    "flink_rpc_port",
    "flink_blob_port",
)
_READY_WITHIN_S = 300.0
_GIVE_UP_AFTER_RESTARTS = 3


@dataclass(frozen=True)
class ServiceStatus:
    """One line of `tailrace status`.

    Parameters
    ----------
    name, pid, port, log
        Of the process; `pid` is `None` while it is down.
    uptime_s
        Since its latest start.
    restarts
        Since `tailrace up`.
    healthy
        It answers: metadata, PING, REST, a registered slot.
    last_exit
        How the process before this one ended.
    """

    name: str
    pid: int | None
    port: int | None
    log: str
    uptime_s: float
    restarts: int
    healthy: bool
    last_exit: str | None


@dataclass(frozen=True)
class StackStatus:
    """What runs now. `jobs` are Flink's own records, with `checkpoints_completed` added."""

    running: bool
    supervisor_pid: int | None
    services: list[ServiceStatus]
    flink_url: str
    jobs: list[dict]

    @property
    def healthy(self) -> bool:
        """All processes answer."""
        return self.running and all(service.healthy for service in self.services)


class LocalStack:
    """The stack of one state home; tests give their own home and ports.

    Parameters
    ----------
    settings
        The sections [stack], [kafka], [redis] and [job] are read.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.home = settings.stack.home.resolve()
        self._run = self.home / "run"
        self._process: subprocess.Popen[bytes] | None = None

    def running(self) -> bool:
        """Tell whether a supervisor of this home is alive."""
        return control.supervisor_runs(self._run)

    def up(self, progress: Progress = lambda line: None, tied: bool = False) -> bool:
        """Start what is needed and wait until all answer; tell whether anything had to be started.

        Parameters
        ----------
        progress
            Called with a line for each step.
        tied
            The stack ends with this process, even by `kill -9`; else it outlives it.

        Raises
        ------
        UserError
            With the last lines of a child's log where it does not start.
        """
        if sys.platform != "linux":
            raise UserError(
                "TR-112",
                f"system: wanted Linux, got {sys.platform}",
                "the supervisor asks the Linux kernel to end its children with it",
                "run it in a Linux container or virtual machine",
                ExitCode.ENVIRONMENT,
            )
        with control.one_at_a_time(self._run):
            if self.running():
                if not self.status().healthy:
                    self._wait_until_ready(progress)
                return False
            self._refuse_taken_ports()
            plan = Plan(str(self._run), self._services(progress))
            progress("starting " + ", ".join(service.name for service in plan.services))
            self._process = control.start_supervisor(plan, tied)
            try:
                self._wait_until_ready(progress)
            except BaseException:
                self.down()
                raise
            forget_saved_copy(self.settings)
            return True

    def down(self, purge: bool = False) -> bool:
        """Stop all; tell whether anything ran. Data stay, unless `purge` deletes the whole state home."""
        ran = control.stop_supervisor(self._run)
        if self._process is not None:
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process.wait()
            self._process = None
        if purge:
            shutil.rmtree(self.home, ignore_errors=True)
        return ran

    def pids(self) -> dict[str, int]:
        """Return the pid of each child that is alive: `kafka`, `store`, `jobmanager`, `taskmanager-1`, ..."""
        return {child.name: child.pid for child in control.children(self._run) if child.pid is not None}

    def status(self) -> StackStatus:
        """Ask every process and return what they say."""
        children = control.children(self._run)
        health = self._health(children) if children else {}
        services = [
            ServiceStatus(
                child.name,
                child.pid,
                child.port,
                child.log,
                max(0.0, time.time() - child.started_at) if child.pid is not None else 0.0,
                child.restarts,
                child.pid is not None and health.get(child.name, False),
                child.last_exit,
            )
            for child in children
        ]
        url = f"http://{self.settings.stack.host}:{self.settings.stack.flink_port}"
        return StackStatus(
            bool(children), control.supervisor_pid(self._run), services, url, self._jobs() if children else []
        )

    def _services(self, progress: Progress) -> list[Service]:
        java = find_java()
        cache = self.settings.stack.cache.resolve()
        jars = fetch_jars(cache, locked_jars("kafka"), progress)
        bridge = next(wheel_folder().glob("lib/log4j-slf4j-impl-*.jar"), None)
        return [
            kafka_service(self.settings, java, jars, bridge),
            store_service(self.settings),
            *flink_services(self.settings, java, progress),
        ]

    def _refuse_taken_ports(self) -> None:
        for setting in PORT_SETTINGS:
            port = getattr(self.settings.stack, setting)
            if not port_is_free(self.settings.stack.host, port):
                raise port_taken(setting, port)

    def _wait_until_ready(self, progress: Progress) -> None:
        started = time.monotonic()
        waiting = {child.name for child in control.children(self._run)}
        while True:
            children = control.children(self._run)
            if not children:
                raise self._not_started("supervisor", self._run / "supervisor.log", "it ended")
            health = self._health(children)
            for name in sorted(waiting):
                if health.get(name):
                    waiting.discard(name)
                    progress(f"{name} is up after {time.monotonic() - started:.1f} s")
            if not waiting:
                return
            for child in children:
                if child.name in waiting and child.restarts >= _GIVE_UP_AFTER_RESTARTS:
                    raise self._not_started(
                        child.name, Path(child.log), f"it ended {child.restarts} times ({child.last_exit})"
                    )
            if time.monotonic() - started > _READY_WITHIN_S:
                child = next(child for child in children if child.name in waiting)
                raise self._not_started(
                    child.name, Path(child.log), f"no answer within {_READY_WITHIN_S:.0f} s"
                )
            time.sleep(0.2)

    def _not_started(self, name: str, log: Path, what: str) -> UserError:
        return UserError(
            "TR-105",
            f"{name} did not start: {what}",
            f"the last lines of {log}:\n{last_lines(log, 15)}",
            f"tailrace doctor; tailrace logs {name} -n 200",
        )

    def _health(self, children: list[control.ChildState]) -> dict[str, bool]:
        registered = flink_rest(self.settings, "/taskmanagers")
        beats_ms = {
            row["id"]: row["timeSinceLastHeartbeat"] for row in (registered or {}).get("taskmanagers", [])
        }
        health = {"kafka": kafka_answers(self.settings), "store": store_answers(self.settings)}
        health["jobmanager"] = registered is not None
        for child in children:
            if child.name.startswith("taskmanager"):
                # A point in time, despite its name: 0 until the first beat, and before the start it is of the
                # former process, which the JobManager still believes in.
                beat_ms = beats_ms.get(child.name)
                health[child.name] = beat_ms is not None and (
                    beat_ms == 0 or beat_ms > child.started_at * 1_000
                )
        return health

    def _jobs(self) -> list[dict]:
        overview = flink_rest(self.settings, "/jobs/overview")
        jobs = []
        for job in (overview or {}).get("jobs", []):
            checkpoints = flink_rest(self.settings, f"/jobs/{job['jid']}/checkpoints") or {}
            jobs.append({**job, "checkpoints_completed": checkpoints.get("counts", {}).get("completed", 0)})
        return jobs


def port_taken(setting: str, port: int) -> UserError:
    """Return the error for a port of the stack that something else holds."""
    return UserError(
        "TR-104",
        f"port {port} (stack.{setting}): wanted free, got taken by {port_holder(port)}",
        "another program, or another stack with the same ports, listens there",
        f"end that program, or set stack.{setting} in tailrace.toml (or TAILRACE_STACK__{setting.upper()})",
        ExitCode.ENVIRONMENT,
    )


def last_lines(log: Path, count: int) -> str:
    """Return the last lines of a log, reading no more than its last 64 KiB."""
    if not log.is_file():
        return "(no log)"
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 65_536))
        text = stream.read().decode("utf-8", "replace")
    return "\n".join(text.splitlines()[-count:])
