"""`tailrace fed`: learning from devices, its budgets and its audits."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from flink_jobs.settings import Settings, load
from schemas.ids import user_key
from schemas.records import DEFAULT_TENANT, Control
from schemas.redis_keys import edge_budget_key, stats_key
from tailrace.commands import fed_key
from tailrace.commands.options import Config, Json
from tailrace.connections import control_producer, store
from tailrace.edge_models import published
from tailrace.errors import ExitCode, UserError
from tailrace.job_counts import sum_counts

commands = typer.Typer(
    help="Learn from devices: simulate, watch versions and budgets, revoke, audit.", no_args_is_help=True
)
commands.add_typer(fed_key.commands, name="key")
User = Annotated[str, typer.Argument(help="Pseudonym under which the user enrolled.")]
Tenant = Annotated[str, typer.Option(help="Whose shop.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(commands, name="fed")


@commands.command()
def run(
    config: Config = None,
    clients: Annotated[int, typer.Option(min=10, help="Simulated devices, one a user.")] = 10_000,
    releases: Annotated[int, typer.Option(min=1, help="Versions to release.")] = 20,
    mode: Annotated[str, typer.Option(help="local, central or distributed.")] = "central",
    dimension: Annotated[int, typer.Option(min=2, max=256, help="Numbers in the head.")] = 64,
    noise_multiplier: Annotated[float, typer.Option(help="In clips.")] = 4.0,
    kills: Annotated[int, typer.Option(min=0, help="TaskManagers to kill without a warning.")] = 2,
    seed: Annotated[int, typer.Option(help="Of devices and their data.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the report to this file too.")] = None,
    as_json: Json = False,
) -> None:
    """Let a fleet learn one head through the real broker and job, on a stack of its own, and check every version.

    Devices drop out, come late, send again, are broken or go on when their budget is spent. Each version must be
    that of an uninterrupted plain run of the same arrivals, bit for bit, and no ledger below the oracle's.
    """
    from tailrace.federated_stack import simulate

    def say(line: str) -> None:
        typer.echo(line, err=True)

    report = simulate(
        load(config), clients, releases, mode, dimension, noise_multiplier, kills, seed, progress=say
    )
    text = json.dumps(report)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if not as_json:
        for name, value in report.items():
            typer.echo(f"{name:>26}  {value}")
    typer.echo(text)


@commands.command()
def status(
    config: Config = None,
    line: Annotated[str | None, typer.Option(help="One model line; default: all.")] = None,
    last: Annotated[int, typer.Option(min=1, help="Newest versions to show of each line.")] = 10,
    as_json: Json = False,
) -> None:
    """Show released versions with the privacy they cost, and what was refused."""
    settings = load(config)
    models = [model for model in _models(settings) if line in (None, model["line"])]
    newest: list[dict[str, Any]] = []
    for name in sorted({model["line"] for model in models}):
        newest += [model for model in models if model["line"] == name][-last:]
    with store(settings) as client:
        counts = sum_counts(client.hgetall(stats_key("federate", settings.kafka.topic_prefix)))
    if as_json:
        typer.echo(json.dumps({"versions": newest, "counts": counts.total, "refused": counts.refused}))
        return
    if not newest:
        typer.echo("no version yet: submit the federate job, or wait for its first tick")
    for model in newest:
        typer.echo(_line(model))
    for reason, count in counts.refused.items():
        typer.echo(f"refused {count:>10,}  {reason}")


@commands.command()
def budget(user: User, config: Config = None, tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """Show what a user's devices have spent in this budget epoch, as the job told it last."""
    settings = load(config)
    key = edge_budget_key(user_key(tenant, user), settings.kafka.topic_prefix, settings.redis.hash_tags)
    with store(settings) as client:
        fields = client.hgetall(key)
    if not fields:
        raise UserError(
            "TR-755",
            f"user {user!r}: no budget in the store",
            "no update of this user was charged, or it is long ago",
            "tailrace fed status",
        )
    found = {
        "user": user,
        "epsilon": float(fields["epsilon"]),
        "budget_epsilon": float(fields["budget_epsilon"]),
        "delta": float(fields["delta"]),
        "contributions": int(fields["contributions"]),
        "epoch": int(fields["epoch"]),
        "revoked": fields["revoked"] == "1",
    }
    if as_json:
        typer.echo(json.dumps(found))
        return
    typer.echo(
        f"{user}: epsilon {found['epsilon']:.4g} of {found['budget_epsilon']:.4g} at delta {found['delta']:g}, "
        f"{found['contributions']} contributions in epoch {found['epoch']}"
        + (", consent taken back" if found["revoked"] else "")
    )


