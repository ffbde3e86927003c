"""Prints what Flink makes of a job: run by tests in a process of its own, because it starts a JVM.

Arguments: the job's module in `flink_jobs`, and its section of the settings as JSON.
"""

import json
import sys
from importlib import import_module

from pyflink.java_gateway import get_gateway

from flink_jobs.operator_ids import set_operator_ids
from flink_jobs.settings import load

job, section = sys.argv[1], json.loads(sys.argv[2])
env = import_module(f"flink_jobs.{job}").build(load(environment={}, **{job: section}))
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
            "ids": set_operator_ids(env, job),
        }
    )
)
