"""The recommend job: events in, every touched user's list in Redis.

In
    `recs.events.v1` (Avro, key tenant/user), `recs.control.v1` (epochs, republish, consent, erasure),
    `recs.credits.v1` (what outcomes earned), and in the rank workers `recs.items.v1` (catalogue).
Out
    Lists and features in Redis (compare-and-set by version), `recs.served.v1` (at least once, dedupe by rec_id),
    `recs.sessions.v1` (transactional, read committed), `recs.dead-letters.v1` (at least once, dedupe by topic,
    partition, offset).
State
    One blob a user in RocksDB, for `job.forget_after_ms` without events; see `user_shell` and docs/state.md.
On replay
    State is exact from the checkpoint; lists and records leave again with the same versions and are kept once.
"""

from __future__ import annotations

from pyflink.common import Configuration
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.table import StreamTableEnvironment
from pyflink.table.udf import udf

from flink_jobs.keyed_stream import keyed_in_jvm
from flink_jobs.operator_ids import set_operator_ids
from flink_jobs.output_rows import DEAD_LETTER, OUTPUT_TYPE, SESSION
from flink_jobs.prefix import BATCH_TYPE, micro_batches
from flink_jobs.rank_udf import RankLists
from flink_jobs.settings import Settings
from flink_jobs.user_shell import JOB, UserShell
from schemas import topics

SESSIONS, SERVED, DEAD_LETTERS = topics.SESSIONS.name, topics.SERVED.name, topics.DEAD_LETTERS.name
MAX_DEAD_LETTER_BYTES = int(topics.DEAD_LETTERS.config["max.message.bytes"])
SINK_LINGER_MS = 50
"""Nobody waits for these topics as for a list; small requests were a third of the broker's work."""


def build(settings: Settings) -> StreamExecutionEnvironment:
    """Lay out the job; `submit` runs it."""
    env, t_env = environments(settings, settings.job.parallelism)

    batches = micro_batches(t_env, settings, group_id=f"tailrace-{JOB}")  # (shard_key, batch)
    keyed = keyed_in_jvm(t_env, batches, BATCH_TYPE)  # batch, keyed by shard
    rows = keyed.process(UserShell(settings), OUTPUT_TYPE).name("users").uid("users")  # output_rows
    t_env.create_temporary_view("outputs", t_env.from_data_stream(rows))
    t_env.create_temporary_system_function(
        "rank_lists",
        udf(RankLists(settings), result_type="BYTES", func_type="pandas"),
    )

    kafka_sink(t_env, settings, "sessions", SESSIONS, exactly_once=JOB)
    kafka_sink(t_env, settings, "served", SERVED, timed=True)
    kafka_sink(t_env, settings, "dead_letters", DEAD_LETTERS)
    statements = t_env.create_statement_set()
    statements.add_insert_sql(
        f"INSERT INTO dead_letters SELECT `key`, payload FROM outputs WHERE kind = {DEAD_LETTER}"
    )
    statements.add_insert_sql(
        f"INSERT INTO sessions SELECT `key`, payload FROM outputs WHERE kind = {SESSION}"
    )
    statements.add_insert_sql(f"""
        INSERT INTO served SELECT `key`, list, TO_TIMESTAMP_LTZ(at_ms, 3) FROM (
            SELECT `key`, at_ms, rank_lists(kind, `key`, payload, version, at_ms, epoch, `variant`) AS list
            FROM outputs WHERE kind > {SESSION})
        WHERE list IS NOT NULL""")
    statements.attach_as_datastream()
    set_operator_ids(env, JOB)
    return env


def environments(
    settings: Settings, parallelism: int
) -> tuple[StreamExecutionEnvironment, StreamTableEnvironment]:
    """Give what a job is laid out in: its shards are the deployment's, its parallelism is its own."""
    env = StreamExecutionEnvironment.get_execution_environment(configuration(settings))
    env.set_parallelism(parallelism)
    env.set_max_parallelism(settings.job.shards)
    t_env = StreamTableEnvironment.create(env)
    t_env.get_config().set("table.local-time-zone", "UTC")
    return env, t_env


def configuration(settings: Settings) -> Configuration:
    """Give what every job sets beside the cluster's own configuration."""
    job = settings.job
    made = Configuration()
    for key, value in {
        "python.execution-mode": "thread",
        "python.fn-execution.bundle.time": job.bundle_ms,
        "python.fn-execution.bundle.size": job.bundle_size,
        "python.fn-execution.arrow.batch.size": job.bundle_size,
        "state.backend.type": "rocksdb",
        "execution.checkpointing.interval": f"{job.checkpoint_interval_ms} ms",
        "execution.checkpointing.timeout": f"{job.checkpoint_timeout_ms} ms",
        "execution.checkpointing.incremental": "true",
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "execution.checkpointing.tolerable-failed-checkpoints": 3,
    }.items():
        made.set_string(key, str(value))
    return made


def kafka_sink(
    t_env: StreamTableEnvironment,
    settings: Settings,
    table: str,
    topic: str,
    *,
    exactly_once: str | None = None,
    timed: bool = False,
) -> None:
    """Declare a table of keys and values that writes to a topic.

    Parameters
    ----------
    exactly_once
        Name of the job, for transactions; None: at least once.
    timed
        A third column is the record's timestamp, for jobs that read the topic by event time. Else it is the clock's.
    """
    kafka = settings.kafka
    guarantee = (
        f"""'sink.delivery-guarantee' = 'exactly-once',
            'sink.transactional-id-prefix' = '{kafka.topic_prefix}{exactly_once}-{table}',
            'properties.transaction.timeout.ms' = '{15 * 60_000}'"""
        if exactly_once is not None
        else "'sink.delivery-guarantee' = 'at-least-once'"
    )
    time = ", ts TIMESTAMP_LTZ(3) METADATA FROM 'timestamp'" if timed else ""
    t_env.execute_sql(f"""
        CREATE TEMPORARY TABLE {table} (k STRING, v BYTES{time}) WITH (
            'connector' = 'kafka', 'topic' = '{kafka.topic_prefix}{topic}',
            'properties.bootstrap.servers' = '{kafka.bootstrap_servers}',
            'properties.max.request.size' = '{MAX_DEAD_LETTER_BYTES}',
            'properties.compression.type' = 'lz4', 'properties.linger.ms' = '{SINK_LINGER_MS}',
            'key.format' = 'raw', 'key.fields' = 'k',
            'value.format' = 'raw', 'value.fields-include' = 'EXCEPT_KEY',
            {guarantee})""")
