"""`tailrace eval policy`: what a candidate would have earned on the product's own examples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flink_jobs.settings import load
from schemas.topics import EXAMPLES
from tailrace.commands.eval.surroundings import Out, Seed, import_evaluation, publish, unusable, usage
from tailrace.commands.options import Config, Json
from tailrace.errors import UserError
from udfs.user_state import LIST_POLICY, SOURCES


def policy(
    candidate: Annotated[
        str,
        typer.Argument(
            help="logged, uniform, a source (ranker, popular, …) or a policy: epsilon-greedy, ucb1, thompson-beta, "
            "linucb, thompson-linear; with parameters as in ucb1:width=0.3,floor=0.02. Behind list: the same over "
            "the list policies, e.g. list:spread."
        ),
    ],
    data: Annotated[
        Path | None, typer.Option("--data", help="A file that --keep wrote; default: the topic of examples.")
    ] = None,
    metric: Annotated[
        str, typer.Option("--metric", help="reward, click, add_to_cart, purchase or revenue.")
    ] = "reward",
    evidence: Annotated[
        str,
        typer.Option("--evidence", help="all: it learns from everybody; user: it knows each user's credits."),
    ] = "all",
    keep_at: Annotated[
        Path | None, typer.Option("--keep", help="Write the examples of the topic to this file.")
    ] = None,
    config: Config = None,
    seed: Seed = 0,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Off-policy value of a policy over sources or list policies, on what users did with the product's own lists."""
    import_evaluation()
    from model_export.protocols.logged_lists import logged_lists
    from model_export.protocols.logged_slots import METRICS, logged_slots
    from model_export.protocols.policy_report import judge
    from model_export.protocols.slot_policies import EVIDENCE
    from tailrace import example_log

    for name, given, known in (("metric", metric, METRICS), ("evidence", evidence, EVIDENCE)):
        if given not in known:
            raise usage("policy", f"--{name}: wanted {', '.join(known)}, got {given!r}")
    if candidate.startswith(LIST_POLICY) and evidence != "all":
        raise usage("policy", "--evidence: wanted all for a list policy, a user has no evidence of their own")
    settings = load(config)
    examples = list(example_log.from_topic(settings) if data is None else example_log.from_file(data))
    if not examples:
        raise UserError(
            "TR-711",
            f"{EXAMPLES.name if data is None else data} holds no example",
            "a list becomes one when its windows are over, by default a day later, and the feedback job has to run",
            "tailrace submit feedback; tailrace counts --job feedback",
        )
    if keep_at is not None:
        example_log.keep(examples, keep_at)
    try:
        model, arms = settings.model, SOURCES
        if candidate.startswith(LIST_POLICY):
            log, arms = logged_lists(examples, metric)
        else:
            log = logged_slots(examples, metric, model.exploration_floor, model.new_item_share)
    except ValueError as error:
        raise unusable(error) from error
    try:
        report = judge(log, candidate.removeprefix(LIST_POLICY), metric, evidence, seed, arms)
    except ValueError as error:
        raise usage("policy", str(error)) from error
    publish(report, f"tailrace eval policy {candidate} --metric {metric} --seed {seed}", out, as_json=as_json)
