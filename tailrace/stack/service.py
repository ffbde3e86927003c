"""One child process of the stack, as plain data: what the supervisor starts and restarts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

RUN_MARK = "TAILRACE_RUN"
"""In the environment of every child, and so of all that it starts: the run folder."""
SUPERVISOR_MARK = "TAILRACE_SUPERVISOR"
"""Beside it: which supervisor of that folder."""


@dataclass(frozen=True)
class Service:
    """How to start one child.

    Parameters
    ----------
    name
        As `tailrace status` shows it, e.g. `taskmanager-1`.
    command
        The program and its arguments; its pid is the child's pid, so no shell around it.
    environment
        All of it: nothing is inherited. The supervisor adds its marks.
    folder
        Working folder.
    log
        Where stdout and stderr are appended.
    port
        The port that answers when it is up, if it has one.
    scratch
        A folder emptied before each start.
    stop_s
        How long it may take to end after SIGTERM, in seconds.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    folder: str
    log: str
    port: int | None = None
    scratch: str | None = None
    stop_s: float = 15.0


@dataclass(frozen=True)
class Plan:
    """What one supervisor runs, in start order.

    Parameters
    ----------
    run_folder
        Where the supervisor writes `state.json` and holds `supervisor.lock`.
    services
        Stopped in the reverse order.
    """

    run_folder: str
    services: list[Service] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write the plan as JSON that only its owner reads: an environment may hold secrets."""
        path.touch(mode=0o600)
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read what `write` wrote."""
        tree = json.loads(path.read_text(encoding="utf-8"))
        return cls(tree["run_folder"], [Service(**service) for service in tree["services"]])
