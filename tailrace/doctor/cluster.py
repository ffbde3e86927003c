"""A Flink cluster that Tailrace did not start: is it one that our jobs run on? Asked over its REST."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any

from tailrace.doctor.finding import Finding
from tailrace.errors import ExitCode, UserError

FLINK = "2.3."
_PYTHON_KEYS = ("python.executable", "python.client.executable")
_WEIGHTS = "taskmanager.memory.managed.consumer-weights"
_CONSUMERS = ("STATE_BACKEND", "OPERATOR", "PYTHON")
_JARS = {"flink-python-": "opt/flink-python-2.3.0.jar", "flink-sql-connector-kafka-": "the Kafka connector"}

Ask = Callable[[str], Any]


def rest_of(address: str, timeout_s: float = 10.0) -> Ask:
    """Return a function that asks the cluster's REST for a path.

    Parameters
    ----------
    address
        `HOST:PORT` or a URL.
    timeout_s
        Of one question.
    """
    base = address if "://" in address else f"http://{address}"

    def ask(path: str) -> Any:
        try:
            with urllib.request.urlopen(base.rstrip("/") + path, timeout=timeout_s) as answer:
                return json.load(answer)
        except (OSError, ValueError) as error:
            raise UserError(
                "TR-301",
                f"{base}{path}: wanted Flink's REST, got {error}",
                "wrong address or port, a firewall, or the JobManager is down",
                "tailrace doctor --cluster HOST:PORT with the JobManager's rest.port",
                ExitCode.ENVIRONMENT,
            ) from error

    return ask


def check_cluster(ask: Ask) -> Iterable[Finding]:
    """Compare a cluster's configuration with what the jobs need.

    Parameters
    ----------
    ask
        Gives the JSON of a REST path.
    """
    configuration = {row["key"]: str(row["value"]) for row in ask("/jobmanager/config")}
    yield _version(ask("/overview")["flink-version"])
    yield from _slots(ask("/taskmanagers")["taskmanagers"])
    yield _parent_first(configuration)
    yield _weights(configuration)
    yield _state(configuration)
    yield _incremental(configuration)
    yield _python(configuration)
    yield from _libraries(ask("/jobmanager/environment").get("classpath", []))


def _version(got: str) -> Finding:
    if got.startswith(FLINK):
        return Finding("TR-302", "ok", f"Flink {got}")
    return Finding(
        "TR-302",
        "error",
        f"Flink: wanted {FLINK}x, got {got}",
        "the jobs use two internal names of PyFlink 2.3 and its state formats",
        "run the image in deploy/, or a 2.3 distribution",
    )


def _slots(taskmanagers: list[dict[str, Any]]) -> Iterable[Finding]:
    total = sum(row["slotsNumber"] for row in taskmanagers)
    if total == 0:
        yield Finding(
            "TR-303",
            "error",
            "slots: wanted one or more, got 0",
            "no TaskManager is registered",
            "start TaskManagers",
        )
        return
    yield Finding("TR-303", "ok", f"{total} slots in {len(taskmanagers)} TaskManagers")
    crowded = [row["id"] for row in taskmanagers if row["slotsNumber"] > 1]
    if crowded:
        yield Finding(
            "TR-304",
            "warning",
            f"slots a TaskManager: wanted 1, got more in {', '.join(crowded[:3])}",
            "in thread mode a TaskManager has one interpreter lock, so its slots wait for each other",
            "taskmanager.numberOfTaskSlots: 1, and more TaskManagers",
        )


def _parent_first(configuration: dict[str, str]) -> Finding:
    key = "classloader.parent-first-patterns.additional"
    if "pemja" in configuration.get(key, ""):
        return Finding("TR-305", "ok", f"{key} has pemja")
    return Finding(
        "TR-305",
        "error",
        f"{key}: wanted pemja, got {configuration.get(key) or 'nothing'}",
        "the second job in a TaskManager dies with NoSuchFieldException: loadedLibraryNames",
        f"{key}: pemja, and opt/flink-python-2.3.0.jar in lib/",
    )


def _weights(configuration: dict[str, str]) -> Finding:
    # REST shows the map as one key or flattened, depending on how config.yaml writes it.
    shown = configuration.get(_WEIGHTS, "") + "".join(
        key.removeprefix(_WEIGHTS) for key in configuration if key.startswith(_WEIGHTS)
    )
    missing = [name for name in _CONSUMERS if name not in shown]
    # Flink's default names all three.
    if not shown or not missing:
        return Finding("TR-306", "ok", f"{_WEIGHTS}: {'the default' if not shown else 'all three consumers'}")
    return Finding(
        "TR-306",
        "error",
        f"{_WEIGHTS}: wanted {', '.join(_CONSUMERS)}, got none for {', '.join(missing)}",
        "a consumer without a weight gets no memory, and the job restarts for ever",
        f"{_WEIGHTS}: {{STATE_BACKEND: 60, OPERATOR: 25, PYTHON: 15}}",
    )


def _state(configuration: dict[str, str]) -> Finding:
    got = configuration.get("state.backend.type", "hashmap")
    if "rocksdb" in got.lower():
        return Finding("TR-307", "ok", "state back end rocksdb")
    return Finding(
        "TR-307",
        "warning",
        f"state.backend.type: wanted rocksdb, got {got}",
        "state on the heap is bounded by it; our jobs set rocksdb themselves, others' may not",
        "state.backend.type: rocksdb",
    )


def _incremental(configuration: dict[str, str]) -> Finding:
    place = configuration.get("execution.checkpointing.dir") or configuration.get("state.checkpoints.dir")
    incremental = configuration.get("execution.checkpointing.incremental", "false").lower() == "true"
    if place and incremental:
        return Finding("TR-308", "ok", f"incremental checkpoints to {place}")
    return Finding(
        "TR-308",
        "error" if not place else "warning",
        f"checkpoints: wanted incremental in a folder, got {place or 'no folder'}, incremental {incremental}",
        "without a folder a checkpoint lives in the JobManager; a full one copies all state each time",
        "execution.checkpointing.dir: s3://... and execution.checkpointing.incremental: true",
    )


def _python(configuration: dict[str, str]) -> Finding:
    missing = [key for key in _PYTHON_KEYS if not configuration.get(key)]
    if not missing:
        return Finding("TR-309", "ok", f"python.executable {configuration['python.executable']}")
    return Finding(
        "TR-309",
        "warning",
        f"{', '.join(missing)}: wanted a path, got nothing",
        "whatever `python` is first on the worker's PATH runs the functions",
        "set both to the interpreter that has the worker extra",
    )


def _libraries(class_path: Any) -> Iterable[Finding]:
    shown = class_path if isinstance(class_path, str) else ":".join(class_path)
    if not shown:
        return
    for part, name in _JARS.items():
        if part in shown:
            yield Finding("TR-310", "ok", f"{name} is in lib/")
        else:
            yield Finding(
                "TR-310",
                "error",
                f"lib/: wanted {name}, got a class path without it",
                "the distribution keeps it in opt/, or it has to be added",
                "run the image in deploy/, or put the jar in lib/ of every JobManager and TaskManager",
            )
