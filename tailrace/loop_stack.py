"""The stack of `tailrace demo loop`: one of its own, with windows of minutes, because its hour takes minutes."""

from __future__ import annotations

import os
import shutil
import socket
from typing import Final

from flink_jobs.settings import ENVIRONMENT_PREFIX, Settings
from tailrace import flink_client
from tailrace.connections import ensure_topics
from tailrace.demo_clicks import Tell
from tailrace.doctor.machine import check_machine
from tailrace.errors import ExitCode, UserError
from tailrace.hidden_tastes import MINUTE_MS
from tailrace.stack.local import PORT_SETTINGS, LocalStack
from tailrace.toml_text import settings_toml

FEEDBACK: Final = {
    "click_ms": 2 * MINUTE_MS,
    "dwell_ms": 2 * MINUTE_MS,
    "add_to_cart_ms": 2 * MINUTE_MS,
    "purchase_ms": 2 * MINUTE_MS,
    "credit_ms": 2 * MINUTE_MS,
    "skew_ms": 0,
    "lateness_ms": 2 * MINUTE_MS,
    "batch_ms": 500,
    "posterior_ms": 2_000,
}
"""Of the feedback job: an example leaves four minutes of event time after its list was shown."""
JOBS: Final = ("recommend", "feedback")
_KEPT: Final = (
    "cache",
    "host",
    "taskmanager_memory_mb",
    "jobmanager_memory_mb",
    "kafka_heap_mb",
    "redis_memory_mb",
)


class LoopStack:
    """Kafka, store and Flink on free ports, two jobs of one slot each, and the settings file that commands take.

    What an earlier one left is deleted. Settings of the caller that say how lists are made do not count: the demo
    shows the defaults.

    Parameters
    ----------
    base
        The caller's settings: where to put it, and how much memory it may take.
    """

    def __init__(self, base: Settings) -> None:
        folder = base.stack.home.resolve() / "loop"
        for name in [name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX)]:
            del os.environ[name]  # they are in `base`, and stand above the file that the jobs read
        ports = _free_ports(len(PORT_SETTINGS), base.stack.host)
        stack = {name: getattr(base.stack, name) for name in _KEPT} | dict(
            zip(PORT_SETTINGS, ports, strict=True)
        )
        stack |= {"home": folder / "stack", "taskmanagers": len(JOBS)}
        host = base.stack.host
        self.settings = Settings.model_validate(
            {
                "stack": stack,
                # Simulated time lies in the past.
                "kafka": {"bootstrap_servers": f"{host}:{stack['kafka_port']}", "retention_ms": -1},
                "redis": {"url": f"redis://{host}:{stack['redis_port']}/0"},
                "job": {"parallelism": 1, "checkpoint_interval_ms": 4_000},
                "feedback": FEEDBACK,
                "model": {"root": folder / "models"},
                "registry": {"uri": ""},
            }
        )
        self.config = folder / "tailrace.toml"
        self._stack = LocalStack(self.settings)

    def check(self, tell: Tell) -> str:
        """Look for what would make a later step fail, and clear what an earlier run left."""
        for finding in check_machine(self.settings):
            if finding.severity == "error":
                raise UserError(
                    finding.number, finding.what, finding.cause, finding.fix, ExitCode.ENVIRONMENT
                )
        self._stack.down(purge=True)
        shutil.rmtree(self.config.parent, ignore_errors=True)
        self.config.parent.mkdir(parents=True)
        self.config.write_text(settings_toml(self.settings), encoding="utf-8")
        return f"settings in {self.config}"

    def start(self, tell: Tell) -> str:
        """Bring it up; it ends with this process."""
        self._stack.up(progress=lambda line: tell(line, None), tied=True)
        ensure_topics(self.settings)
        return "Kafka, the store and Flink run"

    def jobs(self, tell: Tell) -> str:
        """Submit both jobs, and wait until they run."""
        target, made = flink_client.local_jobmanager(self.settings), []
        for job in JOBS:
            tell(f"flink run {job}", None)
            made.append(flink_client.submit(self.settings, job, target, self.config))
        for job_id in made:
            flink_client.wait_until_running(target, job_id, 240.0, progress=lambda line: tell(line, None))
        return " and ".join(JOBS) + " run"

    def down(self) -> None:
        """Stop it; what it wrote stays until the next time."""
        self._stack.down()


def _free_ports(count: int, host: str) -> list[int]:
    sockets = [socket.create_server((host, 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
