"""`tailrace lake run|ls|compact|retain|erase`, and `tailrace parity`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from flink_jobs.settings import Settings, load
from schemas.ids import user_key
from schemas.topics import CONTROL, EDGE_UPDATES, TOPICS
from tailrace.commands.options import Config, Json
from tailrace.errors import ExitCode, UserError

DEFAULT_TOPICS = tuple(topic.name for topic in TOPICS if topic is not EDGE_UPDATES)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        name="lake",
        no_args_is_help=True,
        help="Every topic as Parquet: copy, look, compact, keep so many days, erase a user.",
    )
    for command in (run, ls, compact, retain, erase):
        group.command()(command)
    app.add_typer(group)
    app.command()(parity)


def run(
    once: Annotated[bool, typer.Option("--once", help="Stop where the topics end now.")] = False,
    topic: Annotated[
        list[str] | None,
        typer.Option(help="Only these, without the prefix; default: all but edge.updates.v1."),
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Copy the topics' records to the lake, from where its files end; Ctrl-C stops it.

    Each record is in the lake once, also after a kill: a file is there whole or not at all, and its name says which
    offsets it covers. Run one at a time for a topic.
    """
    from tailrace.lake_writer import LakeWriter

    settings = load(config)
    _check_topics(topic)
    lake, console, taken = settings.lake, Console(stderr=True, highlight=False), 0
    writer = LakeWriter(settings, lake.root, topic or DEFAULT_TOPICS, lake.rows_a_file, lake.flush_s)

    def tell(records: int) -> None:
        nonlocal taken
        taken += records
        status.update(f"{taken:,} records read")

    try:
        with console.status("reading") as status:
            if once:
                writer.run_to_end(tell)
            else:
                writer.follow(tell, lambda line: console.print(line, markup=False, soft_wrap=True))
    except KeyboardInterrupt:
        writer.flush()
    finally:
        writer.close()
    added = {name: written._asdict() for name, written in sorted(writer.written.items())}
    if as_json:
        typer.echo(json.dumps({"root": str(lake.root), "added": added}))
        return
    for name, written in added.items():
        typer.echo(f"{written['records']:>12,} records in {written['files']} files  {name}")
    if not added:
        typer.echo(f"nothing new for {lake.root}")


def ls(config: Config = None, as_json: Json = False) -> None:
    """List the topics in the lake: days, files, bytes, and to which offset each partition is there."""
    from model_export.lake.files import files_of, next_offsets, topics_in

    settings = load(config)
    root, rows = settings.lake.root, list[dict[str, Any]]()
    with _readable():
        for topic in topics_in(root):
            files = files_of(root, topic)
            if files:
                rows.append(
                    {
                        "topic": topic,
                        "from": min(file.day for file in files).isoformat(),
                        "to": max(file.day for file in files).isoformat(),
                        "files": len(files),
                        "bytes": sum(file.path.stat().st_size for file in files),
                        "next_offsets": next_offsets(root, topic),
                    }
                )
    if as_json:
        typer.echo(json.dumps({"root": str(root), "topics": rows}))
        return
    table = Table(box=None, header_style="bold")
    for title in ("topic", "from", "to", "files", "MB", "offsets"):
        table.add_column(title, justify="right" if title in ("files", "MB", "offsets") else "left")
    for row in rows:
        offsets = sum(row["next_offsets"].values())
        table.add_row(
            row["topic"],
            row["from"],
            row["to"],
            str(row["files"]),
            f"{row['bytes'] / 1e6:.1f}",
            f"{offsets:,}",
        )
    Console(highlight=False).print(table if rows else _nothing(root))


def compact(config: Config = None, as_json: Json = False) -> None:
    """Join the files of each day before today into one a partition."""
    from model_export.lake.files import compact as compact_files
    from model_export.lake.files import topics_in

    root = load(config).lake.root
    today = datetime.now(UTC).date()
    with _readable():
        found = {topic: compact_files(root, topic, today) for topic in topics_in(root)}
    if as_json:
        typer.echo(json.dumps({topic: {"were": were, "are": are} for topic, (were, are) in found.items()}))
        return
    for topic, (were, are) in found.items():
        typer.echo(f"{were:>6} files are {are:>6}  {topic}")
    if not found:
        typer.echo(_nothing(root))


