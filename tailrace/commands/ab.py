"""`tailrace ab start|report|stop|promote|withdraw`: experiments on the lists."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from flink_jobs.settings import Settings, load
from tailrace import example_log
from tailrace.commands.options import Config, Json
from tailrace.connections import ensure_topics
from tailrace.counted_examples import sum_variants
from tailrace.errors import ExitCode, UserError
from tailrace.experiment_orders import Standing, order_running, read_running, standing
from tailrace.running_standing import RunningStanding
from udfs.experiments.experiment import BUCKETS, METHODS, METRICS, Experiment, Guardrail, Variant
from udfs.experiments.running import NAMED, RunningExperiments
from udfs.experiments.verdict import BETTER, NO_DIFFERENCE, STOP

Name = Annotated[str, typer.Argument(help="Of the experiment.")]
SAYS = {
    "running": "go on: the difference may be chance",
    "sample_ratio": "stop: users were not dealt to variants as planned",
    "harmful": "stop: {variant} breaks a guardrail",
    "better": "{variant} is better: tailrace ab promote {name}",
    "no_difference": "over: no difference found",
}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        name="ab", no_args_is_help=True, help="Experiments: start, look at any time, stop, promote."
    )
    for command in (start, report, stop, promote, withdraw):
        group.command()(command)
    app.add_typer(group)


def start(
    name: Name,
    variant: Annotated[
        list[str],
        typer.Option(
            "--variant",
            help="NAME, or NAME:setting=value,… with settings that docs/experiments.md names; the first is "
            "the control. NAME*3 has three times the users.",
        ),
    ],
    metric: Annotated[str, typer.Option(help=f"What decides: {', '.join(METRICS)}.")] = "ctr",
    method: Annotated[
        str, typer.Option(help=f"{' or '.join(METHODS)}: looked at any time, or once.")
    ] = "sequential",
    share: Annotated[float, typer.Option(min=0.0001, max=1.0, help="Of the users that take part.")] = 1.0,
    layer: Annotated[str, typer.Option(help="Experiments of one layer have different users.")] = "list",
    days: Annotated[int, typer.Option(min=7, help="Of event time before a fixed decision.")] = 7,
    alpha: Annotated[float, typer.Option(help="Probability of a false alarm.")] = 0.05,
    expected_effect: Annotated[
        float, typer.Option(help="A difference worth finding, relative to the control.")
    ] = 0.1,
    guardrail: Annotated[
        list[str] | None,
        typer.Option(
            "--guardrail", help="METRIC or METRIC:0.05, what it may lose at most; stops a harmful variant."
        ),
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Start an experiment: from now on each list is made, and logged, as its user's variant says."""
    settings = load(config)
    buckets = max(1, round(share * BUCKETS))
    try:
        experiment = Experiment(
            name,
            layer,
            0,
            buckets,
            tuple(_variant(text) for text in variant),
            metric,
            method,
            days,
            alpha,
            expected_effect,
            tuple(_guardrail(text) for text in guardrail or ()),
        )
        RunningExperiments().start(experiment)  # what is wrong by itself is said before a broker is asked
        ensure_topics(settings)
        running = read_running(settings)
        if name in {one.name for one in running.experiments}:
            raise ValueError(
                f"name: {name} runs already; stop it, or take another name: it decides who sees what"
            )
        experiment = experiment._replace(first_bucket=running.free_bucket(layer, buckets))
        running = running.start(experiment)
    except ValueError as error:
        raise UserError(
            "TR-730", str(error), fix="tailrace ab start --help", exit_code=ExitCode.USAGE
        ) from error
    order_running(settings, running, f"start {name}")
    if as_json:
        typer.echo(experiment.to_json())
    else:
        typer.echo(f"{name} runs for {buckets / BUCKETS:.2%} of the users; `tailrace ab report {name}`")


