"""The feedback job: what users did with the lists that they saw.

In
    `recs.events.v1` (impressions and outcomes), `recs.control.v1` (consent, erasure), `recs.served.v1` (lists, with
    their propensities), by event time.
Out
    `recs.examples.v1` and `recs.credits.v1` (transactional, read committed; dedupe by rec_id and credit_id),
    `recs.posteriors.v1` (transactional, compacted: what the credits of a tenant's users say of the arms),
    `recs.dead-letters.v1` (at least once). Totals in the HASH `stats:feedback` of the store.
State
    Lists, impressions and outcomes of a user until they are settled, see `feedback_shell` and docs/feedback.md; a
    tenant's sums of credits by day, see `feedback_posterior`.
On replay
    State is exact from the checkpoint, and so is what the three topics hold.

A credit is its user's, the posterior its tenant's. So there are two keyed steps; between them SQL gathers the sums of
each batch in the JVM, and with them decides how often a posterior is published.
"""

from __future__ import annotations

from pyflink.datastream import StreamExecutionEnvironment
from pyflink.table import StreamTableEnvironment, Table

from flink_jobs import feedback_posterior
from flink_jobs.feedback_counts import JOB
from flink_jobs.feedback_posterior import PosteriorShell
from flink_jobs.feedback_shell import CREDIT, DEAD_LETTER, EXAMPLE, OUTPUT_TYPE, SOURCES, SUMS, FeedbackShell
from flink_jobs.keyed_stream import keyed_in_jvm
from flink_jobs.operator_ids import set_operator_ids
from flink_jobs.prefix import BATCH_TYPE, CREDITS, micro_batches
from flink_jobs.recommend import DEAD_LETTERS, environments, kafka_sink
from flink_jobs.settings import Settings
from flink_jobs.shards import shard_keys
from schemas import topics

EXAMPLES, POSTERIORS = topics.EXAMPLES.name, topics.POSTERIORS.name


def build(settings: Settings) -> StreamExecutionEnvironment:
    """Lay out the job; `submit` runs it."""
    feedback = settings.feedback
    env, t_env = environments(settings, feedback.parallelism)

    group_id, idle = f"tailrace-{JOB}", f"{feedback.idle_ms} ms"
    batches = micro_batches(t_env, settings, group_id, SOURCES, feedback.batch_ms, idle)  # (shard_key, batch)
    keyed = keyed_in_jvm(t_env, batches, BATCH_TYPE)  # batch, keyed by shard
    rows = keyed.process(FeedbackShell(settings), OUTPUT_TYPE).name("feedback").uid("feedback")  # output rows
    t_env.create_temporary_view("outputs", t_env.from_data_stream(rows))
    by_tenant = keyed_in_jvm(t_env, _sums(t_env, settings), feedback_posterior.BATCH_TYPE)  # sums, by tenant
    posteriors = by_tenant.process(PosteriorShell(settings), feedback_posterior.OUTPUT_TYPE)  # key, record
    posteriors = posteriors.name("posteriors").uid("posteriors")
    t_env.create_temporary_view("published", t_env.from_data_stream(posteriors))

    kafka_sink(t_env, settings, "examples", EXAMPLES, exactly_once=JOB)
    # By event time: the recommend job reads credits beside events, and its clock must not run away with them.
    kafka_sink(t_env, settings, "credits", CREDITS, exactly_once=JOB, timed=True)
    kafka_sink(t_env, settings, "posteriors", POSTERIORS, exactly_once=JOB)
    kafka_sink(t_env, settings, "dead_letters", DEAD_LETTERS)
    statements = t_env.create_statement_set()
    for table, kind, columns in (
        ("dead_letters", DEAD_LETTER, "`key`, payload"),
        ("examples", EXAMPLE, "`key`, payload"),
        ("credits", CREDIT, "`key`, payload, TO_TIMESTAMP_LTZ(at_ms, 3)"),
    ):
        statements.add_insert_sql(f"INSERT INTO {table} SELECT {columns} FROM outputs WHERE kind = {kind}")
    statements.add_insert_sql("INSERT INTO posteriors SELECT `key`, payload FROM published")
    statements.attach_as_datastream()
    set_operator_ids(env, JOB)
    return env


def _sums(t_env: StreamTableEnvironment, settings: Settings) -> Table:
    """Gather sums by the tenant's shard and window of `feedback.posterior_ms`."""
    keys = ", ".join(str(key) for key in shard_keys(settings.job.shards))
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW sums AS
        SELECT shard, `key` AS tenant, payload, PROCTIME() AS pt FROM outputs WHERE kind = {SUMS}""")
    return t_env.sql_query(f"""
        SELECT ARRAY[{keys}][shard + 1] AS shard_key, ROW(tenants, packets) AS batch
        FROM (
            SELECT shard, ARRAY_AGG(tenant) AS tenants, ARRAY_AGG(payload) AS packets
            FROM TABLE(TUMBLE(TABLE sums, DESCRIPTOR(pt),
                              INTERVAL '{settings.feedback.posterior_ms / 1000}' SECOND))
            GROUP BY shard, window_start, window_end
        )""")
