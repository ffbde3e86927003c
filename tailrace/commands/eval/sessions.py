"""`tailrace eval sessions`: next clicks by a continual protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tailrace.commands.eval.surroundings import (
    Out,
    Seed,
    import_evaluation,
    publish,
    unusable,
    usage,
)
from tailrace.commands.options import Json
from tailrace.commands.train import import_pytorch
from tailrace.phase_progress import phase_progress


def sessions(
    data: Annotated[Path, typer.Option("--data", help="A .parquet file with session, item and period.")],
    setting: Annotated[
        str, typer.Option("--setting", help="online: learn after each prediction; periodic: between periods.")
    ] = "both",
    sample: Annotated[float, typer.Option("--sample", help="Share of the sessions, 0 to 1.")] = 1.0,
    periods: Annotated[
        str, typer.Option("--periods", help="Periods to test, such as 1-4; default: all.")
    ] = "",
    seed: Seed = 0,
    baselines: Annotated[bool, typer.Option("--baselines/--no-baselines", help="Run them too.")] = True,
    ablation: Annotated[
        bool, typer.Option("--ablation", help="Run ours without each of its parts too: seven more runs.")
    ] = False,
    publish_clicks: Annotated[
        list[int] | None,
        typer.Option(
            "--publish",
            help="Ours too as rank workers have it, published every so many clicks; may be given several times. One "
            "more run finds candidates as they do.",
        ),
    ] = None,
    sequence: Annotated[
        bool,
        typer.Option("--sequence", help="A sequential network too, alone and beside ours; it wants PyTorch."),
    ] = False,
    as_json: Json = False,
    out: Out = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw R@20 over the periods: an .svg.")] = None,
) -> None:
    """Next clicks by the continual protocol of ADER (RecSys 2020): rank all known items."""
    import_evaluation()
    from model_export.protocols import session_report as report
    from model_export.protocols.session_log import SessionLogError, read_session_log
    from model_export.protocols.sessions import SETTINGS

    if setting not in (*SETTINGS, "both"):
        raise usage("sessions", f"--setting: wanted {', '.join(SETTINGS)} or both, got {setting!r}")
    if not 0.0 < sample <= 1.0:
        raise usage("sessions", f"--sample: wanted a share above 0 and at most 1, got {sample}")
    if plot is not None and plot.suffix != ".svg":
        raise usage("sessions", f"--plot: wanted a name that ends in .svg, got {plot}")
    if publish_clicks and min(publish_clicks) < 1:
        raise usage("sessions", f"--publish: wanted 1 click or more, got {min(publish_clicks)}")
    if sequence:
        import_pytorch()
    chosen = SETTINGS if setting == "both" else (setting,)
    try:
        log = read_session_log(data, sample, seed)
        tested = report.periods_to_test(log, periods)
    except SessionLogError as error:
        raise unusable(error) from error
    with phase_progress(shown=not as_json, width=40) as tell:
        found = report.run(
            log,
            chosen,
            tested,
            seed,
            sample,
            with_baselines=baselines,
            with_ablation=ablation,
            publish_clicks=publish_clicks or (),
            with_network=sequence,
            tell=tell,
        )
    command = f"tailrace eval sessions --data {data.name} --seed {seed}"
    if setting != "both":
        command += f" --setting {setting}"
    if sample < 1.0:
        command += f" --sample {sample}"
    if periods:
        command += f" --periods {periods}"
    if not baselines:
        command += " --no-baselines"
    if ablation:
        command += " --ablation"
    command += "".join(f" --publish {clicks}" for clicks in publish_clicks or ())
    if sequence:
        command += " --sequence"
    if plot is not None:
        plot.parent.mkdir(parents=True, exist_ok=True)
        plot.write_text(found.chart(), encoding="utf-8")
    publish(found, command, out, as_json=as_json)
