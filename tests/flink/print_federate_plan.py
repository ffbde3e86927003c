"""Prints what Flink makes of the federate job: run by its test in a process of its own, because it starts a JVM."""

import json
import sys

from pyflink.java_gateway import get_gateway

from flink_jobs import federate
from flink_jobs.federate_store import JOB
from flink_jobs.operator_ids import set_operator_ids
from flink_jobs.settings import load

settings = load(environment={}, federate=json.loads(sys.argv[1]))
env = federate.build(settings)
loader = get_gateway().jvm.java.lang.Thread.currentThread().getContextClassLoader()
nodes = env._j_stream_execution_environment.getStreamGraph(False).getStreamNodes().toArray()
print(
    json.dumps(
        {
            "operators": [node["type"] for node in json.loads(env.get_execution_plan())["nodes"]],
            "classes": sorted(
                node.getOperatorFactory().getStreamOperatorClass(loader).getSimpleName()
                for node in nodes
                if node.getOperatorFactory() is not None
            ),
            "ids": set_operator_ids(env, JOB),
        }
    )
)
