"""From a cohort's sums to the next version: staleness weights, noise, and the record that says what it cost."""

from __future__ import annotations

from math import exp, sqrt
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.records import EdgeModel
from udfs.federate.line_settings import COUNT_NOISE_SHARE, MAX_CLIP, MIN_CLIP, LineSettings
from udfs.federate.line_state import DIGEST_BYTES, KeptRows, LineHead, LineState
from udfs.federate.robust import Rule, robust_total
from udfs.privacy.fixed_point import UNIT, from_units, noise_units, weigh
from udfs.privacy.keyed_noise import keyed_gaussian
from udfs.privacy.terms import UNIT_OF_PRIVACY, Mode

NO_PARENT: Final = -1


class Seed(NamedTuple):
    """The secret that noise of the job is made with, and its name. It stands in no state and no record."""

    key_id: str
    key: bytes


def staleness_weight(versions_behind: int) -> float:
    """Weight of a contribution that started from an older version: 1 / sqrt(1 + s).

    Source: Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation" (2022), section 5.

    Examples
    --------
    >>> staleness_weight(0), staleness_weight(3)
    (1.0, 0.5)
    """
    return 1.0 / sqrt(1.0 + versions_behind)


def largest_clip(head: LineHead, dimension: int) -> float:
    """Largest norm by which a contribution can move the open cohort's weighted sum, over all versions kept.

    It depends on which versions were released, not on who contributed, so the noise tells nothing of that. A
    stale sum is cut to whole units after weighting, which may add one unit a coordinate.
    """
    newest = len(head.clips) - 1
    return max(
        staleness_weight(newest - place) * clip + (UNIT * sqrt(dimension) if place < newest else 0.0)
        for place, clip in enumerate(head.clips)
    )


def noise_shares(head: LineHead) -> float:
    """How many whole noise shares a distributed sum holds: a stale share is weighted down as its signal is."""
    parts = []
    for base, count in head.bases:
        clip = head.clip_of(base)
        if clip is not None:
            parts.append((count, (staleness_weight(head.version - base) * clip) ** 2))
    largest = max((square for _, square in parts), default=1.0)
    return sum(count * square for count, square in parts) / largest


def release(
    state: LineState, line: LineSettings, budget_epsilon: float, seed: Seed, trigger: str
) -> tuple[LineState, EdgeModel]:
    """Make the next version of a line from its cohort, and of nothing else: no clock, no order of arrival.

    Local mode adds nothing: all is computed from noised contributions. Central mode adds noise that is a
    function of the cohort and the seed: releasing the same cohort again gives the same bytes, and another
    cohort of the same version gets other noise. Distributed mode adds nothing and rests on the devices' shares.

    Parameters
    ----------
    state
        With at least one contribution.
    trigger
        ``full`` or ``timeout``.

    Returns
    -------
    state
        The next version with an empty cohort.
    record
        What is published.
    """
    head, weights, sums, kept = state
    count = head.contributions
    total = np.zeros(line.dimension, np.int64) if kept is None else voted_total(head, kept, line)
    variance = 0.0
    for base, number in head.bases:
        weight = staleness_weight(head.version - base)
        if kept is None:
            total = total + weigh(sums[base].total, weight)
        clip = head.clip_of(base)
        variance += 0.0 if clip is None else number * (weight * line.terms(clip).device_sigma) ** 2
    bound = largest_clip(head, line.dimension)
    digest = head.cohort_digest
    label = f"release of {line.name} after {head.version}"
    if line.mode is Mode.CENTRAL and line.noise_multiplier > 0.0:
        sigma = line.sum_noise_multiplier * bound
        total = total + noise_units(keyed_gaussian(seed.key, label, digest, line.dimension), sigma)
        variance = sigma * sigma
    next_clip, clipped_share = _adapted_clip(head, line, seed, label, digest)
    mean = from_units(total) / count
    made = weights + line.step_size * mean
    record = EdgeModel(
        model_line=line.name,
        version=head.version + 1,
        parent=head.version,
        dimension=line.dimension,
        weights=made.astype("<f8").tobytes(),
        mode=str(line.mode),
        cohort_size=count,
        cohort_min=line.cohort_min,
        cohort_digest=digest.hex(),
        clip_norm=bound,
        noise_multiplier=line.noise_multiplier,
        next_clip_norm=next_clip,
        adapts_clip=line.adapt_clip,
        delta=line.delta,
        unit=UNIT_OF_PRIVACY,
        adjacency=line.mode.adjacency,
        mu=line.mu,
        epsilon=line.terms(bound).epsilon,
        budget_epsilon=budget_epsilon,
        signal_to_noise=signal_to_noise(from_units(total), variance)
        if line.robust_rule is Rule.NONE
        else None,
        clipped_share=clipped_share,
        mean_staleness=sum(n * (head.version - base) for base, n in head.bases) / count,
        max_staleness=max(head.version - base for base, _ in head.bases),
        seed_key_id=seed.key_id if line.mode is Mode.CENTRAL else "",
        trigger=trigger,
        released_time=head.newest_ms,
        encryption=line.encryption_key or None,
    )
    clips = (*head.clips, next_clip)[-(line.max_staleness + 1) :]
    return LineState(LineHead(head.version + 1, clips), made, {}), record