def report(
    name: Annotated[str | None, typer.Argument(help="Of the experiment; default: all that run.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="A file of examples, as of `tailrace eval policy --keep`; default: the topic."
        ),
    ] = None,
    act: Annotated[
        bool, typer.Option("--act", help="Stop what must be stopped, promote what is better.")
    ] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Say what each variant earned, with intervals that hold at every look, and what is to be done."""
    settings = load(config)
    running = read_running(settings)
    chosen = running.experiments if name is None else (_find(running, name),)
    if data is None:
        found = _by_topic(settings, chosen)
    else:
        sums = sum_variants(example_log.from_file(data))
        found = [standing(one, sums) for one in chosen]
    if act:
        for one in found:
            running = _act(settings, running, one)
    if as_json:
        typer.echo(
            json.dumps({"experiments": [_plain(one) for one in found], "promoted": dict(running.promoted)})
        )
        return
    if not found:
        typer.echo("no experiment runs; `tailrace ab start --help`")
    for one in found:
        _show(one)


def stop(name: Name, config: Config = None, as_json: Json = False) -> None:
    """End an experiment; everybody gets what is served without it."""
    settings = load(config)
    running = read_running(settings)
    _find(running, name)
    _end(settings, running, name, None, as_json)


def promote(
    name: Name,
    variant: Annotated[
        str | None, typer.Argument(help="Which; default: the one that the report calls better.")
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """End an experiment; everybody gets a variant's settings from now on."""
    settings = load(config)
    running = read_running(settings)
    experiment = _find(running, name)
    if variant is None:
        verdict = _by_topic(settings, (experiment,))[0].verdict
        if verdict.word != BETTER:
            raise UserError(
                "TR-732",
                f"{name}: no variant is better yet ({verdict.word})",
                fix=f"tailrace ab report {name}; or name the variant",
            )
        variant = verdict.variant
    _end(settings, running, name, variant, as_json)


def withdraw(
    setting: Annotated[str, typer.Argument(help="That was promoted.")],
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Take a promoted setting back; everybody gets what the deployment's settings say."""
    settings = load(config)
    try:
        left = read_running(settings).withdraw(setting)
    except ValueError as error:
        raise UserError(
            "TR-733", str(error), fix="tailrace ab report --json", exit_code=ExitCode.USAGE
        ) from error
    order_running(settings, left, f"withdraw {setting}")
    typer.echo(left.to_json() if as_json else f"promoted: {dict(left.promoted) or 'nothing'}")


def _end(
    settings: Settings, running: RunningExperiments, name: str, variant: str | None, as_json: bool
) -> None:
    try:
        left = running.stop(name, variant)
    except ValueError as error:
        raise UserError(
            "TR-731", str(error), fix=f"tailrace ab report {name}", exit_code=ExitCode.USAGE
        ) from error
    done = f"stop {name}" if variant is None else f"promote {name}={variant}"
    order_running(settings, left, done)
    if as_json:
        typer.echo(left.to_json())
    else:
        typer.echo(
            f"{done}; {len(left.experiments)} experiments run, promoted: {dict(left.promoted) or 'nothing'}"
        )


def _act(settings: Settings, running: RunningExperiments, found: Standing) -> RunningExperiments:
    """Do what the verdict says, and return what runs then."""
    name, word = found.experiment.name, found.verdict.word
    if word == BETTER:
        left = running.stop(name, found.verdict.variant)
    elif word in (*STOP, NO_DIFFERENCE):
        left = running.stop(name)
    else:
        return running
    order_running(settings, left, f"{name}: {word}")
    return left


def _by_topic(settings: Settings, experiments: Sequence[Experiment]) -> list[Standing]:
    """Judge experiments by all that the topic of examples holds."""
    if not experiments:
        return []
    return RunningStanding(settings, experiments, most_users=None, most_ids=None).look()


def _find(running: RunningExperiments, name: str) -> Experiment:
    try:
        return running.find(name)
    except ValueError as error:
        raise UserError("TR-731", str(error), fix="tailrace ab report", exit_code=ExitCode.USAGE) from error


def _variant(text: str) -> Variant:
    head, _, words = text.partition(":")
    name, _, weight = head.partition("*")
    if weight and not weight.isdecimal():
        raise ValueError(f"--variant {text}: wanted NAME*3, a whole number of shares, got {weight!r}")
    settings: dict[str, Any] = {}
    for word in filter(None, words.split(",")):
        key, _, value = word.partition("=")
        try:
            settings[key] = value if key in NAMED else json.loads(value)
        except ValueError:
            raise ValueError(f"--variant {text}: wanted {key}=NUMBER, got {word!r}") from None
    return Variant(name, int(weight or 1), settings)


def _guardrail(text: str) -> Guardrail:
    metric, _, most_drop = text.partition(":")
    try:
        return Guardrail(metric, float(most_drop or 0.0))
    except ValueError:
        raise ValueError(f"--guardrail {text}: wanted {metric}:0.05, a share, got {most_drop!r}") from None


def _plain(found: Standing) -> dict[str, Any]:
    experiment, verdict = found.experiment, found.verdict
    return {
        "name": experiment.name,
        "verdict": verdict.word,
        "variant": verdict.variant,
        "variants": {
            name: {
                "users": sums.users,
                "lists": sums.lists,
                "slots": sums.slots,
                "items_shown": round(sums.items_shown()),
                **{metric: sums.value(metric) for metric in METRICS},
            }
            for name, sums in found.sums.items()
        },
        "comparisons": [
            {key: value if not isinstance(value, float) or math.isfinite(value) else None
             for key, value in one._asdict().items()}
            for one in verdict.comparisons
        ],
    }  # fmt: skip


def _show(found: Standing) -> None:
    experiment, verdict = found.experiment, found.verdict
    console = Console(highlight=False)
    table = Table(box=None, header_style="bold", title=experiment.name, title_justify="left")
    for title in ("variant", "users", "lists", *METRICS, "items"):
        table.add_column(title, justify="left" if title == "variant" else "right")
    for name, sums in found.sums.items():
        values = [sums.value(metric) for metric in METRICS]
        shown = ("-" if value is None else f"{value:.4f}" for value in values)
        table.add_row(name, f"{sums.users:,}", f"{sums.lists:,}", *shown, f"{sums.items_shown():,.0f}")
    console.print(table)
    if not any(sums.lists for sums in found.sums.values()):
        console.print(
            "no list counts yet: one does when its windows are over, by default a day later, and the feedback job "
            "has to run: tailrace counts --job feedback",
            soft_wrap=True,
        )
    for one in verdict.comparisons:
        interval = f"[{one.low:+.4f}, {one.high:+.4f}]" if math.isfinite(one.low) else "too little known"
        pair = f"{one.variant} against {experiment.variants[0].name}, {one.metric}"
        console.print(f"{pair}: {one.delta:+.4f} {interval}, p {one.p:.3f}", soft_wrap=True, markup=False)
    console.print(SAYS[verdict.word].format(variant=verdict.variant, name=experiment.name), soft_wrap=True)
