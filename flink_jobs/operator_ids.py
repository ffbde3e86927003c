"""Fixed ids for every operator, so that a later build finds its state again.

SQL sets no ids on what it makes; ids that Flink generates depend on the whole graph, and a changed sink would
orphan the users. Here each transformation without an id gets one from its place in a walk from the sources.
The committed list `<job>.uids` is compared by a test (docs/adr/0004).
"""

from __future__ import annotations

from typing import Any

from pyflink.datastream import StreamExecutionEnvironment

_WITHOUT_STATE = ("PartitionTransformation", "UnionTransformation", "SideOutputTransformation")


def set_operator_ids(env: StreamExecutionEnvironment, job: str) -> list[str]:
    """Name every operator of the job after its place, and return the ids in order.

    An id is `<job>-<place>-<number>`: the place is the SQL table of a source or sink, or the operator's kind,
    so that a new sink takes no id from an old operator.
    """
    ids: list[str] = []
    seen: dict[str, int] = {}
    visited: set[int] = set()
    for root in env._j_stream_execution_environment.getTransformations():
        for transformation in _upstream_first(root, visited):
            kind = transformation.getClass().getSimpleName()
            if kind in _WITHOUT_STATE:
                continue
            uid = transformation.getUid()
            if uid is None:
                place = _place(transformation.getName(), kind)
                seen[place] = seen.get(place, 0) + 1
                uid = f"{job}-{place}-{seen[place]}"
                transformation.setUid(uid)
            ids.append(uid)
    return ids


def _upstream_first(root: Any, visited: set[int]) -> list[Any]:
    order: list[Any] = []
    stack = [(root, False)]
    while stack:
        transformation, done = stack.pop()
        if done:
            order.append(transformation)
            continue
        if transformation.getId() in visited:
            continue
        visited.add(transformation.getId())
        stack.append((transformation, True))
        stack.extend((parent, False) for parent in reversed(list(transformation.getInputs())))
    return order


def _place(name: str, kind: str) -> str:
    """Give a short stable word for an operator: `source_0`, `sink-served`, or what kind it is."""
    head = name.split("(")[0].split("[")[0].strip().rstrip(":")
    head = head.rsplit(".", 1)[-1] if "default_catalog" in head else head
    return "".join(letter if letter.isalnum() or letter in "_-" else "-" for letter in head or kind).lower()
