"""A release in a few plain lines, and ways to get it wrong that have been seen: what audits are tried on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from udfs.privacy.audit import Mechanism, Run
from udfs.privacy.clip import clip_delta
from udfs.privacy.keyed_noise import keyed_gaussian
from udfs.privacy.terms import Terms

_Rows = NDArray[np.float64]


def _clipped_sum(deltas: _Rows, terms: Terms) -> _Rows:
    total: _Rows = np.sum([clip_delta(delta, terms.clip_norm).values for delta in deltas], axis=0)
    return total


def _noise(run: Run, depends_on: Sequence[object], dimension: int) -> _Rows:
    return keyed_gaussian(run.key, "plain", repr(tuple(depends_on)).encode(), dimension)


def plain(deltas: _Rows, run: Run, terms: Terms) -> _Rows:
    """Release a sum in central mode as the text book says: the readable reference."""
    noise = _noise(run, (run.version, sorted(run.cohort)), deltas.shape[1])
    return _clipped_sum(deltas, terms) + terms.release_sigma * noise


def no_noise(deltas: _Rows, run: Run, terms: Terms) -> _Rows:
    """Forget the noise."""
    return _clipped_sum(deltas, terms)


def half_noise(deltas: _Rows, run: Run, terms: Terms) -> _Rows:
    """Halve it, as dividing by the cohort twice does for two."""
    return plain(deltas, run, terms._replace(noise_multiplier=terms.noise_multiplier / 2.0))


def tenth_of_the_noise(deltas: _Rows, run: Run, terms: Terms) -> _Rows:
    """Divide by the cohort twice, for ten."""
    return plain(deltas, run, terms._replace(noise_multiplier=terms.noise_multiplier / 10.0))


def variance_for_deviation(deltas: _Rows, run: Run, terms: Terms) -> _Rows:
    """Take one for the other: sigma where sigma squared is meant."""
    return plain(deltas, run, terms._replace(noise_multiplier=terms.noise_multiplier**0.5))


def clip_after_average(deltas: _Rows, run: Run, terms: Terms) -> _Rows:
    """Clip the mean of the deltas instead of each."""
    count = len(deltas)
    mean = clip_delta(deltas.mean(axis=0), terms.clip_norm).values
    noise = _noise(run, (run.version, sorted(run.cohort)), deltas.shape[1])
    return mean * count + terms.release_sigma * noise


def noise_by_version(deltas: _Rows, run: Run, terms: Terms) -> _Rows:
    """Seed the noise with the version alone."""
    return _clipped_sum(deltas, terms) + terms.release_sigma * _noise(run, (run.version,), deltas.shape[1])


def fresh_noise_on_replay(deltas: _Rows, run: Run, terms: Terms) -> _Rows:
    """Draw anew at each attempt."""
    noise = _noise(run, (run.attempt, run.version, sorted(run.cohort)), deltas.shape[1])
    return _clipped_sum(deltas, terms) + terms.release_sigma * noise


def noise_before_clip(deltas: _Rows, run: Run, terms: Terms) -> _Rows:
    """Clip what was noised already, noise and all."""
    noise = terms.release_sigma * _noise(run, (run.version, sorted(run.cohort)), deltas.shape[1])
    return _clipped_sum(deltas + noise, terms)


def coarse_noise(deltas: _Rows, run: Run, terms: Terms) -> _Rows:
    """Send noise through half precision."""
    noise = _noise(run, (run.version, sorted(run.cohort)), deltas.shape[1]).astype(np.float16)
    return _clipped_sum(deltas, terms) + terms.release_sigma * noise.astype(np.float64)


BROKEN: Final[dict[str, Callable[[_Rows, Run, Terms], _Rows]]] = {
    "no noise": no_noise,
    "half noise": half_noise,
    "tenth of the noise": tenth_of_the_noise,
    "variance for deviation": variance_for_deviation,
    "clip after average": clip_after_average,
    "noise seeded by version": noise_by_version,
    "fresh noise on replay": fresh_noise_on_replay,
    "noise before clip": noise_before_clip,
    "coarse noise": coarse_noise,
}


def under(terms: Terms, how: Callable[[_Rows, Run, Terms], _Rows]) -> Mechanism:
    """Bind terms to one of the mechanisms here."""
    return lambda deltas, run: how(deltas, run, terms)
