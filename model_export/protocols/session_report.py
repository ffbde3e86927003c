"""The report of the sessions protocol: runs models and baselines, prints and writes what quality reports print."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from threadpoolctl import threadpool_limits

from model_export.line_chart import line_chart
from model_export.protocols.session_log import SessionLog, SessionLogError
from model_export.protocols.sessions import (
    ONLINE_CAUTION,
    Outcome,
    Tell,
    ablation,
    baselines,
    evaluate,
    networks,
    ours,
    published,
)

OURS = "tailrace"
CPU = ("CPU-us a prediction", "CPU-us a click learnt", "CPU-us a prediction in all")
CPU_REMARK = (
    "CPU-us a prediction: what a list costs to make, that is search, features, scores and order, and the one click "
    "that the index learns between two answers. A click learnt: all else, by the clicks of the periods: gradients, "
    "weights, item vectors and lifts; in the periodic setting also a second ranking of each click, on the index that "
    "learns, and the vectors' rehearsals. In all: both, by predictions. Baselines do not tell their learning apart."
)
SHOWN = {"recall@20": "R@20", "mrr@20": "MRR@20", "recall@10": "R@10", "mrr@10": "MRR@10"}


@dataclass(frozen=True)
class SessionReport:
    """Outcomes of one run and what they were made from."""

    outcomes: tuple[Outcome, ...]
    sha256: str
    seed: int
    sample: float
    counts: dict[int, dict[str, int]]
    wall_s: float
    cpu_s: float
    protocol: str = (
        "sessions"  # or with --ablation, --publish or --sequence, which have sections of their own
    )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: our figures by setting, those of baselines, ablations and delays by name."""
        result: dict[str, Any] = {
            "protocol": "sessions",
            "data_sha256": self.sha256,
            "seed": self.seed,
            "sample": self.sample,
            "wall_s": round(self.wall_s, 1),
            "cpu_s": round(self.cpu_s, 1),
            "counts": {str(period): counts for period, counts in self.counts.items()},
            "baselines": {},
            "ablation": {},
            "published": {},
            "network": {},
        }
        for outcome in self.outcomes:
            if outcome.model == OURS:
                result[outcome.setting] = outcome.to_dict()
            else:
                first = outcome.model.split()[0]
                groups = {"without": "ablation", "published": "published", "network": "network"}
                group = groups.get(first, "baselines")
                result[group][outcome.model] = outcome.to_dict()
        return result

    def title(self) -> str:
        """Return the section's heading."""
        told = {
            "sessions --ablation": "what each part brings",
            "sessions --publish": "what it costs to serve what was published last",
            "sessions --sequence": "what a sequential network brings",
        }
        return f"Session clicks: {told.get(self.protocol, 'the continual protocol')}"

    def intro(self) -> str:
        """Return what is predicted from what."""
        return (
            "Learn the periods before t, predict every next click of period t, rank all items known before it (ADER, "
            "RecSys 2020)."
        )

    def tables(self) -> Mapping[str, Sequence[Sequence[str]]]:
        """Return one table without a title."""
        rows = [["model", "setting", *SHOWN.values(), "coverage", *CPU]]
        for found in self.outcomes:
            figures = [f"{found.mean.values[name]:.4f} ± {found.mean.errors[name]:.4f}" for name in SHOWN]
            cpu_us = [f"{value:.1f}" for value in (found.predict_us, found.learn_us, found.cpu_us)]
            rows.append([found.model, found.setting, *figures, f"{found.coverage:.3f}", *cpu_us])
        return {"": rows}

    def remarks(self) -> list[str]:
        """Return what is to be said with the figures."""
        totals = {
            name: sum(counts[name] for counts in self.counts.values())
            for name in ("sessions", "clicks", "kept", "predictions")
        }
        periods = list(self.counts)
        size = ", ".join(f"{count:,} {name}" for name, count in totals.items())
        return [
            f"Periods {periods[0]} to {periods[-1]}: {size}; known items "
            f"{self.counts[periods[0]]['known_items']:,} to {self.counts[periods[-1]]['known_items']:,}. "
            "Means over the periods ± standard errors, which take sessions as independent.",
            f"Data SHA-256 {self.sha256}, seed {self.seed}, {100 * self.sample:g} % of the sessions; "
            f"{self.wall_s:.0f} s, {self.cpu_s:.0f} CPU-s.",
            CPU_REMARK,
            ONLINE_CAUTION,
        ]

    def chart(self) -> str:
        """Return R@20 over the periods as SVG."""
        lines = {
            f"{found.model}, {found.setting}": [
                metrics.values["recall@20"] for metrics in found.periods.values()
            ]
            for found in self.outcomes
        }
        return line_chart("recall@20 by period", list(self.counts), lines)


def periods_to_test(log: SessionLog, given: str) -> range:
    """Return the periods to test.

    Parameters
    ----------
    log
        The clicks.
    given
        Such as ``1-4`` or ``3``; empty: all but the first.

    Raises
    ------
    SessionLogError
        If these are not periods of the log after its first.
    """
    first, last = int(log.periods.min()), int(log.periods.max())
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", given or f"{first + 1}-{last}")
    if match is not None:
        start, stop = int(match[1]), int(match[2] or match[1])
        if first < start <= stop <= last:
            return range(start, stop + 1)
    raise SessionLogError(f"--periods: wanted A-B between {first + 1} and {last}, got {given!r}")


def run(
    log: SessionLog,
    settings: Sequence[str],
    tested: range,
    seed: int,
    sample: float,
    *,
    with_baselines: bool,
    with_ablation: bool = False,
    publish_clicks: Sequence[int] = (),
    with_network: bool = False,
    tell: Tell | None,
) -> SessionReport:
    """Evaluate our model in each setting; all others online.

    Parameters
    ----------
    log, settings, tested, seed, sample
        What is evaluated, how, on which periods, and how the log was drawn.
    with_baselines, with_ablation, publish_clicks, with_network
        What runs beside: baselines, ours without its parts, with delays, and a sequential network.
    tell
        As for `evaluate`.
    """
    started_s, cpu_s = time.perf_counter(), time.process_time()
    others = baselines(log) if with_baselines else {}
    if with_ablation:
        others |= ablation(log, seed)
    if publish_clicks:
        others |= published(log, seed, publish_clicks)
    if with_network:
        others |= networks(log, seed)
    with threadpool_limits(limits=1, user_api="blas"):  # as in a worker: more threads spin, and cost more
        outcomes = [
            evaluate(OURS, lambda: ours(log, seed), log, setting, tested, tell) for setting in settings
        ]
        for name, make in others.items():
            outcomes.append(evaluate(name, make, log, "online", tested, tell))
    return SessionReport(
        tuple(outcomes),
        log.sha256,
        seed,
        sample,
        {period: log.counts(period) for period in tested},
        time.perf_counter() - started_s,
        time.process_time() - cpu_s,
        _protocol(ablation=with_ablation, publish=bool(publish_clicks), sequence=with_network),
    )


def _protocol(**parts: bool) -> str:
    """Return the name of the section: that of the first part that runs."""
    return next((f"sessions --{name}" for name, runs in parts.items() if runs), "sessions")
