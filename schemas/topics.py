"""The topics: what each carries, how it is keyed, and the broker settings that its promise rests on."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

KIB: Final = 1024
MIB: Final = 1024 * KIB
DAY_MS: Final = 86_400_000


class Topic(NamedTuple):
    """One topic.

    Parameters
    ----------
    name
        Without the deployment's prefix. The version in it rises only with an incompatible record.
    record
        Name of the record in its values.
    key
        What a record's key is, for people.
    partitions
        ``user``: as many as the deployment's setting, fixed within a generation. ``one``: a total order.
    config
        Broker settings that no deployment changes. `topic_config` adds the others.
    """

    name: str
    record: str
    key: str
    partitions: Literal["user", "one"]
    config: dict[str, str]


EVENTS: Final = Topic(
    "recs.events.v1",
    "Event",
    "tenant/user",
    "user",
    {
        "cleanup.policy": "delete",
        # Far above what a job takes, so that an oversized event is refused by us with a reason, not lost.
        "max.message.bytes": str(12 * MIB),
        "message.timestamp.type": "CreateTime",
    },
)
ITEMS: Final = Topic(
    "recs.items.v1",
    "Item",
    "tenant/item",
    "one",
    {"cleanup.policy": "compact", "max.message.bytes": str(MIB)},
)
CONTROL: Final = Topic(
    "recs.control.v1",
    "Control",
    "tenant/user, or *<kind> for all",
    "one",
    {"cleanup.policy": "compact,delete", "max.message.bytes": str(MIB), "retention.ms": str(365 * DAY_MS)},
)
CREDITS: Final = Topic(
    "recs.credits.v1",
    "Credit",
    "tenant/user",
    "user",
    {"cleanup.policy": "delete", "max.message.bytes": str(MIB)},
)
EXAMPLES: Final = Topic(
    "recs.examples.v1",
    "Example",
    "tenant/user",
    "user",
    # An experiment is judged by weeks of them.
    {"cleanup.policy": "delete", "max.message.bytes": str(4 * MIB), "retention.ms": str(90 * DAY_MS)},
)
SESSIONS: Final = Topic(
    "recs.sessions.v1",
    "SessionDelta",
    "tenant/user",
    "user",
    {"cleanup.policy": "delete", "max.message.bytes": str(MIB)},
)
SERVED: Final = Topic(
    "recs.served.v1",
    "ServedList",
    "tenant/user",
    "user",
    {"cleanup.policy": "delete", "max.message.bytes": str(4 * MIB)},
)
DEAD_LETTERS: Final = Topic(
    "recs.dead-letters.v1",
    "DeadLetter",
    "that of the refused record, as far as it is text",
    "one",
    # The largest event with its envelope.
    {"cleanup.policy": "delete", "max.message.bytes": str(16 * MIB), "retention.ms": str(30 * DAY_MS)},
)
MODELS: Final = Topic(
    "recs.models.v1",
    "ModelPointer",
    "created_time/epoch",
    "one",
    {"cleanup.policy": "compact", "max.message.bytes": str(MIB)},
)

WEIGHTS: Final = Topic(
    "recs.weights.v1",
    "LearntPart",
    "part",
    "one",
    {"cleanup.policy": "compact", "max.message.bytes": str(MIB)},
)
POSTERIORS: Final = Topic(
    "recs.posteriors.v1",
    "Posterior",
    "tenant",
    "one",
    {"cleanup.policy": "compact", "max.message.bytes": str(MIB)},
)
EDGE_UPDATES: Final = Topic(
    "edge.updates.v1",
    "EdgeUpdate",
    "tenant/user",
    "user",
    {
        "cleanup.policy": "delete",
        "max.message.bytes": str(2 * MIB),  # a table of 320,000 numbers at 32 bits
        # The broker's clock: a device must not choose the budget epoch that it is charged to.
        "message.timestamp.type": "LogAppendTime",
    },
)
EDGE_MODELS: Final = Topic(
    "edge.models.v1",
    "EdgeModel",
    "model_line/version",
    "one",
    {"cleanup.policy": "compact", "max.message.bytes": str(4 * MIB)},
)

EDGE_COHORTS: Final = Topic(
    "edge.cohorts.v1",
    "EdgeCohort",
    "model_line/cohort/phase",
    "one",
    {"cleanup.policy": "delete", "max.message.bytes": str(MIB), "retention.ms": str(7 * DAY_MS)},
)

TOPICS: Final = (
    EVENTS,
    ITEMS,
    CONTROL,
    CREDITS,
    SESSIONS,
    SERVED,
    DEAD_LETTERS,
    MODELS,
    EXAMPLES,
    EDGE_UPDATES,
    EDGE_MODELS,
    EDGE_COHORTS,
    WEIGHTS,
    POSTERIORS,
)


def topic_config(topic: Topic, *, retention_ms: int, max_future_ms: int) -> dict[str, str]:
    """Broker settings of a topic in one deployment.

    Parameters
    ----------
    retention_ms
        How long user-keyed records are kept; -1 keeps all. Topics that set their own, and compacted ones,
        keep theirs.
    max_future_ms
        An event whose timestamp is further ahead of the broker's clock than this is refused by the broker:
        one such timestamp would carry the watermark away.

    Examples
    --------
    >>> topic_config(EVENTS, retention_ms=-1, max_future_ms=3_600_000)["message.timestamp.after.max.ms"]
    '3600000'
    """
    config = dict(topic.config)
    if config["cleanup.policy"] == "delete":
        config.setdefault("retention.ms", str(retention_ms))
    if topic is EVENTS:
        config["message.timestamp.after.max.ms"] = str(max_future_ms)
    return config


def partition_count(topic: Topic, user_partitions: int) -> int:
    """Partitions of a topic in a deployment whose user-keyed topics have `user_partitions`."""
    return user_partitions if topic.partitions == "user" else 1
