"""`tailrace replay FILE`: history into the events topic."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from clients.catalogue import CatalogueProducer
from clients.delivery import UndeliveredError
from flink_jobs.settings import Settings, load
from schemas.records import CONSENTS, Item
from schemas.topics import EVENTS
from tailrace.commands.options import Config, Json
from tailrace.connections import QUIET, ensure_topics
from tailrace.errors import ExitCode, UserError
from tailrace.event_replay import ReplayReport, Speed, choose, moment_ms, replay, shift_to
from tailrace.topic_scan import broker_unreachable

if TYPE_CHECKING:
    from model_export.sources import EventLog


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="replay")(replay_file)


def replay_file(
    file: Annotated[Path, typer.Argument(help="Online Retail, REES46 or .jsonl; told by its columns.")],
    config: Config = None,
    from_: Annotated[str | None, typer.Option("--from", help="First moment, e.g. 2011-11-01.")] = None,
    until: Annotated[str | None, typer.Option(help="Moment to stop before, e.g. 2011-11-08.")] = None,
    limit: Annotated[int | None, typer.Option(min=0, help="At most this many events.")] = None,
    speed: Annotated[
        str, typer.Option(help="full, 500/s, or x60: as it happened, 60 times as fast.")
    ] = "full",
    shift_to_now: Annotated[
        bool, typer.Option("--shift-to-now", help="Move all by whole days: the newest to the last 24 hours.")
    ] = False,
    consent: Annotated[
        str | None, typer.Option(help="Give every event this consent; default: as in the file.")
    ] = None,
    catalogue: Annotated[
        bool, typer.Option("--catalogue/--no-catalogue", help="Publish the file's items first.")
    ] = True,
    tenant: Annotated[str | None, typer.Option(help="Give every event and item this tenant.")] = None,
    as_json: Json = False,
) -> None:
    """Send a file's events to recs.events.v1, in time order, and its items to recs.items.v1 first.

    An event keeps its own time, and its received_time is set to the same: history keeps its own clock, so
    nothing is clamped to now. Event ids come from the file, so events sent again are recognised while they
    are among a user's last 32. Where the topic does not keep records that old, the broker deletes them
    within minutes: run the job before, or set kafka.retention_ms = -1, or use --shift-to-now.

    Exit code 1 when the broker did not confirm every event that could be sent.
    """
    if consent is not None and consent not in CONSENTS:
        raise UserError(
            "TR-313", f"consent {consent!r}; there are {', '.join(CONSENTS)}", exit_code=ExitCode.USAGE
        )
    settings, pace = load(config), Speed.parse(speed)
    from_ms, until_ms = (None if text is None else moment_ms(text) for text in (from_, until))
    log, items = read_file(file, until_ms if catalogue else None, catalogue)
    chosen = choose(log, from_ms, until_ms, limit)
    shift_ms = shift_to(chosen, time.time_ns() // 1_000_000) if shift_to_now else 0
    retention_ms = _retention_ms(settings)
    if not as_json:
        _announce(log, chosen, shift_ms, retention_ms)
    published = publish_catalogue(settings, items, tenant)
    with _bar(as_json) as bar:
        task = bar.add_task("events", total=len(chosen))
        report = replay(
            settings,
            chosen,
            speed=pace,
            shift_ms=shift_ms,
            consent=consent,
            tenant=tenant,
            progress=lambda done: bar.update(task, completed=done),
        )
    if as_json:
        typer.echo(json.dumps(_as_dict(file, log, published, shift_ms, report)))
    else:
        _tell(published, report)
    if not report.complete:
        raise typer.Exit(ExitCode.FAILED)


def read_file(file: Path, until_ms: int | None, with_items: bool) -> tuple[EventLog, list[Item]]:
    """Read a file's events, and its items as known before a moment.

    Raises
    ------
    UserError
        TR-343.
    """
    from model_export import sources  # pandas and pyarrow: half a second that other commands need not wait

    try:
        log = sources.read(file)
        return log, sources.catalogue(file, until_ms) if with_items else []
    except sources.SourceError as error:
        raise UserError("TR-343", str(error), exit_code=ExitCode.USAGE) from error


def publish_catalogue(settings: Settings, items: list[Item], tenant: str | None = None) -> int:
    """Send the items to recs.items.v1 and wait until the broker has them; give their number.

    Raises
    ------
    UserError
        TR-300.
    """
    kafka = settings.kafka
    try:
        with CatalogueProducer(
            kafka.bootstrap_servers, topic_prefix=kafka.topic_prefix, config=QUIET
        ) as producer:
            for item in items:
                producer.send(item if tenant is None else item._replace(tenant=tenant))
    except (UndeliveredError, TimeoutError) as error:
        raise broker_unreachable(kafka.bootstrap_servers, str(error)) from error
    return len(items)


def _retention_ms(settings: Settings) -> int:
    for report in ensure_topics(settings):
        if report.name.endswith(EVENTS.name) and "retention.ms" in report.differences:
            return int(report.differences["retention.ms"][1])
    return settings.kafka.retention_ms


def _bar(quiet: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        transient=True,
        disable=quiet,
    )


def _announce(log: EventLog, chosen: EventLog, shift_ms: int, retention_ms: int) -> None:
    typer.echo(f"{log.name}: {len(log):,} events; {len(chosen):,} chosen")
    if log.skipped:
        reasons = ", ".join(f"{name} {count:,}" for name, count in log.skipped.items())
        typer.echo(f"rows that are no events: {reasons}")
    if len(chosen) == 0:
        return
    first, last = int(chosen.times_ms[0]) + shift_ms, int(chosen.times_ms[-1]) + shift_ms
    typer.echo(
        f"from {_utc(first)} to {_utc(last)}"
        + (f", shifted by {shift_ms // 86_400_000} days" * bool(shift_ms))
    )
    if retention_ms >= 0 and time.time() * 1000 - last > retention_ms:
        typer.secho(
            "note: recs.events.v1 does not keep records that old; the broker deletes them within minutes. "
            "Have the job running, or use --shift-to-now",
            fg="yellow",
        )


def _tell(published: int, report: ReplayReport) -> None:
    rate = report.delivered / report.seconds if report.seconds else 0.0
    typer.echo(
        f"{published:,} items and {report.delivered:,} events delivered in {report.seconds:.1f} s, "
        f"{rate:,.0f} events/s"
    )
    for reason, count in report.refused.items():
        typer.echo(f"{count:,} not sent: {reason}")
    if report.interrupted:
        typer.echo("stopped by Ctrl-C")
    if not report.complete:
        missing = report.chosen - report.delivered - sum(report.refused.values())
        typer.echo(f"{missing:,} NOT delivered; last error: {report.last_error or 'none'}", err=True)


def _as_dict(
    file: Path, log: EventLog, published: int, shift_ms: int, report: ReplayReport
) -> dict[str, Any]:
    return {
        "file": str(file),
        "source": log.name,
        "in_file": len(log),
        "skipped": dict(log.skipped),
        "items": published,
        "shift_ms": shift_ms,
        "events": report.chosen,
        "delivered": report.delivered,
        "refused": report.refused,
        "failed": report.failed,
        "undelivered": report.chosen - report.delivered - report.failed - sum(report.refused.values()),
        "last_error": report.last_error,
        "interrupted": report.interrupted,
        "seconds": round(report.seconds, 3),
        "events_per_s": round(report.delivered / report.seconds) if report.seconds else 0,
    }


def _utc(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