@commands.command()
def revoke(user: User, config: Config = None, tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """Take a user's consent back: no update of theirs is taken any more, in no job.

    What lies in a sum or a version stays there, and so does what was spent: neither can be taken out.
    """
    now_ms = time.time_ns() // 1_000_000
    order = Control(
        f"fed-revoke-{now_ms}", "set_consent", tenant, user, None, "none", now_ms, "tailrace fed revoke"
    )
    with control_producer(load(config)) as producer:
        producer.send(order)
    typer.echo(json.dumps({"user": user, "consent": "none"}) if as_json else f"{user}: consent taken back")


@commands.command()
def epoch(
    number: Annotated[int, typer.Argument(min=1, help="Above every one before.")],
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Begin a budget epoch, where `federate.epoch_ms` is 0: every user may spend the budget once more.

    A user's mu squared over all epochs is the sum of theirs. The number cannot go back.
    """
    settings = load(config)
    if settings.federate.epoch_ms:
        raise UserError(
            "TR-760",
            f"federate.epoch_ms: wanted 0 for epochs that begin by order, got {settings.federate.epoch_ms}",
            fix="set it to 0 and `tailrace submit federate --replace`",
            exit_code=ExitCode.USAGE,
        )
    now_ms = time.time_ns() // 1_000_000
    reason = "tailrace fed epoch"
    order = Control(f"fed-epoch-{number}", "begin_budget_epoch", None, None, number, None, now_ms, reason)
    with control_producer(settings) as producer:
        producer.send(order)
    typer.echo(json.dumps({"epoch": number}) if as_json else f"budget epoch {number} begins")


@commands.command()
def export(
    line: Annotated[str, typer.Argument(help="A model line of item pairs.")],
    items: Annotated[Path, typer.Option(help="The line's items, one a row, in the order that devices have.")],
    out: Annotated[Path, typer.Option(help="Write the table to this file.")],
    version: Annotated[
        int | None, typer.Option(min=1, help="Newest to take; default: all there are.")
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Write what devices have learnt of items that go together to a file for `tailrace train --federated`."""
    from model_export.federated_items import write_table
    from tailrace.edge_models import pair_table

    item_ids = [name for name in items.read_text(encoding="utf-8").splitlines() if name]
    table = pair_table(load(config), line, item_ids, version)
    write_table(out, table)
    if as_json:
        typer.echo(json.dumps({"out": str(out), **table.privacy()}))
        return
    epsilon = "no privacy" if table.epsilon is None else f"epsilon {table.epsilon:.3g}"
    typer.echo(
        f"{out}: {len(item_ids)} items, {len(table.versions)} versions, {table.versions[-1]['mode']} mode, {epsilon} "
        f"at delta {table.versions[0]['delta']:g} of a user who is in all of them"
    )


@commands.command()
def audit(
    seeds: Annotated[int, typer.Option(min=1, help="How often what is right must pass.")] = 20,
    full: Annotated[
        bool, typer.Option("--full", help="10,000 runs where worlds are told apart by counting.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(help="Online Retail: its customers are the users whose membership is guessed."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the noise, clip, replay, ledger and gate of this release; broken mechanisms must be rejected.

    Also what can be told of canaries in one cohort, and of who was in it.
    """
    from udfs.federate.audit_suite import suite

    began_s = time.process_time()
    passed: dict[str, list[bool]] = {}
    wrong: list[dict[str, Any]] = []
    users = None
    if data is not None:
        from model_export.protocols.federated import audited_users

        users = audited_users(data)
    for one in suite(seeds, counted=10_000 if full else 400, users=users):
        name = f"{one.mechanism}: {one.finding.audit}"
        if name not in passed and not as_json:
            typer.echo(f"{'must fail' if one.is_broken else 'must pass'}  {name}", err=True)
        passed.setdefault(name, []).append(one.is_right)
        if not one.is_right:
            wrong.append({"mechanism": one.mechanism, "seed": one.seed, **one.finding._asdict()})
    report = {
        "audits": {name: f"{sum(each)} of {len(each)}" for name, each in passed.items()},
        "wrong": wrong,
        "seeds": seeds,
        "cpu_s": round(time.process_time() - began_s, 1),
    }
    if as_json:
        typer.echo(json.dumps(report))
    else:
        for name, each in passed.items():
            typer.echo(f"{sum(each):>4} of {len(each):<4} {name}")
    if wrong:
        raise UserError(
            "TR-756", f"{len(wrong)} audits were wrong, first {wrong[0]}", exit_code=ExitCode.FAILED
        )


def _models(settings: Settings) -> list[dict[str, Any]]:
    """Released versions without their numbers, in order."""
    hidden = ("weights", "model_line")
    return [
        {
            "line": model.model_line,
            **{name: value for name, value in model._asdict().items() if name not in hidden},
        }
        for model in published(settings)
    ]


def _line(model: dict[str, Any]) -> str:
    return (
        f"{model['line']} {model['version']}: K {model['cohort_size']} ({model['trigger']}), "
        f"{model['mode']} mode{', encrypted' if model['encryption'] else ''}, "
        f"epsilon {model['epsilon']:.3g} a contribution, budget {model['budget_epsilon']:.3g}, "
        f"at delta {model['delta']:g} per {model['unit']} ({model['adjacency']}), "
        f"staleness {model['mean_staleness']:.2f}, SNR {_number(model['signal_to_noise'])}, "
        f"clipped {_number(model['clipped_share'])}"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
