"""The settings section of the evaluation gate."""

from __future__ import annotations

from pydantic import Field

from flink_jobs.settings_section import Section
from udfs.model.gate import GateLimits

_LIMITS = GateLimits()


class Gate(Section):
    """What `tailrace models gate` wants of a bundle before it may serve."""

    least_lists: int = Field(_LIMITS.least_lists, ge=2, description="later sessions to measure on")
    most_ndcg_drop: float = Field(
        _LIMITS.most_ndcg_drop,
        ge=0,
        le=1,
        description="share of the serving bundle's NDCG@10 that may be lost",
    )
    least_over_popularity: float = Field(
        _LIMITS.least_over_popularity, ge=0, description="NDCG@10 over that of the most popular items"
    )
    most_value_drop: float = Field(
        _LIMITS.most_value_drop,
        ge=0,
        le=1,
        description="share of the serving bundle's value on logged examples that may be lost",
    )
    most_calibration_error: float = Field(
        _LIMITS.most_calibration_error,
        ge=0,
        description="how far the rates of the scores move between two halves of the sessions, over the mean rate",
    )
    least_coverage: float = Field(
        _LIMITS.least_coverage,
        ge=0,
        description="different items in its lists over those of the serving bundle's",
    )
    most_cpu_us: float = Field(
        _LIMITS.most_cpu_us, gt=0, description="CPU microseconds to rank a user, on the machine of the gate"
    )
    most_bytes: int = Field(_LIMITS.most_bytes, gt=0, description="of all its files")

    @property
    def limits(self) -> GateLimits:
        """What the gate takes."""
        return GateLimits(**{name: getattr(self, name) for name in GateLimits._fields})
