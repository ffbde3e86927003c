"""The one place that reads settings: defaults, `tailrace.toml`, then environment variables.

Precedence, highest first: keyword arguments, environment (`TAILRACE_REDIS__PASSWORD`, double underscore
between section and key; secrets belong here), the TOML file, the defaults below. An unknown key is refused
with the nearest known name.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, model_validator

from flink_jobs.federate_settings import Federate
from flink_jobs.feedback_settings import Feedback as Feedback
from flink_jobs.gate_settings import Gate
from flink_jobs.model_settings import Learn as Learn
from flink_jobs.model_settings import Model as Model
from flink_jobs.registry_settings import Registry
from flink_jobs.settings_section import Section
from udfs.ranking.rank_settings import RankSettings

ENVIRONMENT_PREFIX = "TAILRACE_"
DEFAULT_FILE = "tailrace.toml"


class SettingsError(ValueError):
    """A settings file or variable that cannot be used; the text says where, wanted, got."""


class Kafka(Section):
    """How to reach the broker."""

    bootstrap_servers: str = "127.0.0.1:29092"
    partitions: int = Field(4, ge=1, description="of the user-keyed topics; fixed within a generation")
    replication_factor: int = Field(1, ge=1)
    retention_ms: int = Field(7 * 24 * 3_600_000, description="of recs.events.v1; -1 keeps all")
    max_future_ms: int = Field(3_600_000, description="message.timestamp.after.max.ms: later is refused")
    topic_prefix: str = Field(
        "", description="put before every topic name and the counts' name, to keep two deployments apart"
    )
    schema_ids: dict[int, str] = Field(
        default_factory=lambda: {
            1: "Event",
            2: "Item",
            3: "ServedList",
            4: "SessionDelta",
            5: "DeadLetter",
            6: "Control",
            7: "Credit",
            8: "ModelPointer",
            9: "EdgeUpdate",
            10: "EdgeModel",
            11: "Example",
            12: "LearntPart",
            13: "Posterior",
            14: "EdgeCohort",
        },
        description="Confluent header: schema id to record name",
    )


class Redis(Section):
    """How to reach the store of lists."""

    url: str = "redis://127.0.0.1:26379/0"
    password: SecretStr | None = None
    hash_tags: bool = Field(True, description="keys with literal braces, one Cluster slot a user")
    cluster: bool = Field(False, description="one function call a user instead of one a batch")
    ttl_s: int = Field(30 * 86_400, ge=60, description="of all of a user's keys")
    list_size: int = Field(RankSettings().list_size, ge=1, le=50)
    retry_limit_s: float = Field(
        45.0, description="how long a batch waits for Redis; below the checkpoint timeout"
    )


class Job(Section):
    """The recommend job."""

    shards: int = Field(16, ge=1, le=32_768, description="= max parallelism; fixed for a deployment")
    parallelism: int = Field(2, ge=1)
    batch_ms: int = Field(100, ge=1, description="micro-batch gathered in the JVM")
    bundle_ms: int = Field(100, ge=1, description="python.fn-execution.bundle.time of the rank UDF")
    bundle_size: int = Field(2_000, ge=1)
    checkpoint_interval_ms: int = Field(10_000, ge=100)
    checkpoint_timeout_ms: int = Field(120_000, ge=1_000)
    generation: int = Field(0, ge=0, description="raised by the operator for a reprocess")
    view_interval_ms: int = Field(1_000, ge=0, description="a user's views are ranked at most this often")
    max_interval_ms: int = Field(8_000, description="what the interval stretches to under load")
    republish_users_per_tick: int = Field(500, ge=1)
    forget_after_ms: int = Field(400 * 86_400_000, description="of no event from a user")
    session_gap_ms: int = Field(30 * 60_000)
    max_event_bytes: int = Field(65_536, description="larger payloads go to the dead letters")
    starting_offsets: Literal["earliest-offset", "group-offsets", "latest-offset"] = "earliest-offset"


class Similarity(Section):
    """The similarity job; shards, generation and checkpoints are those of `[job]`."""

    parallelism: int = Field(2, ge=1)
    batch_ms: int = Field(2_000, ge=1, description="session steps gathered by user shard in the JVM")
    item_batch_ms: int = Field(5_000, ge=1, description="what they add, gathered by item shard")
    half_life_ms: int = Field(60 * 86_400_000, ge=1_000, description="of what items go with, in event time")
    trend_half_life_ms: int = Field(7 * 86_400_000, ge=1_000, description="of trending")
    publish_interval_ms: int = Field(10_000, ge=0, description="an item is written at most this often")
    tick_ms: int = Field(5_000, ge=1, description="a shard writes items this often, all of a tick at once")
    publish_items_per_tick: int = Field(
        100, ge=1, description="items written a shard and tick at most; others wait, the longest first"
    )
    sweep_items_per_tick: int = Field(
        25, ge=1, description="of those that nothing touched, written again, a shard and tick"
    )
    list_size: int = Field(20, ge=1, le=64, description="similar items of each item in Redis")
    max_session_events: int = Field(200, ge=1, description="later events of a session count for nothing")
    forget_after_ms: int = Field(400 * 86_400_000, description="of no session with an item")


class Lake(Section):
    """Where `tailrace lake run` keeps the topics' records."""

    root: Path = Field(Path(".tailrace/lake"), description="Parquet files by topic and day")
    rows_a_file: int = Field(200_000, ge=1, description="a partition is written when so many records wait")
    flush_s: float = Field(60.0, gt=0, description="or after so long")


