"""Versions that the federate job has published, as the commands read them."""

from __future__ import annotations

from clients.edge.model_feed import ModelFeed
from flink_jobs.settings import Settings
from schemas.records import EdgeModel
from tailrace.connections import QUIET
from tailrace.errors import ExitCode, UserError
from tailrace.topic_scan import broker_unreachable

_ANSWER_S = 15.0


def published(settings: Settings) -> list[EdgeModel]:
    """Give all committed versions in order; TR-300 where the broker does not answer."""
    kafka = settings.kafka
    try:
        with ModelFeed(
            kafka.bootstrap_servers,
            topic_prefix=kafka.topic_prefix,
            schema_ids=kafka.schema_ids,
            config=QUIET,
        ) as feed:
            return list(feed.read(_ANSWER_S))
    except ConnectionError as error:
        raise broker_unreachable(kafka.bootstrap_servers, str(error)) from error


def refuse_lost_ledgers(settings: Settings) -> None:
    """Refuse to start the federate job without its state where users have contributed before.

    Raises
    ------
    UserError
        TR-759: an empty state has empty ledgers, so every budget would be handed out a second time, and the updates
        that are still in the topic would be released again, in other cohorts with other noise.
    """
    if any(model.version > 0 for model in published(settings)):
        raise UserError(
            "TR-759",
            "federate: versions were published already, and no savepoint is given to start from",
            "without its state the job forgets what every user has spent",
            "tailrace submit federate --from SAVEPOINT_OR_CHECKPOINT; or --forget-ledgers, if they are lost",
            ExitCode.USAGE,
        )
