"""`tailrace doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from flink_jobs.settings import load
from tailrace.commands.options import Config, Json
from tailrace.doctor.cluster import check_cluster, rest_of
from tailrace.doctor.finding import Finding
from tailrace.doctor.machine import check_machine
from tailrace.doctor.packages import check_packages
from tailrace.errors import ExitCode

_MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "error": "[red]error[/]"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(
    config: Config = None,
    cluster: Annotated[str | None, typer.Option(help="HOST:PORT of a JobManager's REST to check.")] = None,
    as_json: Json = False,
) -> None:
    """Check this machine, or a Flink cluster elsewhere, and say what to do about each finding."""
    if cluster is not None:
        findings = list(check_cluster(rest_of(cluster)))
    else:
        findings = [*check_packages(), *check_machine(load(config))]
    errors = sum(finding.severity == "error" for finding in findings)
    if as_json:
        typer.echo(
            json.dumps({"errors": errors, "findings": [asdict(finding) for finding in findings]}, indent=2)
        )
    else:
        _show(findings)
    if errors:
        raise typer.Exit(ExitCode.ENVIRONMENT)


def _show(findings: list[Finding]) -> None:
    console = Console(highlight=False)
    for finding in findings:
        console.print(f"{finding.number}  {_MARKS[finding.severity]}", end="  ")
        console.print(finding.what, markup=False, soft_wrap=True)
        for title, text in (("cause", finding.cause), ("fix", finding.fix)):
            if text:
                console.print(f"        {title}: {text}", markup=False, soft_wrap=True)