class Stack(Section):
    """The local stack of `tailrace up`."""

    home: Path = Field(Path(".tailrace"), description="state, logs and checkpoints of the local stack")
    cache: Path = Field(
        default_factory=lambda: Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "tailrace"
    )
    host: str = "127.0.0.1"
    kafka_port: int = 29_092
    kafka_controller_port: int = 29_093
    redis_port: int = 26_379
    flink_port: int = 28_081
    flink_rpc_port: int = 26_123
    flink_blob_port: int = 26_124
    taskmanagers: int = Field(2, ge=1, description="of one slot each: one interpreter lock a TaskManager")
    taskmanager_memory_mb: int = Field(1_728, ge=1_024)
    jobmanager_memory_mb: int = Field(1_024, ge=768)
    kafka_heap_mb: int = Field(512, ge=256)
    redis_memory_mb: int = Field(1_024, ge=16, description="beyond it writes are refused, nothing is dropped")


class Settings(Section):
    """Everything that can be set. Field names are the TOML sections."""

    kafka: Kafka = Kafka()
    redis: Redis = Redis()
    job: Job = Job()
    similarity: Similarity = Similarity()
    federate: Federate = Federate()
    feedback: Feedback = Feedback()
    learn: Learn = Learn()
    model: Model = Model()
    gate: Gate = Gate()
    registry: Registry = Registry()
    lake: Lake = Lake()
    stack: Stack = Stack()

    @model_validator(mode="after")
    def _fit_together(self) -> Settings:
        """Refuse here what a worker would refuse at every restart."""
        self.feedback.rules.check()
        model, redis, job = self.model, self.redis, self.job
        if not redis.list_size <= model.finalists <= model.candidates:
            raise ValueError(
                "wanted redis.list_size <= model.finalists <= model.candidates, "
                f"got {redis.list_size}, {model.finalists}, {model.candidates}"
            )
        if redis.retry_limit_s * 1000 >= job.checkpoint_timeout_ms:
            raise ValueError(
                "wanted redis.retry_limit_s below job.checkpoint_timeout_ms, "
                f"got {redis.retry_limit_s} s and {job.checkpoint_timeout_ms} ms"
            )
        return self


def load(
    file: Path | str | None = None, environment: dict[str, str] | None = None, **overrides: Any
) -> Settings:
    """Read settings once.

    Parameters
    ----------
    file
        A TOML file. `None` reads `tailrace.toml` in the working folder if it exists, else the defaults.
    environment
        Variables to read instead of the process's own.
    overrides
        Sections as dictionaries, e.g. `job={"shards": 64}`; they win.

    Raises
    ------
    SettingsError
        For an unreadable file, an unknown key (with the nearest known one) or a bad value.
    """
    path = Path(file) if file is not None else Path(DEFAULT_FILE)
    tree: dict[str, Any] = {}
    if file is not None or path.is_file():
        try:
            tree = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(
                f"{path}: cannot be read ({error.strerror}); give an existing TOML file"
            ) from error
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"{path}: not valid TOML: {error}") from error
    variables = os.environ if environment is None else environment
    for name, text in sorted(variables.items()):
        section, separator, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if name.startswith(ENVIRONMENT_PREFIX) and separator:
            tree.setdefault(section, {})[key] = text
    for section, values in overrides.items():
        tree.setdefault(section, {}).update(values)
    _refuse_unknown(tree, str(path))
    try:
        return Settings.model_validate(tree)
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from error


def _refuse_unknown(tree: dict[str, Any], where: str) -> None:
    for section, values in tree.items():
        _known(section, list(Settings.model_fields), f"{where}: section [{section}]")
        model = Settings.model_fields[section].annotation
        if not isinstance(values, dict):
            raise SettingsError(f"{where}: [{section}] must be a table of keys, got {values!r}")
        for key in values:
            _known(key, list(model.model_fields), f"{where}: {section}.{key}")  # type: ignore[union-attr]


def _known(name: str, names: list[str], where: str) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
        raise SettingsError(f"{where} is not a setting; {hint}")
