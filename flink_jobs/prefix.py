"""The SQL prefix of the recommend job: raw rows of every user-keyed topic, gathered in the JVM by user shard.

Its text decides the operators in front of the keyed function and with them their state: it is frozen
(docs/adr/0004). Nothing is decoded here, so a bad record cannot stop the job.

A row of the result is one micro-batch: `(shard_key, (keys, values, partitions, offsets, times, window_end))`,
five arrays of equal length, in no promised order.
"""

from __future__ import annotations

from pyflink.common import Types
from pyflink.table import StreamTableEnvironment, Table

from flink_jobs.kafka_key import key_sql
from flink_jobs.settings import Settings
from flink_jobs.shards import shard_keys, shard_sql
from schemas import topics

EVENTS, CONTROL, CREDITS = topics.EVENTS.name, topics.CONTROL.name, topics.CREDITS.name
SESSIONS, SERVED = topics.SESSIONS.name, topics.SERVED.name
EDGE_UPDATES = topics.EDGE_UPDATES.name

FETCH = {
    EVENTS: (65_536, 50),
    CONTROL: (1, 500),
    CREDITS: (1, 500),
    SESSIONS: (32_768, 500),
    SERVED: (32_768, 500),
    EDGE_UPDATES: (65_536, 200),
}
"""Bytes that a fetch waits for, and for how many ms: events come all the time, and otherwise every few of them
would cost a request; the others are rare, and an answer that nothing came costs as much as one with a record."""

SOURCE_STRIDE = 1_000_000
"""`partition // SOURCE_STRIDE` tells the source topic, see `SOURCES`; the remainder is Kafka's partition."""

SOURCES = (EVENTS, CONTROL, CREDITS)

IDLE = "2 s"

EVERY_SHARD_PREFIX = "*"
"""A control record whose Kafka key starts so goes to every shard."""

BATCH_TYPE = Types.ROW(
    [
        Types.OBJECT_ARRAY(Types.STRING()),
        Types.OBJECT_ARRAY(Types.PRIMITIVE_ARRAY(Types.BYTE())),
        Types.OBJECT_ARRAY(Types.INT()),
        Types.OBJECT_ARRAY(Types.LONG()),
        Types.OBJECT_ARRAY(Types.LONG()),
        Types.LONG(),
    ]
)
"""Micro-batch without its shard key: keys, values, partitions, offsets, times (ms), end of the window (ms)."""


def micro_batches(
    t_env: StreamTableEnvironment,
    settings: Settings,
    group_id: str,
    sources: tuple[str, ...] = SOURCES,
    batch_ms: int | None = None,
    idle: str = IDLE,
) -> Table:
    """Read topics and gather their rows by shard and window of `batch_ms`, by default `job.batch_ms`.

    Parameters
    ----------
    sources
        User-keyed topics; `partition // SOURCE_STRIDE` is the place in it.
    idle
        After this long without a record a partition no longer holds the event-time clock, in Flink's words.

    Returns
    -------
    Table
        Columns `shard_key INT`, `batch ROW<...>` as described above.
    """
    for index, topic in enumerate(sources):
        t_env.execute_sql(_source_table(index, topic, settings, group_id, IDLE if topic == CONTROL else idle))
    count = settings.job.shards
    every_shard = ", ".join(str(index) for index in range(count))
    keys = ", ".join(str(key) for key in shard_keys(count))
    columns = "k, v, p, o, t"
    by_key = f"SELECT {shard_sql('k', count)} AS shard, {columns} FROM"
    window_s = (settings.job.batch_ms if batch_ms is None else batch_ms) / 1000
    rows = []
    for index, topic in enumerate(sources):
        rows.append(f"{by_key} source_{index}")
        if topic == CONTROL:
            rows[-1] += f" WHERE k NOT LIKE '{EVERY_SHARD_PREFIX}%'"
            rows.append(f"""SELECT s.shard, {columns}
            FROM (SELECT {columns}, ARRAY[{every_shard}] AS every_shard FROM source_{index}
                  WHERE k LIKE '{EVERY_SHARD_PREFIX}%') AS r
            CROSS JOIN UNNEST(r.every_shard) AS s (shard)""")
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW gathered AS SELECT *, PROCTIME() AS pt FROM (
        {" UNION ALL ".join(rows)})""")
    return t_env.sql_query(f"""
        SELECT ARRAY[{keys}][shard + 1] AS shard_key,
               ROW(ks, vs, ps, os, ts, {_epoch_ms("TIMESTAMP '1970-01-01 00:00:00'", "window_end")}) AS batch
        FROM (
            SELECT shard, window_end, ARRAY_AGG(k) AS ks, ARRAY_AGG(v) AS vs,
                   ARRAY_AGG(p) AS ps, ARRAY_AGG(o) AS os, ARRAY_AGG(t) AS ts
            FROM TABLE(TUMBLE(TABLE gathered, DESCRIPTOR(pt), INTERVAL '{window_s}' SECOND))
            GROUP BY shard, window_start, window_end
        )""")


def _epoch_ms(origin: str, time: str) -> str:
    """Give milliseconds since 1970 as BIGINT; minutes, because a difference is an INT and seconds end in 2038."""
    return (
        f"(60000 * CAST(TIMESTAMPDIFF(MINUTE, {origin}, {time}) AS BIGINT)"
        f" + 1000 * EXTRACT(SECOND FROM {time}) + EXTRACT(MILLISECOND FROM {time}))"
    )


def _watermark(topic: str) -> str:
    """Let events move the clock, and no order.

    One sent today, while a replay of old events pauses, would end the time of every user in them.
    """
    if topic == CONTROL:
        return "clock AS TO_TIMESTAMP_LTZ(0, 3), WATERMARK FOR clock AS clock - INTERVAL '1' SECOND"
    return "WATERMARK FOR ts AS ts - INTERVAL '1' SECOND"


def _source_table(index: int, topic: str, settings: Settings, group_id: str, idle: str) -> str:
    kafka = settings.kafka
    fetch_bytes, fetch_wait_ms = FETCH[topic]
    return f"""
        CREATE TEMPORARY TABLE source_{index} (
            raw_key STRING, raw_value BYTES,
            raw_partition INT METADATA FROM 'partition' VIRTUAL,
            raw_offset BIGINT METADATA FROM 'offset' VIRTUAL,
            ts TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
            k AS {key_sql("raw_key")}, v AS COALESCE(raw_value, x''),
            p AS raw_partition + {index * SOURCE_STRIDE}, o AS raw_offset,
            t AS {_epoch_ms("TO_TIMESTAMP_LTZ(0, 3)", "ts")},
            {_watermark(topic)}
        ) WITH (
            'connector' = 'kafka', 'topic' = '{kafka.topic_prefix}{topic}',
            'properties.bootstrap.servers' = '{kafka.bootstrap_servers}',
            'properties.group.id' = '{group_id}',
            'properties.isolation.level' = 'read_committed',
            'properties.fetch.min.bytes' = '{fetch_bytes}', 'properties.fetch.max.wait.ms' = '{fetch_wait_ms}',
            'scan.startup.mode' = '{settings.job.starting_offsets}',
            'scan.watermark.idle-timeout' = '{idle}',
            'key.format' = 'raw', 'key.fields' = 'raw_key',
            'value.format' = 'raw', 'value.fields-include' = 'EXCEPT_KEY')"""
