"""A Flink session cluster from the apache-flink wheel: one JobManager, N TaskManagers of one slot each.

A TaskManager in thread mode has one interpreter lock, hence one slot. The Java processes are started
directly, not by `bin/taskmanager.sh`: a restart then costs one JVM instead of three, and the pid is its own.
A killed JobManager comes back without its jobs (no ZooKeeper here): submit them again from a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flink_jobs.settings import ENVIRONMENT_PREFIX, Settings
from tailrace.errors import ExitCode, UserError
from tailrace.stack.flink_config import flink_configuration
from tailrace.stack.jars import fetch_jars, locked_jars
from tailrace.stack.java import Java, find_java
from tailrace.stack.noise_key import noise_key
from tailrace.stack.service import Service

_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
_TOOL = "org.apache.flink.runtime.util.bash.BashJavaUtils"
_RESULT = "BASH_JAVA_UTILS_EXEC_RESULT:"
THREAD_LIMITS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""A worker's BLAS threads spin against each other: without the limits a ranking costs six times as much."""


def wheel_folder() -> Path:
    """Where the apache-flink wheel stands.

    Raises
    ------
    UserError
        TR-103 where it is not installed.
    """
    found = find_spec("pyflink")
    if found is None or found.origin is None:
        raise UserError(
            "TR-103",
            f"apache-flink: not installed in {sys.prefix}",
            "the environment lacks the `worker` extra",
            "uv pip install 'tailrace[worker,stack]'",
            ExitCode.ENVIRONMENT,
        )
    return Path(found.origin).parent


def flink_command_environment(settings: Settings, java: Java | None = None) -> tuple[Path, dict[str, str]]:
    """Return the `flink` program and the environment in which it speaks to the local cluster.

    Parameters
    ----------
    settings
        Of the stack that was started.
    java
        The runtime; found if not given.
    """
    wheel = wheel_folder()
    home = settings.stack.home.resolve()
    runtime = java or find_java()
    environment = {
        # Settings and secrets: the store's password reaches the rank workers this way and no other.
        **{name: value for name, value in os.environ.items() if name.startswith(ENVIRONMENT_PREFIX)},
        **THREAD_LIMITS,
        "PATH": f"{Path(sys.executable).parent}:{runtime.home / 'bin'}:{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": python_path(),
        "PYTHONSAFEPATH": "1",  # the client builds a job from what it ships, not from the folder it is called in
        "NUMBA_CACHE_DIR": str(settings.stack.cache.resolve() / "numba"),
        "JAVA_HOME": str(runtime.home),
        "FLINK_HOME": str(wheel),
        "FLINK_BIN_DIR": str(wheel / "bin"),
        "FLINK_OPT_DIR": str(wheel / "opt"),
        "FLINK_PLUGINS_DIR": str(wheel / "plugins"),
        "FLINK_LIB_DIR": str(home / "flink" / "lib"),
        "FLINK_CONF_DIR": str(home / "flink" / "conf"),
        "FLINK_LOG_DIR": str(home / "logs"),
        "FLINK_PID_DIR": str(home / "run"),
        "HOME": os.environ.get("HOME", str(home)),
        "LANG": "C.UTF-8",
    }
    return wheel / "bin" / "flink", environment


def python_path() -> str:
    """Return site-packages alone: a job ships its own code, and a checkout in the way would hide it."""
    return sysconfig.get_path("purelib")


def prepare_flink(settings: Settings, progress: Any = lambda line: None) -> None:
    """Write the lib and conf folders that the programs of the local cluster and the client read."""
    home, wheel = settings.stack.home.resolve(), wheel_folder()
    connectors = fetch_jars(settings.stack.cache.resolve(), locked_jars("flink"), progress)
    _link_libraries(home / "flink" / "lib", wheel, connectors)
    _write_conf(home / "flink" / "conf", wheel, settings)


