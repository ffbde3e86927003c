"""The federate job: what devices learn, added up to versions of a model, under a privacy budget a user.

In
    `edge.updates.v1` (clipped and, by mode, noised changes), `recs.control.v1` (consent, erasure).
Out
    `edge.models.v1` (versions with their privacy) and `edge.cohorts.v1` (what members of a cohort under masks are
    told), both transactional, read committed; `recs.dead-letters.v1` (what was refused, without its numbers; at least
    once), and in Redis counts and `edge:budget:{user}`.
State
    A ledger a user, see `federate_ledgers`; head, model and partial sums a line, see `federate_lines`.
On replay
    State and published versions are exact from the checkpoint. A cohort that is released again has the same bytes.

The budget is the user's and the sum is the line's. So there are two keyed steps: by user, which charges and lets
through, and by line, which adds up. Between them SQL gathers packets in the JVM, as it gathers updates. A tick a
second opens lines that are new, and lets time pass where no update comes.
"""

from __future__ import annotations

from pyflink.datastream import StreamExecutionEnvironment
from pyflink.table import StreamTableEnvironment, Table

from flink_jobs import federate_ledgers, federate_lines
from flink_jobs.federate_ledgers import SOURCES, LedgerShell
from flink_jobs.federate_lines import LineShell
from flink_jobs.federate_settings import model_lines
from flink_jobs.federate_store import JOB
from flink_jobs.keyed_stream import keyed_in_jvm
from flink_jobs.operator_ids import set_operator_ids
from flink_jobs.prefix import BATCH_TYPE, micro_batches
from flink_jobs.recommend import DEAD_LETTERS, environments, kafka_sink
from flink_jobs.settings import Settings
from flink_jobs.shards import shard_keys, shard_of
from schemas import topics

MODELS, COHORTS = topics.EDGE_MODELS.name, topics.EDGE_COHORTS.name


def build(settings: Settings) -> StreamExecutionEnvironment:
    """Lay out the job; `submit` runs it."""
    model_lines(settings.federate)  # refused here, not at every restart of a worker
    env, t_env = environments(settings, settings.federate.parallelism)

    group_id = f"tailrace-{JOB}"
    batches = micro_batches(t_env, settings, group_id, SOURCES, settings.federate.batch_ms)
    by_user = keyed_in_jvm(t_env, batches, BATCH_TYPE)  # updates and orders, keyed by user shard
    charged = by_user.process(LedgerShell(settings), federate_ledgers.OUTPUT_TYPE)  # packets, dead letters
    charged = charged.name("ledgers").uid("ledgers")
    t_env.create_temporary_view("charged", t_env.from_data_stream(charged))
    by_line = keyed_in_jvm(t_env, _packets(t_env, settings), federate_lines.BATCH_TYPE)  # by line shard
    lines = by_line.process(LineShell(settings), federate_lines.OUTPUT_TYPE)  # models, dead letters
    lines = lines.name("lines").uid("lines")
    t_env.create_temporary_view("lines", t_env.from_data_stream(lines))

    kafka_sink(t_env, settings, "edge_models", MODELS, exactly_once=JOB)
    kafka_sink(t_env, settings, "edge_cohorts", COHORTS, exactly_once=JOB)
    kafka_sink(t_env, settings, "dead_letters", DEAD_LETTERS)
    statements = t_env.create_statement_set()
    statements.add_insert_sql(
        f"INSERT INTO edge_models SELECT `key`, payload FROM lines WHERE kind = {federate_lines.MODEL}"
    )
    statements.add_insert_sql(f"""
        INSERT INTO dead_letters
        SELECT `key`, payload FROM charged WHERE kind = {federate_ledgers.DEAD_LETTER}
        UNION ALL SELECT `key`, payload FROM lines WHERE kind = {federate_lines.DEAD_LETTER}""")
    statements.add_insert_sql(
        f"INSERT INTO edge_cohorts SELECT `key`, payload FROM lines WHERE kind = {federate_lines.COHORT}"
    )
    statements.attach_as_datastream()
    set_operator_ids(env, JOB)
    return env


def _packets(t_env: StreamTableEnvironment, settings: Settings) -> Table:
    """Gather packets and ticks by line shard and window of `federate.line_batch_ms`."""
    count = settings.job.shards
    keys = ", ".join(str(key) for key in shard_keys(count))
    # Of every shard, not only those that have a line: a new line changes no operator.
    shards = ", ".join(
        str(shard) for shard in sorted({shard_of(name, count) for name in settings.federate.lines})
    )
    t_env.execute_sql("""
        CREATE TEMPORARY TABLE ticks (n INT)
        WITH ('connector' = 'datagen', 'rows-per-second' = '1', 'fields.n.min' = '0', 'fields.n.max' = '0')""")
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW packets AS
        SELECT shard, payload, PROCTIME() AS pt FROM (
            SELECT shard, payload FROM charged WHERE kind = {federate_ledgers.PACKET}
            UNION ALL
            SELECT s.shard, CAST(x'' AS BYTES) AS payload
            FROM (SELECT ARRAY[{shards}] AS line_shards FROM ticks) AS r
            CROSS JOIN UNNEST(r.line_shards) AS s (shard))""")
    return t_env.sql_query(f"""
        SELECT ARRAY[{keys}][shard + 1] AS shard_key, ROW(packets, packet_count) AS batch
        FROM (
            SELECT shard, ARRAY_AGG(payload) AS packets, COUNT(*) AS packet_count
            FROM TABLE(TUMBLE(TABLE packets, DESCRIPTOR(pt),
                              INTERVAL '{settings.federate.line_batch_ms / 1000}' SECOND))
            GROUP BY shard, window_start, window_end
        )""")
