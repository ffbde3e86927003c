"""What is fixed for a model line: one model that devices learn together."""

from __future__ import annotations

import re
from math import inf, isfinite
from typing import Final, NamedTuple

from udfs.federate import ciphertext
from udfs.federate.robust import MAX_KEPT_DIMENSION, Rule, check_rule
from udfs.privacy.fixed_point import MAX_COUNT, MIN_SIGMA, UNIT
from udfs.privacy.gaussian import MIN_DELTA
from udfs.privacy.terms import Mode, Terms

MIN_CLIP: Final = 2.0**-10
MAX_CLIP: Final = 2.0**7
MAX_DIMENSION: Final = 400_000
"""What a record of either topic has room for, at 32 and 64 bits a number."""
MAX_SECURE_MEMBERS: Final = 40
"""Each member sends something for each other, and the state of a cohort is one value."""
_SECURE_SIZE: Final = f"at most {MAX_SECURE_MEMBERS} with secure"
_ENCRYPTED_SIZE: Final = f"at most {ciphertext.MAX_HEADS} with encryption_key"
_ENCRYPTED_DIMENSION: Final = f"at most {ciphertext.MAX_DIMENSION} with encryption_key"
_SECURE_DIMENSION: Final = f"at most {MAX_KEPT_DIMENSION} with secure"
_SHA256: Final = re.compile("[0-9a-f]{64}")
COUNT_NOISE_SHARE: Final = 1.0 / 20.0
"""Noise of the clip's count of answers, in cohorts. Source: Andrew, Thakkar, McMahan, Ramaswamy (2021)."""