def first_record(state: LineState, line: LineSettings, budget_epsilon: float, at_ms: int) -> EdgeModel:
    """Say what version 0 is: nobody contributed to it, and it costs nobody anything."""
    clip = state.head.clips[-1]
    return EdgeModel(
        line.name, 0, NO_PARENT, line.dimension, state.weights.astype("<f8").tobytes(), str(line.mode), 0,
        line.cohort_min, "", clip, line.noise_multiplier, clip, line.adapt_clip, line.delta, UNIT_OF_PRIVACY,
        line.mode.adjacency, line.mu, line.terms(clip).epsilon, budget_epsilon, None, None, 0.0, 0, "",
        "first", at_ms, line.encryption_key or None,
    )  # fmt: skip


def voted_total(head: LineHead, kept: KeptRows, line: LineSettings) -> NDArray[np.int64]:
    """What the line's rule makes of single contributions, as a sum of all: int64 (d,), in units.

    They are put in the order of their digests, so that nothing depends on what came first.
    """
    names = [head.digests[at : at + DIGEST_BYTES] for at in range(0, len(head.digests), DIGEST_BYTES)]
    order = sorted(range(len(names)), key=names.__getitem__)
    weights = np.array([staleness_weight(head.version - base) for base in kept.bases.tolist()])
    rows = (kept.units.astype(np.float64) * weights[:, None])[order]
    total: NDArray[np.int64] = np.trunc(robust_total(line.robust_rule, line.robust_share, rows)).astype(
        np.int64
    )
    return total


def _adapted_clip(
    head: LineHead, line: LineSettings, seed: Seed, label: str, digest: bytes
) -> tuple[float, float | None]:
    """Clip of the next version and the noisy share of clipped contributions; frozen once it is released.

    Source: Andrew et al., "Differentially Private Learning with Adaptive Clipping" (2021), algorithm 1. The
    privacy of the count is paid for by `LineSettings.sum_noise_multiplier`. Answers count from one half, so
    that a contribution taken out moves the count by a half: zero-out takes the answer out with the delta.
    """
    clip = head.clips[-1]
    if not line.adapt_clip:
        return clip, None
    count = head.contributions
    noise = 0.0
    if line.noise_multiplier > 0.0:
        # As many as a release must have at least, so that the noise does not shrink with a small cohort.
        sigma = COUNT_NOISE_SHARE * line.cohort_min
        drawn = keyed_gaussian(seed.key, f"{label}, clip", digest, 1)
        noise = float(from_units(noise_units(drawn, sigma))[0])
    share = (head.within + noise) / count
    adapted = clip * exp(-line.clip_rate * (share - line.clip_quantile))
    return min(max(adapted, MIN_CLIP), MAX_CLIP), min(max(1.0 - share, 0.0), 1.0)


def signal_to_noise(total: np.ndarray, variance: float) -> float | None:  # type: ignore[type-arg]
    """From the noised sum and the known variance alone: it tells nothing that the release does not."""
    noise = total.size * variance
    if noise == 0.0:
        return None
    return sqrt(max(float(total @ total) - noise, 0.0) / noise)
