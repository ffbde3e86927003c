"""A small process beside the supervisor that ends what is left when the supervisor is killed.

The kernel kills the supervisor's own children with it, but not what those had started: a Beam worker lives on
for minutes after its TaskManager (seen). The guard waits for the end of its standard input, which the
supervisor holds open, and then ends every process that carries the supervisor's mark in its environment.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

_ROUNDS = 20
_ROUND_S = 0.1


def processes_with(mark: str) -> list[int]:
    """Return the pids of this user's live processes that have `NAME=value` in their environment."""
    wanted = mark.encode()
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                pids.append(int(folder.name))
        except OSError:
            continue
    return pids


def end_processes_with(mark: str) -> int:
    """Kill the processes that carry the mark and wait until they are gone; return how many there were."""
    ended: set[int] = set()
    for _ in range(_ROUNDS):
        left = processes_with(mark)
        if not left:
            break
        ended.update(left)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(_ROUND_S)
    return len(ended)


def main(mark: str) -> None:
    """Wait for the supervisor's end, then end what it left."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while os.read(0, 1):
        pass
    end_processes_with(mark)


if __name__ == "__main__":
    main(sys.argv[1])
