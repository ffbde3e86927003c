"""The `config.yaml` of the local cluster: each line that differs from Flink's default, and why."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from flink_jobs.settings import Settings


def flink_configuration(settings: Settings, wheel: Path) -> dict[str, str]:
    """Return the configuration as flat keys.

    Parameters
    ----------
    settings
        Ports, memory and home of [stack]; the checkpoint interval of [job].
    wheel
        The `pyflink` folder: its default file holds the `--add-opens` list without which the client dies with
        InaccessibleObjectException.
    """
    stack, job = settings.stack, settings.job
    home = stack.home.resolve()
    default = yaml.safe_load((wheel / "conf" / "config.yaml").read_text(encoding="utf-8"))
    return {
        "env.java.opts.all": default["env"]["java"]["opts"]["all"],
        # A client lives for seconds: the second compiler took 6 of the 19 CPU-seconds of a submission.
        "env.java.opts.client": "-XX:TieredStopAtLevel=1",
        # Loopback only: whoever reaches the REST port runs any code, with or without web.submit.
        "jobmanager.rpc.address": stack.host,
        "jobmanager.bind-host": stack.host,
        "jobmanager.rpc.port": str(stack.flink_rpc_port),
        "blob.server.port": str(stack.flink_blob_port),
        "rest.address": stack.host,
        "rest.bind-address": stack.host,
        "rest.port": str(stack.flink_port),
        "rest.bind-port": str(stack.flink_port),
        "web.submit.enable": "true",
        "taskmanager.host": stack.host,
        "taskmanager.bind-host": stack.host,
        "jobmanager.memory.process.size": f"{stack.jobmanager_memory_mb}m",
        "taskmanager.memory.process.size": f"{stack.taskmanager_memory_mb}m",
        "taskmanager.numberOfTaskSlots": "1",
        # A window aggregate needs OPERATOR memory; a missing weight fails the job in a restart loop.
        "taskmanager.memory.managed.consumer-weights": "{STATE_BACKEND: 60, OPERATOR: 25, PYTHON: 15}",
        # Without it the second job of a TaskManager dies with NoSuchFieldException: loadedLibraryNames.
        "classloader.parent-first-patterns.additional": "pemja",
        # A job's class loader is closed while Python threads may still hold classes of it.
        "classloader.check-leaked-classloader": "false",
        "parallelism.default": str(min(job.parallelism, stack.taskmanagers)),
        "state.backend.type": "rocksdb",
        "execution.checkpointing.dir": f"file://{home / 'checkpoints'}",
        "execution.checkpointing.savepoint-dir": f"file://{home / 'savepoints'}",
        "execution.checkpointing.interval": f"{job.checkpoint_interval_ms} ms",
        "execution.checkpointing.timeout": f"{job.checkpoint_timeout_ms} ms",
        "execution.checkpointing.incremental": "true",
        "execution.checkpointing.num-retained": "3",
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "execution.checkpointing.tolerable-failed-checkpoints": "3",
        # A killed TaskManager comes back under its own resource id, which ends the wait before this does.
        "heartbeat.interval": "2000 ms",
        "heartbeat.timeout": "10000 ms",
        # Who knocks before the JobManager listens waits this long: 10 s by default.
        "cluster.registration.error-delay": "300 ms",
        "cluster.registration.refused-registration-delay": "1000 ms",
        "restart-strategy.type": "exponential-delay",
        "restart-strategy.exponential-delay.initial-backoff": "500 ms",
        "restart-strategy.exponential-delay.max-backoff": "5 s",
        "restart-strategy.exponential-delay.backoff-multiplier": "1.5",
        "restart-strategy.exponential-delay.reset-backoff-threshold": "1 min",
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
    }
