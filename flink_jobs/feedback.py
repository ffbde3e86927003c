"""The feedback job: what users did with the lists that they saw.

In
    `recs.events.v1` (impressions and outcomes), `recs.control.v1` (consent, erasure), `recs.served.v1` (lists, with
    their propensities), by event time.
Out
    `recs.examples.v1` and `recs.credits.v1` (transactional, read committed; dedupe by rec_id and credit_id),
    `recs.dead-letters.v1` (at least once). Totals in the HASH `stats:feedback` of the store.
State
    Lists, impressions and outcomes of a user until they are settled, see `feedback_shell` and docs/feedback.md.
On replay
    State is exact from the checkpoint, and so is what the two topics hold.
"""

from __future__ import annotations

from pyflink.datastream import StreamExecutionEnvironment

from flink_jobs.feedback_counts import JOB
from flink_jobs.feedback_shell import CREDIT, DEAD_LETTER, EXAMPLE, OUTPUT_TYPE, SOURCES, FeedbackShell
from flink_jobs.keyed_stream import keyed_in_jvm
from flink_jobs.operator_ids import set_operator_ids
from flink_jobs.prefix import BATCH_TYPE, CREDITS, micro_batches
from flink_jobs.recommend import DEAD_LETTERS, environments, kafka_sink
from flink_jobs.settings import Settings
from schemas import topics

EXAMPLES = topics.EXAMPLES.name


def build(settings: Settings) -> StreamExecutionEnvironment:
    """Lay out the job; `submit` runs it."""
    feedback = settings.feedback
    env, t_env = environments(settings, feedback.parallelism)

    group_id, idle = f"tailrace-{JOB}", f"{feedback.idle_ms} ms"
    batches = micro_batches(t_env, settings, group_id, SOURCES, feedback.batch_ms, idle)  # (shard_key, batch)
    keyed = keyed_in_jvm(t_env, batches, BATCH_TYPE)  # batch, keyed by shard
    rows = keyed.process(FeedbackShell(settings), OUTPUT_TYPE).name("feedback").uid("feedback")  # output rows
    t_env.create_temporary_view("outputs", t_env.from_data_stream(rows))

    kafka_sink(t_env, settings, "examples", EXAMPLES, exactly_once=JOB)
    # By event time: the recommend job reads credits beside events, and its clock must not run away with them.
    kafka_sink(t_env, settings, "credits", CREDITS, exactly_once=JOB, timed=True)
    kafka_sink(t_env, settings, "dead_letters", DEAD_LETTERS)
    statements = t_env.create_statement_set()
    for table, kind, columns in (
        ("dead_letters", DEAD_LETTER, "`key`, payload"),
        ("examples", EXAMPLE, "`key`, payload"),
        ("credits", CREDIT, "`key`, payload, TO_TIMESTAMP_LTZ(at_ms, 3)"),
    ):
        statements.add_insert_sql(f"INSERT INTO {table} SELECT {columns} FROM outputs WHERE kind = {kind}")
    statements.attach_as_datastream()
    set_operator_ids(env, JOB)
    return env
