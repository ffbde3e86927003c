"""`tailrace dlq ls|show|redrive`: the records that a job refused."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from flink_jobs.settings import Settings, load
from schemas.codec import Codec
from schemas.refusal import REASONS
from tailrace import dead_letters
from tailrace.commands.options import Config, Json
from tailrace.dead_letters import Letter
from tailrace.errors import ExitCode, UserError
from tailrace.redrive import redrive_letters
from tailrace.topic_scan import TopicReader

_SCAN = 100_000

Reasons = Annotated[list[str] | None, typer.Option("--reason", "-r", help="Only these reasons; repeatable.")]
Names = Annotated[
    list[str] | None,
    typer.Argument(help="PARTITION:OFFSET as `dlq ls` prints it, or TOPIC/PARTITION/OFFSET of the origin."),
]
Scan = Annotated[int, typer.Option(min=1, help="Look at this many of the newest records.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        name="dlq",
        no_args_is_help=True,
        help="Records that a job refused: why, what they hold, and sending them back.",
    )
    group.command()(ls)
    group.command()(show)
    group.command()(redrive)
    app.add_typer(group)


def ls(
    config: Config = None,
    reason: Reasons = None,
    limit: Annotated[int, typer.Option("-n", min=0, help="Show this many of the newest.")] = 20,
    scan: Scan = _SCAN,
    as_json: Json = False,
) -> None:
    """List dead letters: how many for each reason, and the newest with their places."""
    letters, unreadable = _read(load(config), scan)
    letters = dead_letters.select(letters, _reasons(reason), ())
    counts = Counter(letter.letter.reason for letter in letters)
    newest = letters[-limit:] if limit else []
    if as_json:
        rows = [_as_dict(letter) for letter in newest]
        typer.echo(
            json.dumps({"letters": len(letters), "reasons": counts, "unreadable": unreadable, "newest": rows})
        )
        return
    console = Console(highlight=False)
    if not letters:
        console.print("no dead letters: every record read so far was taken")
        return
    console.print(f"{len(letters):,} dead letters")
    for name, count in counts.most_common():
        console.print(f"  {count:>8,}  {name}: {REASONS.get(name, 'a reason of another release')}")
    table = Table(box=None, header_style="bold")
    room = max(12, console.width - 72)
    for title in ("place", "refused at", "reason", "origin", "detail"):
        table.add_column(title, no_wrap=True)
    for letter in newest:
        sent = "redriven; " if letter.redriven_to else "came back; " if letter.came_back else ""
        at, record = _utc(letter.refused_ms), letter.letter
        table.add_row(
            letter.name, at, record.reason, str(letter.origin), _shortened(sent + record.detail, room)
        )
    console.print(table)
    console.print(
        "`tailrace dlq show PLACE` shows one; `tailrace dlq redrive --reason REASON` sends them back"
    )


def show(
    name: Annotated[str, typer.Argument(help="A place from `dlq ls`.")],
    config: Config = None,
    scan: Scan = _SCAN,
    as_json: Json = False,
) -> None:
    """Show one dead letter: reason, key, bytes, and its fields as far as they can be read."""
    settings = load(config)
    codec = Codec(settings.kafka.schema_ids)
    (letter,) = _named(_read(settings, scan)[0], [name])
    fields, why_not = dead_letters.explain(letter.letter, codec)
    key = dead_letters.fixed_key(letter.letter, codec)
    if as_json:
        extra = {
            "value_hex": letter.letter.value.hex(),
            "fields": fields,
            "unreadable_because": why_not or None,
            "fixed_key": None if key is None else key.decode(),
        }
        typer.echo(json.dumps(_as_dict(letter) | extra, default=str))
        return
    console = Console(highlight=False)

    def line(title: str, text: object) -> None:
        console.print(f"{title:<10}", text, markup=False, soft_wrap=True)

    record = letter.letter
    line("reason", f"{record.reason}: {REASONS.get(record.reason, '?')}")
    line("detail", record.detail)
    line("origin", f"{letter.origin}, record time {_utc(record.timestamp)}")
    line("refused", f"by {record.job} at {_utc(letter.refused_ms)}")
    line("key", repr(record.key))
    if letter.redriven_to is not None:
        line("redriven", f"to {letter.redriven_to}")
    if letter.came_back:
        line("", "it came back: it had been redriven once before")
    line("payload", f"{len(record.value):,} bytes")
    for text in dead_letters.hex_lines(record.value):
        console.print("  " + text, markup=False)
    if fields is None:
        line("fields", f"cannot be read: {why_not}")
    else:
        line("fields", json.dumps(fields, indent=2, default=str))
    if key is not None:
        line("fix", f"tailrace dlq redrive {letter.name} --fix-key   (sends it under {key.decode()})")


def redrive(
    names: Names = None,
    reason: Reasons = None,
    config: Config = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")
    ] = False,
    fix_key: Annotated[
        bool,
        typer.Option("--fix-key", help="Send letters refused for their key under the key of their payload."),
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Also those redriven before, and those that came back.")
    ] = False,
    scan: Scan = _SCAN,
    as_json: Json = False,
) -> None:
    """Send dead letters back to the topic they came from, with their original bytes.

    Each is confirmed by the broker before it is marked as redriven, so none is lost: if this command is
    killed in between, the letter may be sent once more, which the jobs recognise by its event_id. A letter
    that was redriven is not sent again without --again, nor is one that came back.

    Exit code 1 when the broker did not take something; 2 when nothing was selected.
    """
    if not names and not reason:
        raise UserError(
            "TR-341",
            "nothing selected",
            fix="tailrace dlq redrive PLACE..., or --reason REASON; `tailrace dlq ls` lists both",
            exit_code=ExitCode.USAGE,
        )
    settings = load(config)
    codec = Codec(settings.kafka.schema_ids)
    letters, _ = _read(settings, scan)
    named = _named(letters, names or [])
    by_reason = dead_letters.select(letters, _reasons(reason), ()) if reason else []
    chosen = named + [letter for letter in by_reason if letter not in named]
    sent, left = [], []
    for letter in chosen:
        key = letter.letter.key or None
        if (letter.redriven_to is not None or letter.came_back) and not again:
            left.append((letter, "redriven before" if letter.redriven_to else "came back; --again sends it"))
            continue
        if fix_key and letter.letter.reason in dead_letters.FIXABLE:
            key = dead_letters.fixed_key(letter.letter, codec)
            if key is None:
                left.append((letter, "its payload names no key"))
                continue
        sent.append((letter, key))
    targets = {} if dry_run else redrive_letters(settings, sent)
    lost = 0 if dry_run else len(sent) - len(targets)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "dry_run": dry_run,
                    "sent": [
                        {"place": letter.name, "key": key and key.decode("utf-8", "replace"),
                         "to": str(targets.get(letter.origin, letter.letter.topic))}
                        for letter, key in sent if dry_run or letter.origin in targets
                    ],
                    "left": [{"place": letter.name, "because": why} for letter, why in left],
                    "not_delivered": lost,
                }
            )
        )  # fmt: skip
    else:
        for letter, key in sent:
            to = targets.get(letter.origin)
            verb = "would send" if dry_run else "sent" if to else "NOT DELIVERED"
            typer.echo(
                f"{verb} {letter.name} ({letter.letter.reason}) to {to or letter.letter.topic}, key {key!r}"
            )
        for letter, why in left:
            typer.echo(f"left {letter.name}: {why}")
        typer.echo(f"{len(targets) if not dry_run else len(sent)} {'to send' if dry_run else 'redriven'}, "
                   f"{len(left)} left, {lost} not delivered")  # fmt: skip
    if lost:
        raise typer.Exit(ExitCode.FAILED)


def _read(settings: Settings, scan: int) -> tuple[list[Letter], int]:
    with TopicReader(settings, dead_letters.TOPIC) as reader:
        return dead_letters.read_letters(reader.read_all(scan), Codec(settings.kafka.schema_ids))


def _named(letters: list[Letter], names: list[str]) -> list[Letter]:
    found = []
    for name in names:
        matching = [letter for letter in letters if name in (letter.name, str(letter.origin))]
        if not matching:
            raise UserError(
                "TR-340",
                f"dead letter {name!r}: there is none among the newest {_SCAN:,}",
                "a mistyped place, the mark of a redrive, or it is older than the topic keeps",
                "tailrace dlq ls -n 100",
                ExitCode.USAGE,
            )
        found += matching
    return found


def _reasons(reasons: list[str] | None) -> list[str]:
    for reason in reasons or ():
        if reason not in REASONS:
            raise UserError(
                "TR-342", f"reason {reason!r}; there are {', '.join(REASONS)}", exit_code=ExitCode.USAGE
            )
    return reasons or []


def _as_dict(letter: Letter) -> dict[str, Any]:
    record = letter.letter
    return {
        "place": letter.name,
        "origin": str(letter.origin),
        "reason": record.reason,
        "detail": record.detail,
        "key": None if record.key is None else record.key.decode("utf-8", "replace"),
        "key_hex": None if record.key is None else record.key.hex(),
        "bytes": len(record.value),
        "timestamp": record.timestamp,
        "refused_at": letter.refused_ms,
        "job": record.job,
        "redriven_to": None if letter.redriven_to is None else str(letter.redriven_to),
        "came_back": letter.came_back,
    }


def _shortened(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"


def _utc(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
