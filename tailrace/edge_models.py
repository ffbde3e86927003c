"""Versions that the federate job has published, as the commands read them."""

from __future__ import annotations

from clients.edge.model_feed import ModelFeed
from flink_jobs.settings import Settings
from schemas.records import EdgeModel
from tailrace.connections import QUIET
from tailrace.errors import ExitCode, UserError
from tailrace.topic_scan import broker_unreachable
from udfs.federate.pair_table import PairTable, table_of

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


def pair_table(settings: Settings, line: str, item_ids: list[str], version: int | None = None) -> PairTable:
    """Make a table of the committed versions of a line of item pairs.

    Parameters
    ----------
    item_ids
        The line's items in the order that its devices have them.
    version
        The newest to take; None: of those that are there.

    Raises
    ------
    UserError
        TR-761 where the line has no such version, or other items.
    """
    records = [model for model in published(settings) if model.model_line == line]
    newest = max((record.version for record in records), default=0)
    try:
        if version is not None and not 1 <= version <= newest:
            raise ValueError(f"wanted version {version}, the newest is {newest}")
        return table_of(
            [record for record in records if version is None or record.version <= version], item_ids
        )
    except ValueError as error:
        raise UserError(
            "TR-761", f"line {line!r}: {error}", fix="tailrace fed status", exit_code=ExitCode.USAGE
        ) from error


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