def flink_services(settings: Settings, java: Java, progress: Any = lambda line: None) -> list[Service]:
    """Write the lib and conf folders and return how to start the JobManager and the TaskManagers."""
    home = settings.stack.home.resolve()
    prepare_flink(settings, progress)
    for folder in ("checkpoints", "savepoints", "logs", "run"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    (settings.stack.cache.resolve() / "numba").mkdir(parents=True, exist_ok=True)
    names = [f"taskmanager-{number}" for number in range(1, settings.stack.taskmanagers + 1)]
    return [
        _service(settings, java, "jobmanager", _JOB_MANAGER, []),
        *[
            _service(settings, java, name, _TASK_MANAGER, [f"taskmanager.resource-id={name}"])
            for name in names
        ],
    ]


def flink_rest(settings: Settings, path: str, timeout_s: float = 2.0) -> Any:
    """Return the JSON that the local cluster's REST gives for a path, or `None` where it does not answer."""
    url = f"http://{settings.stack.host}:{settings.stack.flink_port}{path}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback never goes by a proxy
    try:
        with opener.open(url, timeout=timeout_s) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None


def _service(settings: Settings, java: Java, name: str, main_class: str, options: list[str]) -> Service:
    home = settings.stack.home.resolve()
    lib, conf = home / "flink" / "lib", home / "flink" / "conf"
    _, environment = flink_command_environment(settings, java)
    scratch = home / "tmp" / name
    role = "JM" if name == "jobmanager" else "TM"
    if role == "TM":
        environment |= noise_key(home)
    heap, sizes = _memory(java, role, home, environment)
    log = home / "logs" / f"{name}.log"
    opens = flink_configuration(settings, wheel_folder())["env.java.opts.all"].split()
    # The JobManager only coordinates: the second compiler takes from the job's cores what it never gives back.
    compilers = ["-XX:TieredStopAtLevel=1"] if role == "JM" else []
    command = [
        str(java.binary),
        "-XX:+IgnoreUnrecognizedVMOptions",
        "-XX:+UseG1GC",
        *compilers,
        *heap,
        *opens,
    ]
    command += [f"-Dlog4j.configurationFile=file:{conf / 'log4j.properties'}", f"-Dlog.file={log}"]
    command += ["-classpath", _class_path(lib), main_class, "--configDir", str(conf), *sizes]
    for option in [f"io.tmp.dirs={scratch}", *options]:
        command += ["-D", option]
    return Service(
        name=name,
        command=command,
        environment=environment,
        folder=str(home),
        log=str(log),
        port=settings.stack.flink_port if role == "JM" else None,
        scratch=str(scratch),
    )


def _class_path(lib: Path) -> str:
    jars = sorted(lib.glob("*.jar"), key=lambda jar: (jar.name.startswith("flink-dist"), jar.name))
    return ":".join(str(jar) for jar in jars)


def _link_libraries(lib: Path, wheel: Path, connectors: list[Path]) -> None:
    lib.mkdir(parents=True, exist_ok=True)
    wanted = {
        jar.name: jar
        for jar in [*wheel.glob("lib/*.jar"), *wheel.glob("opt/flink-python-*.jar"), *connectors]
    }
    for old in lib.iterdir():
        if old.name not in wanted or not old.is_symlink() or old.readlink() != wanted[old.name]:
            old.unlink()
    for name, jar in wanted.items():
        if not (lib / name).is_symlink():
            (lib / name).symlink_to(jar)


def _write_conf(conf: Path, wheel: Path, settings: Settings) -> None:
    conf.mkdir(parents=True, exist_ok=True)
    lines = [f"{key}: {value}" for key, value in flink_configuration(settings, wheel).items()]
    (conf / "config.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (conf / "log4j.properties").write_text(_LOGGING, encoding="utf-8")
    (conf / "log4j-cli.properties").write_text(_CLIENT_LOGGING, encoding="utf-8")


def _memory(java: Java, role: str, home: Path, environment: dict[str, str]) -> tuple[list[str], list[str]]:
    """Ask Flink's own tool, once per config.yaml, for the heap options and sizes that follow from it."""
    conf = Path(environment["FLINK_CONF_DIR"])
    mark = hashlib.sha256((conf / "config.yaml").read_bytes()).hexdigest()[:16]
    kept = home / "run" / f"memory-{role}.json"
    if kept.is_file() and (known := json.loads(kept.read_text(encoding="utf-8")))["mark"] == mark:
        return known["heap"], known["sizes"]
    tool = Path(environment["FLINK_BIN_DIR"]) / "bash-java-utils.jar"
    dist = next(Path(environment["FLINK_LIB_DIR"]).glob("flink-dist*.jar"))
    command = [java.binary, "-XX:TieredStopAtLevel=1", "-cp", f"{tool}:{dist}", _TOOL]
    answer = subprocess.run(
        [*command, f"GET_{role}_RESOURCE_PARAMS", "--configDir", conf],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    results = [
        line.removeprefix(_RESULT).split() for line in answer.stdout.splitlines() if line.startswith(_RESULT)
    ]
    if len(results) != 2:
        raise UserError(
            "TR-121",
            f"flink: its memory sizes do not work out: {(answer.stdout + answer.stderr)[-800:]}",
            "stack.taskmanager_memory_mb or stack.jobmanager_memory_mb is too small",
            "raise it in tailrace.toml, section [stack]",
        )
    heap, sizes = results
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"mark": mark, "heap": heap, "sizes": sizes}), encoding="utf-8")
    return heap, sizes


_PATTERN = "%d{yyyy-MM-dd HH:mm:ss,SSS} %-5p %-60c %x - %m%n"
_LOGGING = f"""\
rootLogger.level=INFO
rootLogger.appenderRef.console.ref=console
appender.console.name=console
appender.console.type=CONSOLE
appender.console.layout.type=PatternLayout
appender.console.layout.pattern={_PATTERN}
logger.kafka.name=org.apache.kafka
logger.kafka.level=WARN
logger.kafkainfo.name=org.apache.kafka.common.utils.AppInfoParser
logger.kafkainfo.level=ERROR
logger.netty.name=org.jboss.netty.channel.DefaultChannelPipeline
logger.netty.level=OFF
"""
_CLIENT_LOGGING = f"""\
rootLogger.level=WARN
rootLogger.appenderRef.console.ref=console
appender.console.name=console
appender.console.type=CONSOLE
appender.console.target=SYSTEM_ERR
appender.console.layout.type=PatternLayout
appender.console.layout.pattern={_PATTERN}
"""
