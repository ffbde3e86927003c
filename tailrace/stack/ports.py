"""Whether a loopback port is free, and which process holds it if not."""

from __future__ import annotations

import socket

import psutil


def port_is_free(host: str, port: int) -> bool:
    """Tell whether a server could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def port_accepts(host: str, port: int, timeout_s: float = 0.5) -> bool:
    """Tell whether something accepts connections on the port."""
    try:
        socket.create_connection((host, port), timeout_s).close()
    except OSError:
        return False
    return True


def port_holder(port: int) -> str:
    """Return `name (pid 123)` of the process that listens on the port, as far as it can be seen."""
    pid = port_holder_pid(port)
    if pid is None:
        return "a process that this user cannot see"
    try:
        return f"{psutil.Process(pid).name()} (pid {pid})"
    except psutil.Error:
        return f"pid {pid}"


def port_holder_pid(port: int) -> int | None:
    """Return the pid of the process that listens on the port, or `None` where it is hidden."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return None
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            return connection.pid
    return None