def retain(
    days: Annotated[int, typer.Option(min=1, help="Days that stay.")],
    topic: Annotated[list[str] | None, typer.Option(help="Only these; default: all.")] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Delete the files of older days."""
    from model_export.lake.files import retain as retain_files
    from model_export.lake.files import topics_in

    root = load(config).lake.root
    _check_topics(topic)
    since = datetime.now(UTC).date() - timedelta(days=days)
    with _readable():
        gone = {name: retain_files(root, name, since) for name in topic or topics_in(root)}
    typer.echo(json.dumps(gone) if as_json else f"{sum(gone.values())} files of before {since} deleted")


def erase(
    user: Annotated[str, typer.Argument(help="Whose records.")],
    tenant: Annotated[str, typer.Option(help="Whose shop.")] = "default",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Take a user's records out of every file, key and value.

    What the job knows of the user is erased by an order of its own (`erase_user`).
    """
    from model_export.lake.files import erase as erase_key
    from model_export.lake.files import topics_in

    root, key = load(config).lake.root, user_key(tenant, user).encode()
    with _readable():
        erased = {topic: erase_key(root, topic, key) for topic in topics_in(root) if topic != CONTROL.name}
    if as_json:
        typer.echo(json.dumps({"user": user, "tenant": tenant, "erased": erased}))
        return
    for topic, count in erased.items():
        typer.echo(f"{count:>10,} records  {topic}")
    if not erased:
        typer.echo(_nothing(root))


def _check_topics(names: list[str] | None) -> None:
    unknown = sorted(set(names or ()) - {each.name for each in TOPICS})
    if unknown:
        raise UserError(
            "TR-393",
            f"there is no topic {', '.join(unknown)}",
            "names are without kafka.topic_prefix",
            f"one of {', '.join(each.name for each in TOPICS)}",
            ExitCode.USAGE,
        )


@contextmanager
def _readable() -> Iterator[None]:
    """Give TR-395 for a file of the lake, or its disk, that cannot be read or written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            "TR-395",
            f"the lake: {error}",
            "its disk is full or away, or a file was changed after it was written",
            "mount the disk; or take the file out of the lake, its records with it",
        ) from error


def _nothing(root: Path) -> str:
    return f"{root} holds nothing yet: tailrace lake run --once"


def parity(config: Config = None, as_json: Json = False) -> None:
    """Make the states behind the served lists again from the lake, and compare them bit for bit.

    Exit code 1 when a state differs, or the lake holds no list.
    """
    from flink_jobs.model_store import ModelStore
    from model_export.lake.parity import compare
    from udfs.user_logic import LogicSettings

    settings: Settings = load(config)
    job = settings.job
    console = Console(stderr=True, highlight=False)
    with _readable(), console.status("reading the lake") as status:
        found = compare(
            Path(settings.lake.root),
            LogicSettings(job.session_gap_ms, job.forget_after_ms, job.shards),
            ModelStore(settings.model).factors,
            job.generation,
            lambda events: status.update(f"{events:,} events"),
        )
    if not found.lists:
        raise UserError(
            "TR-394",
            f"{settings.lake.root} holds no served list: there is nothing to compare",
            "nothing was copied yet, or lake.root names another folder",
            "tailrace lake run --once",
        )
    if as_json:
        summary = {"lists": found.lists, "equal": found.equal, "share_equal": found.share_equal}
        rest = {"differ": found.differ, "not_compared": found.not_compared, "examples": found.examples}
        typer.echo(json.dumps(summary | rest))
    else:
        share = "none" if found.share_equal is None else f"{100 * found.share_equal:.3f} %"
        typer.echo(
            f"{found.lists:,} lists in the lake, {found.equal:,} of their states made again bit for bit: "
            f"{share} of those compared"
        )
        for name, count in found.differ.items():
            typer.echo(f"{count:>10,} differ in {name}")
        for reason, count in found.not_compared.items():
            typer.echo(f"{count:>10,} not compared: {reason}")
    if found.differ:
        raise typer.Exit(int(ExitCode.FAILED))
