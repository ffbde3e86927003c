"""The learn job: the session ranker, learnt from every click, published for the rank workers.

In
    `recs.sessions.v1` (session steps, read committed).
Out
    `recs.weights.v1` (versions of weights and item vectors, transactional, read committed); counts in Redis.
State
    All that is learnt, as a copy and the clicks since; see `learn_shell`. It is bounded by `learn.items` and the
    index's limits.
On replay
    State is exact from the checkpoint, and versions are exact from the state: each is published once.

Everybody's sessions teach one ranker, so there is one shard, whatever `job.shards` says, and one slot.
"""

from __future__ import annotations

from pyflink.datastream import StreamExecutionEnvironment

from flink_jobs.keyed_stream import keyed_in_jvm
from flink_jobs.learn_shell import JOB, OUTPUT_TYPE, SOURCES, LearnShell
from flink_jobs.operator_ids import set_operator_ids
from flink_jobs.prefix import BATCH_TYPE, micro_batches
from flink_jobs.recommend import environments, kafka_sink
from flink_jobs.settings import Settings
from schemas import topics

WEIGHTS = topics.WEIGHTS.name


def build(settings: Settings) -> StreamExecutionEnvironment:
    """Lay out the job; `submit` runs it."""
    settings = in_one_shard(settings)
    env, t_env = environments(settings, 1)
    batches = micro_batches(t_env, settings, f"tailrace-{JOB}", SOURCES, settings.learn.batch_ms)
    keyed = keyed_in_jvm(t_env, batches, BATCH_TYPE)  # session records, all of them under one key
    parts = (
        keyed.process(LearnShell(settings), OUTPUT_TYPE).name("learner").uid("learner")
    )  # parts of versions
    t_env.create_temporary_view("parts", t_env.from_data_stream(parts))
    kafka_sink(t_env, settings, "weights", WEIGHTS, exactly_once=JOB)
    statements = t_env.create_statement_set()
    statements.add_insert_sql("INSERT INTO weights SELECT `key`, payload FROM parts")
    statements.attach_as_datastream()
    set_operator_ids(env, JOB)
    return env


def in_one_shard(settings: Settings) -> Settings:
    """Give the settings with one shard."""
    return settings.model_copy(update={"job": settings.job.model_copy(update={"shards": 1})})
