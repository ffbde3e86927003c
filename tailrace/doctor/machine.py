"""The machine that the stack runs on: Java, the store, ports, disk, memory, jars, folders, clock."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from flink_jobs.settings import Settings
from tailrace.doctor.finding import Finding
from tailrace.errors import UserError
from tailrace.stack import control
from tailrace.stack.flink import THREAD_LIMITS
from tailrace.stack.jars import damaged_jars, locked_jars, missing_jars
from tailrace.stack.java import find_java
from tailrace.stack.local import PORT_SETTINGS, port_taken
from tailrace.stack.ports import port_holder_pid, port_is_free
from tailrace.stack.store import find_store

_DISK_ERROR_BYTES = 1_000_000_000
_DISK_WARNING_BYTES = 5_000_000_000
_PYTHON_WORKER_MB = 600
_OPEN_FILES = 4_096
_CLOCK_SKEW_S = 2.0
_EARLIEST_CLOCK_S = 1_767_225_600  # 2026-01-01: before it the clock was never set


def check_machine(settings: Settings) -> Iterable[Finding]:
    """Look at everything that `tailrace up` needs."""
    yield _system()
    yield _java()
    yield _store()
    yield from _ports(settings)
    yield from _jars(settings)
    yield _disk(settings)
    yield _memory(settings)
    yield from _folders(settings)
    yield _clock(settings)
    yield _open_files()
    yield _thread_limits(settings)


def _system() -> Finding:
    if sys.platform == "linux":
        return Finding("TR-112", "ok", "Linux")
    return Finding(
        "TR-112",
        "error",
        f"system: wanted Linux, got {sys.platform}",
        "the supervisor asks the Linux kernel to end its children with it",
        "run it in a Linux container or virtual machine",
    )


def _java() -> Finding:
    try:
        java = find_java()
    except UserError as error:
        return Finding.of(error)
    return Finding("TR-101", "ok", f"Java {java.major} at {java.home}")


def _store() -> Finding:
    try:
        return Finding("TR-102", "ok", f"store: {find_store()}")
    except UserError as error:
        return Finding.of(error)


def _ports(settings: Settings) -> Iterable[Finding]:
    ours = _our_pids(settings)
    free, used = [], []
    for setting in PORT_SETTINGS:
        port = getattr(settings.stack, setting)
        if port_is_free(settings.stack.host, port):
            free.append(port)
        elif port_holder_pid(port) in ours:
            used.append(port)
        else:
            yield Finding.of(port_taken(setting, port))
    if len(free) + len(used) == len(PORT_SETTINGS):
        yield Finding("TR-104", "ok", f"ports: {len(free)} free, {len(used)} held by the running stack")


def _our_pids(settings: Settings) -> set[int]:
    return {
        child.pid
        for child in control.children(settings.stack.home.resolve() / "run")
        if child.pid is not None
    }


def _jars(settings: Settings) -> Iterable[Finding]:
    cache = settings.stack.cache.resolve()
    wanted = [*locked_jars("kafka"), *locked_jars("flink")]
    damaged = damaged_jars(cache, wanted)
    for jar in damaged:
        yield Finding(
            "TR-111",
            "error",
            f"{jar.file_name}: its bytes are not those of the lock",
            "the cache was written by something else, or the disk is failing",
            f"rm {cache / 'jars' / jar.file_name}; tailrace up",
        )
    absent = missing_jars(cache, wanted)
    if absent:
        yield Finding(
            "TR-110",
            "warning",
            f"jars: {len(absent)} of {len(wanted)} not in {cache}",
            "nothing was fetched yet",
            f"tailrace up   (fetches {sum(jar.size_bytes for jar in absent) / 1e6:.0f} MB)",
        )
    elif not damaged:
        yield Finding("TR-110", "ok", f"jars: all {len(wanted)}, each with its SHA-256")


def _disk(settings: Settings) -> Finding:
    place = _existing(settings.stack.home)
    free = shutil.disk_usage(place).free
    if free >= _DISK_WARNING_BYTES:
        return Finding("TR-205", "ok", f"disk: {free / 1e9:.0f} GB free at {place}")
    return Finding(
        "TR-205",
        "error" if free < _DISK_ERROR_BYTES else "warning",
        f"disk at {place}: wanted {_DISK_WARNING_BYTES / 1e9:.0f} GB free, got {free / 1e9:.1f} GB",
        "topics, checkpoints and RocksDB's files stand there; a full disk stops the broker",
        "tailrace down --purge, or set stack.home to a larger disk",
    )


def _memory(settings: Settings) -> Finding:
    stack = settings.stack
    flink_mb = stack.jobmanager_memory_mb + stack.taskmanagers * (
        stack.taskmanager_memory_mb + _PYTHON_WORKER_MB
    )
    wanted_mb = flink_mb + stack.kafka_heap_mb + 200
    running = bool(_our_pids(settings))
    memory = psutil.virtual_memory()
    got_mb = (memory.total if running else memory.available) // 1_000_000
    if got_mb >= wanted_mb:
        return Finding("TR-206", "ok", f"memory: {got_mb:,} MB for a stack of {wanted_mb:,} MB")
    return Finding(
        "TR-206",
        "warning",
        f"memory: wanted {wanted_mb:,} MB, got {got_mb:,} MB",
        "Python's memory comes on top of all of Flink's; the kernel kills what is largest",
        "set stack.taskmanagers = 1 or a smaller stack.taskmanager_memory_mb",
    )


def _folders(settings: Settings) -> Iterable[Finding]:
    places = {"stack.home": _existing(settings.stack.home), "stack.cache": _existing(settings.stack.cache)}
    for setting, place in places.items():
        try:
            with tempfile.NamedTemporaryFile(dir=place) as file:
                file.write(b"tailrace")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            yield Finding(
                "TR-208",
                "error",
                f"{setting}: wanted a folder to write in, got {place}: {error.strerror}",
                "another user owns it, or the disk is read-only or full",
                f"set {setting} to a folder of yours",
            )
            continue
        if setting == "stack.home" and os.statvfs(place).f_flag & os.ST_NOEXEC:
            yield Finding(
                "TR-208",
                "error",
                f"{setting}: wanted a folder that programs may be loaded from, got a noexec mount at {place}",
                "RocksDB unpacks its library there",
                "set stack.home to another disk",
            )
            continue
        yield Finding("TR-208", "ok", f"{setting}: {place} can be written")


def _clock(settings: Settings) -> Finding:
    now = time.time()
    with tempfile.NamedTemporaryFile(dir=_existing(settings.stack.home)) as file:
        skew_s = abs(Path(file.name).stat().st_mtime - now)
    if now > _EARLIEST_CLOCK_S and skew_s < _CLOCK_SKEW_S:
        return Finding("TR-209", "ok", "clock: set, and the disk agrees")
    return Finding(
        "TR-209",
        "error",
        f"clock: wanted after 2025, within {_CLOCK_SKEW_S} s of the disk; got {now:.0f}, {skew_s:.1f} s",
        "an event from the future holds up every window behind it",
        "timedatectl set-ntp true",
    )


def _open_files() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= _OPEN_FILES or soft == resource.RLIM_INFINITY:
        return Finding("TR-210", "ok", f"open files: {soft:,} a process")
    return Finding(
        "TR-210",
        "warning",
        f"open files: wanted {_OPEN_FILES:,} a process, got {soft:,}",
        "RocksDB and Kafka keep a file open for each of theirs",
        f"ulimit -n {_OPEN_FILES}",
    )


def _thread_limits(settings: Settings) -> Finding:
    wanted = [f"{name}={value}".encode() for name, value in THREAD_LIMITS.items()]
    for child in control.children(settings.stack.home.resolve() / "run"):
        if child.name.startswith("taskmanager") and child.pid is not None:
            variables = Path(f"/proc/{child.pid}/environ").read_bytes().split(b"\0")
            missing = [name.decode() for name in wanted if name not in variables]
            if missing:
                return Finding(
                    "TR-207",
                    "error",
                    f"{child.name}: wanted {', '.join(missing)} in its environment",
                    "BLAS threads of the workers spin against each other: six times the cost of a ranking",
                    "tailrace down; tailrace up",
                )
    return Finding("TR-207", "ok", "thread limits: one BLAS thread a worker")


def _existing(path: Path) -> Path:
    path = path.resolve()
    while not path.exists():
        path = path.parent
    return path
