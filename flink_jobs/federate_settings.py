"""The settings section of the federate job, and the model lines that it names."""

from __future__ import annotations

from math import inf
from typing import Final, Literal

from pydantic import Field, SecretStr, field_validator

from flink_jobs.settings_section import Section
from schemas.ids import check_id
from udfs.federate.ledger import MAX_LINES
from udfs.federate.line_settings import MAX_DIMENSION, LineSettings
from udfs.federate.robust import Rule
from udfs.privacy.keyed_noise import MIN_KEY_BYTES
from udfs.privacy.terms import Mode

_DEFAULTS: Final = LineSettings._field_defaults


class FederateLine(Section):
    """One model line: a table `[federate.lines.NAME]`; what each means is in `udfs.federate.line_settings`."""

    dimension: int = Field(ge=1, le=MAX_DIMENSION)
    mode: Literal["local", "central", "distributed"]
    noise_multiplier: float = Field(ge=0.0)
    delta: float = 1e-5
    cohort_size: int = Field(ge=1, le=5_000)
    cohort_min: int = Field(ge=1)
    timeout_ms: int = _DEFAULTS["timeout_ms"]
    first_clip_norm: float = _DEFAULTS["first_clip_norm"]
    adapt_clip: bool = _DEFAULTS["adapt_clip"]
    clip_quantile: float = _DEFAULTS["clip_quantile"]
    clip_rate: float = _DEFAULTS["clip_rate"]
    max_staleness: int = _DEFAULTS["max_staleness"]
    step_size: float = _DEFAULTS["step_size"]
    secure: bool = _DEFAULTS["secure"]
    robust_rule: Literal["none", "norm_bound", "trimmed_mean", "multi_krum"] = _DEFAULTS["robust_rule"].value
    robust_share: float = _DEFAULTS["robust_share"]
    robust_bound_clips: float = _DEFAULTS["robust_bound_clips"]
    encryption_key: str = _DEFAULTS["encryption_key"]


class Federate(Section):
    """The federate job; shards and checkpoints are those of `[job]`. A line is a table `[federate.lines.NAME]`."""

    parallelism: int = Field(2, ge=1)
    batch_ms: int = Field(500, ge=1, description="updates gathered by user shard in the JVM")
    line_batch_ms: int = Field(500, ge=1, description="what their ledgers let through, gathered by line")
    budget_epsilon: float | None = Field(
        4.0, gt=0.0, description="of a user and budget epoch, over all lines; none: no limit"
    )
    budget_delta: float = Field(1e-5, description="at which the budget is told")
    epoch_ms: int = Field(
        30 * 86_400_000,
        ge=0,
        description="length of a budget epoch, broker's time; 0: epochs begin by order (`tailrace fed epoch`)",
    )
    timeout_grace_ms: int = Field(
        10_000, ge=0, description="a cohort is given up waiting for this long after its timeout"
    )
    noise_key_id: str = Field("key-1", description="name of the noise key, told with every version")
    noise_key: SecretStr | None = Field(
        None,
        description=f"hexadecimal, at least {MIN_KEY_BYTES} random bytes; for central mode, in the workers' "
        "environment only",
    )
    lines: dict[str, FederateLine] = Field(
        default_factory=dict, description="name to what is fixed for the model line; as a variable: JSON"
    )

    @field_validator("lines")
    @classmethod
    def _check_lines(cls, lines: dict[str, FederateLine]) -> dict[str, FederateLine]:
        if len(lines) > MAX_LINES:
            raise ValueError(f"lines: wanted at most {MAX_LINES}, got {len(lines)}")
        for name, line in lines.items():
            check_id("lines", name)
            if "/" in name:
                raise ValueError(f"lines: wanted a name without a slash, got {name!r}")
            line_settings(name, line)
        return lines

    @property
    def budget(self) -> float:
        """Epsilon of an epoch; infinite: no limit."""
        return inf if self.budget_epsilon is None else self.budget_epsilon


def line_settings(name: str, line: FederateLine) -> LineSettings:
    """Give a line as the logic takes it, checked.

    Raises
    ------
    ValueError
        Where a promise would not hold.
    """
    given = {**line.model_dump(), "mode": Mode(line.mode), "robust_rule": Rule(line.robust_rule)}
    return LineSettings(name=name, **given).checked()


def model_lines(federate: Federate) -> dict[str, LineSettings]:
    """Give name to settings of every line.

    Raises
    ------
    ValueError
        Where there is none.
    """
    if not federate.lines:
        raise ValueError("federate.lines: wanted at least one model line; add a table [federate.lines.NAME]")
    return {name: line_settings(name, line) for name, line in federate.lines.items()}
