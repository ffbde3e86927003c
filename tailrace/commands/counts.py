"""`tailrace counts`: what became of every event."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from flink_jobs.settings import load
from schemas.redis_keys import stats_key
from schemas.refusal import REASONS
from tailrace.commands.options import Config, Json
from tailrace.connections import store
from tailrace.errors import ExitCode, UserError
from tailrace.job_counts import NOTES, OUTCOMES, JobCounts, sum_counts
from udfs.feedback.join_rate import join_rate

_DOCS = {
    "accepted": "entered the user's state",
    "duplicate": "its event_id was among the user's last 32",
    "unknown_type": "of a type that this release does not know",
    "no_consent": "without consent: nothing was kept",
    "essential_only": "with consent to the essential only: no profile was kept",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(counts)


def counts(
    config: Config = None,
    job: Annotated[str, typer.Option(help="Whose counts.")] = "recommend",
    as_json: Json = False,
) -> None:
    """Show what became of every event the job has read: exactly-once totals, published each second.

    Each event is counted once: accepted, recognised as a duplicate, left out for want of consent, or refused
    (then it is in the dead letters). They live in the job's state, so they survive failures without counting
    twice.
    """
    settings = load(config)
    with store(settings) as client:
        fields = client.hgetall(stats_key(job, settings.kafka.topic_prefix))
    if not fields:
        raise UserError(
            "TR-360",
            f"no counts of {job} in the store",
            "the job has not run since the store was emptied, or has read no event",
            f"tailrace status; tailrace submit {job}",
            ExitCode.NOT_RUNNING,
        )
    found = sum_counts(fields)
    rate = join_rate(found.total) if job == "feedback" else None
    if as_json:
        summary = {"job": job, "shards": found.shards, "refused": sum(found.refused.values())}
        if job == "feedback":
            summary["join_rate"] = rate
        typer.echo(json.dumps(summary | {"counts": found.total}))
    else:
        _show(found)
        if rate is not None:
            typer.echo(
                f"{100 * rate:>14.3f}% of the lists that were shown, and are settled, found their record"
            )


def _show(found: JobCounts) -> None:
    console = Console(highlight=False)

    def line(count: int, name: str, text: str = "") -> None:
        console.print(f"{count:>14,}  {name:<16} {text}", markup=False, soft_wrap=True)

    line(found.events, "events", f"read, by {found.shards} shards that have published")
    for name in OUTCOMES:
        if found.total.get(name):
            line(found.total[name], "  " + name, _DOCS[name])
    for reason, count in found.refused.items():
        line(count, "  refused", f"{reason}: {REASONS.get(reason, '')}; see `tailrace dlq ls`")
    known = {"events", *OUTCOMES, *(f"refused_{reason}" for reason in found.refused)}
    for name, count in found.total.items():
        if name not in known:
            line(count, name, NOTES.get(name, ""))
