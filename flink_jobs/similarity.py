"""The similarity job: what items go together with, what is popular, from the sessions of all users.

In
    `recs.sessions.v1` (session steps, read committed), `recs.control.v1` (consent, erasure, republish).
Out
    In Redis `item:sim:{id}`, `item:bought:{id}`, counts in `item_features:{id}`, `trending:{scope}`;
    `recs.dead-letters.v1` (at least once).
State
    A basket a user and counts an item, both of bounded size, see `similarity_sessions` and `similarity_items`.
On replay
    State is exact from the checkpoint; Redis gets absolute values again.

A step of a session concerns the items of that session, and they live in other shards than the user. So there are
two keyed steps: by user, which makes packets of what each item shard gets, and by item. Between them SQL gathers
the packets in the JVM, as it gathers events.
"""

from __future__ import annotations

from pyflink.datastream import StreamExecutionEnvironment
from pyflink.table import StreamTableEnvironment, Table

from flink_jobs import similarity_items, similarity_sessions
from flink_jobs.keyed_stream import keyed_in_jvm
from flink_jobs.operator_ids import set_operator_ids
from flink_jobs.prefix import BATCH_TYPE, micro_batches
from flink_jobs.recommend import DEAD_LETTERS, environments, kafka_sink
from flink_jobs.settings import Settings
from flink_jobs.shards import shard_keys
from flink_jobs.similarity_items import ItemShell
from flink_jobs.similarity_sessions import DEAD_LETTER, PACKET, SOURCES, SessionShell
from flink_jobs.similarity_store import JOB


def build(settings: Settings) -> StreamExecutionEnvironment:
    """Lay out the job; `submit` runs it."""
    env, t_env = environments(settings, settings.similarity.parallelism)

    group_id = f"tailrace-{JOB}"
    batches = micro_batches(t_env, settings, group_id, SOURCES, settings.similarity.batch_ms)
    by_user = keyed_in_jvm(t_env, batches, BATCH_TYPE)  # session records, keyed by user shard
    steps = by_user.process(SessionShell(settings), similarity_sessions.OUTPUT_TYPE)  # packets, dead letters
    steps = steps.name("sessions").uid("sessions")
    t_env.create_temporary_view("steps", t_env.from_data_stream(steps))
    by_item = keyed_in_jvm(t_env, _packets(t_env, settings), similarity_items.BATCH_TYPE)  # by item shard
    items = by_item.process(ItemShell(settings), similarity_items.OUTPUT_TYPE).name("items").uid("items")
    t_env.create_temporary_view("written", t_env.from_data_stream(items))

    kafka_sink(t_env, settings, "dead_letters", DEAD_LETTERS)
    t_env.execute_sql("CREATE TEMPORARY TABLE nowhere (unused INT) WITH ('connector' = 'blackhole')")
    statements = t_env.create_statement_set()
    statements.add_insert_sql(
        f"INSERT INTO dead_letters SELECT `key`, payload FROM steps WHERE kind = {DEAD_LETTER}"
    )
    statements.add_insert_sql("INSERT INTO nowhere SELECT unused FROM written")
    statements.attach_as_datastream()
    set_operator_ids(env, JOB)
    return env


def _packets(t_env: StreamTableEnvironment, settings: Settings) -> Table:
    """Gather packets by item shard and window of `similarity.item_batch_ms`."""
    keys = ", ".join(str(key) for key in shard_keys(settings.job.shards))
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW packets AS
        SELECT shard, payload, PROCTIME() AS pt FROM steps WHERE kind = {PACKET}""")
    return t_env.sql_query(f"""
        SELECT ARRAY[{keys}][shard + 1] AS shard_key, ROW(packets, packet_count) AS batch
        FROM (
            SELECT shard, ARRAY_AGG(payload) AS packets, COUNT(*) AS packet_count
            FROM TABLE(TUMBLE(TABLE packets, DESCRIPTOR(pt),
                              INTERVAL '{settings.similarity.item_batch_ms / 1000}' SECOND))
            GROUP BY shard, window_start, window_end
        )""")