class LineSettings(NamedTuple):
    """One model line.

    Attributes
    ----------
    name
        Of the line, in keys and records.
    dimension
        d, of the whole model.
    mode, noise_multiplier, delta
        As in `Terms`.
    cohort_size, cohort_min
        K at which a version is released, and the fewest that a release after `timeout_ms` may have.
    timeout_ms
        Event time after a cohort's first contribution at which fewer than K are enough.
    first_clip_norm
        Clip of version 0.
    adapt_clip
        Central mode: let the clip follow the `clip_quantile` of the norms, with `clip_rate`.
    max_staleness
        A contribution further behind is refused.
    step_size
        Of the server: 1 adds the mean change.
    secure
        Distributed mode: cohorts are added under masks (`udfs.federate.secure_cohort`).
    encryption_key
        SHA-256 in hexadecimal of a public key, local and distributed mode: devices encrypt, the job adds what it
        cannot read (`udfs.federate.encrypted_line`). Empty: they do not.
    robust_rule, robust_share, robust_bound_clips
        See `udfs.federate.robust`: how attackers are outvoted, which share of them, and the bound of the norm.

    Examples
    --------
    >>> line = LineSettings("head", 64, Mode.LOCAL, 8.0, 1e-5, 100, 50)
    >>> line.checked().terms(1.0).mu
    0.25
    """

    name: str
    dimension: int
    mode: Mode
    noise_multiplier: float
    delta: float
    cohort_size: int
    cohort_min: int
    timeout_ms: int = 3_600_000
    first_clip_norm: float = 1.0
    adapt_clip: bool = False
    clip_quantile: float = 0.5
    clip_rate: float = 0.2
    max_staleness: int = 20
    step_size: float = 1.0
    secure: bool = False
    robust_rule: Rule = Rule.NONE
    robust_share: float = 0.2
    robust_bound_clips: float = 1.0
    encryption_key: str = ""

    def terms(self, clip_norm: float) -> Terms:
        """Return the terms of a contribution under a clip."""
        return Terms(self.mode, clip_norm, self.noise_multiplier, self.delta, self.cohort_min)

    @property
    def mu(self) -> float:
        """Mu of one contribution, whatever the clip."""
        return self.terms(1.0).mu

    @property
    def sum_noise_multiplier(self) -> float:
        """Noise of the sum alone, when a part of the privacy is spent on the count of the clip.

        Source: Andrew et al. (2021), theorem 1. Infinite where the cohort is too small for both.
        """
        z = self.noise_multiplier
        if not self.adapt_clip or z == 0.0:
            return z
        rest = z**-2 - (2.0 * COUNT_NOISE_SHARE * self.cohort_min) ** -2
        return inf if rest <= 0.0 else rest**-0.5

    def checked(self) -> LineSettings:
        """Return itself.

        Raises
        ------
        ValueError
            Where a promise would not hold: the setting, what is wanted and what came.
        """
        for name, holds, wanted in (
            ("dimension", 1 <= self.dimension <= MAX_DIMENSION, f"1 to {MAX_DIMENSION}"),
            ("noise_multiplier", 0.0 <= self.noise_multiplier < inf, "0 or more"),
            ("delta", MIN_DELTA <= self.delta < 1.0, f"{MIN_DELTA} to below 1"),
            ("cohort_min", 1 <= self.cohort_min <= self.cohort_size, "1 to cohort_size"),
            ("cohort_size", self.cohort_size <= MAX_COUNT, f"at most {MAX_COUNT}"),
            ("timeout_ms", self.timeout_ms > 0, "above 0"),
            ("first_clip_norm", MIN_CLIP <= self.first_clip_norm <= MAX_CLIP, f"{MIN_CLIP} to {MAX_CLIP}"),
            ("max_staleness", 0 <= self.max_staleness <= 255, "0 to 255"),
            ("step_size", self.step_size > 0.0 and isfinite(self.step_size), "above 0"),
            ("adapt_clip", not self.adapt_clip or self.mode is Mode.CENTRAL, "central mode"),
            (
                "cohort_min",
                isfinite(self.sum_noise_multiplier),
                "above 10 noise_multiplier to adapt the clip",
            ),
            ("secure", not self.secure or self.mode is Mode.DISTRIBUTED, "distributed mode"),
            ("secure", not self.secure or self.cohort_min >= 2, "a cohort_min of 2 or more"),
            ("cohort_size", not self.secure or self.cohort_size <= MAX_SECURE_MEMBERS, _SECURE_SIZE),
            ("dimension", not self.secure or self.dimension <= MAX_KEPT_DIMENSION, _SECURE_DIMENSION),
            *self._promises_of_encryption(),
            ("noise_multiplier", self._least_sigma >= MIN_SIGMA, f"a sigma of at least {MIN_SIGMA:g}"),
        ):
            if not holds:
                raise ValueError(f"line {self.name!r}: {name}: wanted {wanted}, got {getattr(self, name)}")
        cohort = (self.cohort_min, self.cohort_size)
        try:
            check_rule(
                self.robust_rule, self.robust_share, self.robust_bound_clips, self.mode, self.noise_multiplier,
                cohort, self.dimension,
            )  # fmt: skip
        except ValueError as error:
            raise ValueError(f"line {self.name!r}: {error}") from error
        return self

    def _promises_of_encryption(self) -> tuple[tuple[str, bool, str], ...]:
        """Setting, whether it holds, and what is wanted, of a line whose heads are encrypted."""
        if not self.encryption_key:
            return ()
        terms = self.terms(self.first_clip_norm)
        steps = terms.device_sigma / UNIT / ciphertext.number_quantiser(terms).step
        hidden = self.noise_multiplier == 0.0 or steps >= ciphertext.LEAST_STEPS
        return (
            ("encryption_key", bool(_SHA256.fullmatch(self.encryption_key)), "64 hexadecimal digits"),
            ("encryption_key", self.mode is not Mode.CENTRAL, "none in central mode: nobody adds its noise"),
            ("encryption_key", not self.secure, "none with secure"),
            (
                "encryption_key",
                self.robust_rule is Rule.NONE,
                "none with a robust_rule: it needs single numbers",
            ),
            ("cohort_min", self.cohort_min >= 2, "2 or more with encryption_key"),
            ("cohort_size", self.cohort_size <= ciphertext.MAX_HEADS, _ENCRYPTED_SIZE),
            ("dimension", self.dimension <= ciphertext.MAX_DIMENSION, _ENCRYPTED_DIMENSION),
            ("noise_multiplier", hidden, f"noise on a device of {ciphertext.LEAST_STEPS:g} steps or more"),
        )

    @property
    def _least_clip(self) -> float:
        return MIN_CLIP if self.adapt_clip else self.first_clip_norm

    @property
    def _least_sigma(self) -> float:
        if self.noise_multiplier == 0.0:
            return inf
        terms = self.terms(self._least_clip)
        return terms.release_sigma or terms.device_sigma
