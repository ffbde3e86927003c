"""Prints what Flink makes of jobs: run by tests in a process of its own, because it starts a JVM.

Argument: JSON of the jobs' modules in `flink_jobs` to their sections of the settings.
"""

import json
import sys
from importlib import import_module

from pyflink.java_gateway import get_gateway

from flink_jobs.operator_ids import set_operator_ids
from flink_jobs.settings import load


def plan(job, section):
    """Give operators by name of their transformation, their classes, and the ids that the job sets."""
    env = import_module(f"flink_jobs.{job}").build(load(environment={}, **{job: section}))
    loader = get_gateway().jvm.java.lang.Thread.currentThread().getContextClassLoader()
    nodes = env._j_stream_execution_environment.getStreamGraph(False).getStreamNodes().toArray()
    return {
        "operators": [node["type"] for node in json.loads(env.get_execution_plan())["nodes"]],
        "classes": sorted(
            node.getOperatorFactory().getStreamOperatorClass(loader).getSimpleName()
            for node in nodes
            if node.getOperatorFactory() is not None
        ),
        "ids": set_operator_ids(env, job),
    }


print(json.dumps({job: plan(job, section) for job, section in json.loads(sys.argv[1]).items()}))
