"""Prints what Flink makes of the recommend job: run by tests in a process of its own, because it starts a JVM."""

import json
import sys

from pyflink.java_gateway import get_gateway

from flink_jobs import recommend
from flink_jobs.operator_ids import set_operator_ids
from flink_jobs.settings import load


def operators(job_graph_source):
    """Class names of all operators, by the name of their transformation."""
    return [node["type"] for node in json.loads(job_graph_source)["nodes"]]


settings = load(job=json.loads(sys.argv[1]))
env = recommend.build(settings)
jvm = get_gateway().jvm
hash_of = jvm.org.apache.flink.table.data.binary.BinaryStringData.fromString
group_of = jvm.org.apache.flink.runtime.state.KeyGroupRangeAssignment.assignToKeyGroup


def row_of(key):
    """The Java row that the JVM keys by."""
    row = jvm.org.apache.flink.types.Row.withPositions(1)
    row.setField(0, key)
    return row


java_env = env._j_stream_execution_environment
graph = java_env.getStreamGraph(False)
print(
    json.dumps(
        {
            "operators": operators(env.get_execution_plan()),
            "classes": sorted(
                node.getOperatorFactory()
                .getStreamOperatorClass(jvm.java.lang.Thread.currentThread().getContextClassLoader())
                .getSimpleName()
                for node in graph.getStreamNodes().toArray()
                if node.getOperatorFactory() is not None
            ),
            "ids": set_operator_ids(env, "recommend"),
            "hashes": {key: hash_of(key).hashCode() for key in json.loads(sys.argv[2])},
            "groups": [group_of(row_of(key), 32) for key in json.loads(sys.argv[3])],
        }
    )
)
