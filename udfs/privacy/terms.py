"""The three privacy modes and the terms under which a contribution is made: printed with every epsilon."""

from __future__ import annotations

from enum import StrEnum
from math import inf, sqrt
from typing import Final, NamedTuple

from udfs.privacy.gaussian import epsilon_of

UNIT_OF_PRIVACY: Final = "user"


class Mode(StrEnum):
    """Where the noise is added, and so whom the user must trust.

    No mode hides that a user takes part, when, and from which version: only what the contribution says.

    Examples
    --------
    >>> Mode("central").adjacency, Mode.LOCAL.sensitivity_clips
    ('zero-out', 2.0)
    """

    LOCAL = "local"
    """The device adds all noise. Protects each contribution from everybody: network, broker, job, operator.
    All else is computed from noised data, so replays and refusals cost nothing more. The noise is by far the
    largest, so it suits small heads alone."""
    CENTRAL = "central"
    """The job adds noise once a release. Protects the users in what is published, from those who read models.
    Does not protect from the broker, the job or its operator: they see clipped, unnoised contributions."""
    DISTRIBUTED = "distributed"
    """Each device adds a share; the sum of `cohort_min` shares has the noise. Protects as `CENTRAL` does, and
    from the operator too as far as only sums are opened, which a secure sum must see to: without one, a single
    contribution carries a share of noise alone. Devices that collude know their own shares, so the noise that
    counts is that of the honest ones."""

    @property
    def adjacency(self) -> str:
        """What two inputs are hard to tell apart: ``replace`` any contribution by another, or ``zero-out`` it."""
        return "replace" if self is Mode.LOCAL else "zero-out"

    @property
    def sensitivity_clips(self) -> float:
        """How far one contribution moves the sum, in clips, under `adjacency`."""
        return 2.0 if self is Mode.LOCAL else 1.0


class Terms(NamedTuple):
    """What is promised for one contribution to one version of a model line; frozen with the version.

    Attributes
    ----------
    mode
        Where the noise is added.
    clip_norm
        Largest L2 norm of a whole client delta.
    noise_multiplier
        Standard deviation of the noise in clips: of one contribution (local), of the sum (else). 0: no privacy.
    delta
        At which epsilon is told; below 1 / (number of users).
    cohort_min
        Fewest contributions in a release.

    Examples
    --------
    >>> terms = Terms(Mode.CENTRAL, 0.5, 3.7303, 1e-5, 50)
    >>> round(terms.epsilon, 2), terms.release_sigma, terms.device_sigma
    (1.0, 1.86515, 0.0)
    >>> print(terms.claim(1))
    epsilon 1 at delta 1e-05 per user, central mode, zero-out adjacency, 1 contribution, clip 0.5, noise 3.7303 clips
    """

    mode: Mode
    clip_norm: float
    noise_multiplier: float
    delta: float
    cohort_min: int

    @property
    def mu(self) -> float:
        """Mu of one contribution."""
        if self.noise_multiplier == 0.0:
            return inf
        return self.mode.sensitivity_clips / self.noise_multiplier

    @property
    def epsilon(self) -> float:
        """Epsilon of one contribution at `delta`."""
        return epsilon_of(self.mu, self.delta)

    @property
    def device_sigma(self) -> float:
        """Standard deviation of what a device adds to each coordinate."""
        if self.mode is Mode.LOCAL:
            return self.noise_multiplier * self.clip_norm
        if self.mode is Mode.DISTRIBUTED:
            return self.noise_multiplier * self.clip_norm / sqrt(self.cohort_min)
        return 0.0

    @property
    def release_sigma(self) -> float:
        """Standard deviation of what the job adds to each coordinate of a sum under these terms."""
        return self.noise_multiplier * self.clip_norm if self.mode is Mode.CENTRAL else 0.0

    def claim(self, contributions: int) -> str:
        """One line for people: epsilon of so many contributions, never without mode, delta and adjacency."""
        epsilon = epsilon_of(self.mu * sqrt(contributions), self.delta)
        plural = "" if contributions == 1 else "s"
        return (
            f"epsilon {epsilon:.3g} at delta {self.delta:g} per {UNIT_OF_PRIVACY}, {self.mode} mode, "
            f"{self.mode.adjacency} adjacency, {contributions} contribution{plural}, clip {self.clip_norm:g}, "
            f"noise {self.noise_multiplier:g} clips"
        )
