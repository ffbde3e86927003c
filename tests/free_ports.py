"""Ports that nothing else takes between their choice and the moment when a test's process listens on them."""

from __future__ import annotations

import contextlib
import os
import random
import socket

FIRST, BEHIND = 10_000, 32_000
"""Below what Linux gives to outgoing connections (32768 and above): none of those can have taken one meanwhile."""
PROCESSES = 16


def free_ports(count: int) -> list[int]:
    """Give ports that are free, and that no other process of this run of the tests would choose."""
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % PROCESSES
    found: list[int] = []
    own = range(FIRST + process, BEHIND, PROCESSES)
    for port in random.SystemRandom().sample(own, len(own)):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"{count} free ports from {FIRST} on: wanted, got {len(found)}")
