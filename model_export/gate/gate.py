"""The gate: one verdict on a candidate, beside the bundle that serves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model_export import sources
from model_export.gate.measure import Tell, later_sessions, measure
from model_export.gate.replayed_value import readable
from schemas.records import Example
from udfs.model.bundle import Bundle
from udfs.model.gate import GateLimits, Verdict, judge
from udfs.ranking.rank import RankSettings
from udfs.user_logic import LogicSettings

MOST_LISTS = 2_000


class GateError(ValueError):
    """Data on which nothing can be measured; the text says what is missing."""


def gate(
    candidate: Bundle,
    serving: Bundle | None,
    data: Path,
    examples: Sequence[Example],
    limits: GateLimits,
    rank: RankSettings,
    logic: LogicSettings,
    *,
    made_ms: int,
    seed: int = 0,
    tell: Tell = lambda share: None,
) -> Verdict:
    """Measure a candidate and what serves on what came after both, and say whether it may serve.

    Equal bundles, data and seed give equal figures but for the CPU time.

    Parameters
    ----------
    candidate, serving
        Opened bundles; None: nothing serves.
    data
        A file or lake that goes on behind the cuts of both.
    examples
        Of the product; none: that check is left out.
    rank, logic
        The deployment's.
    made_ms
        When, milliseconds since 1970.

    Raises
    ------
    GateError
        When no returning user has a session after both cuts.
    model_export.sources.SourceError
        For data that cannot be read.
    """
    log = sources.read(data)
    since_ms = max(cut_of(bundle) for bundle in (candidate, serving) if bundle is not None)
    rng = np.random.default_rng([seed, 0])
    later = later_sessions(log, since_ms, candidate.items.factors, logic, MOST_LISTS, rng, tell)
    if not later.moments:
        raise GateError(
            f"{data}: no session of a returning user at or after {since_ms}, where the newer bundle's data end; "
            "train until an earlier day, or wait for later events"
        )
    known = readable(examples)
    figures, ndcg = measure(candidate, later, rank, known, seed)
    beside, error = None, math.nan
    if serving is not None:
        beside, other = measure(serving, later, rank, known, seed)
        error = float(np.std(ndcg - other, ddof=1) / math.sqrt(len(ndcg))) if len(ndcg) > 1 else math.nan
    return Verdict(
        candidate.epoch,
        candidate.manifest_sha256,
        None if serving is None else serving.epoch,
        None if serving is None else serving.manifest_sha256,
        data.name,
        log.file_sha256,
        since_ms,
        made_ms,
        judge(figures, beside, later.popular_ndcg(), error, limits),
    )


def cut_of(bundle: Bundle) -> int:
    """Return the time, in milliseconds, from which on a bundle knows nothing."""
    return int(bundle.manifest.data.get("cut_ms", bundle.manifest.created_ms))
