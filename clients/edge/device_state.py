"""What a device must not forget: the privacy it has spent, the versions it contributed to, how far it has trained."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

from udfs.federate.ledger import MU_SQUARE_UNITS, charge_of
from udfs.privacy.gaussian import epsilon_of

FORMAT: Final = 1


@dataclass(frozen=True)
class DeviceState:
    """One device's ledger and places.

    Parameters
    ----------
    epoch
        Budget epoch that `spent` is of.
    spent, spent_ever
        Mu squared in units of `udfs.federate.ledger.MU_SQUARE_UNITS`.
    last_versions
        Model line to the newest version contributed to.
    trained_until
        Model line to the place in the examples behind the last that was trained on.
    """

    epoch: int = 0
    spent: int = 0
    spent_ever: int = 0
    last_versions: dict[str, int] = field(default_factory=dict)
    trained_until: dict[str, int] = field(default_factory=dict)

    def in_epoch(self, epoch: int) -> DeviceState:
        """The state in an epoch; one that is over is never gone back to, whatever the clock says."""
        return self if epoch <= self.epoch else replace(self, epoch=epoch, spent=0)

    def charged(self, mu: float, line: str, version: int, trained_until: int) -> DeviceState:
        """The state after a contribution: charge, version and place change together or not at all."""
        charge = charge_of(mu)
        return replace(
            self,
            spent=self.spent + charge,
            spent_ever=self.spent_ever + charge,
            last_versions={**self.last_versions, line: version},
            trained_until={**self.trained_until, line: trained_until},
        )

    def epsilon(self, delta: float, mu: float = 0.0) -> float:
        """Epsilon of the epoch so far, with one contribution of `mu` more."""
        return epsilon_of(((self.spent + charge_of(mu)) / MU_SQUARE_UNITS) ** 0.5, delta)


def read_state(path: Path) -> DeviceState:
    """The state on disk; a new one where there is none.

    Raises
    ------
    ValueError
        For a file that is not one of ours. It is not replaced by an empty one: that would be a new budget.
    """
    if not path.exists():
        return DeviceState()
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored.pop("format") != FORMAT:
            raise ValueError("another format")
        return DeviceState(**stored)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: wanted the state of a device in format {FORMAT}, got {error}; without it the budget is "
            "unknown, so nothing can be sent: restore it, or enrol anew"
        ) from error


def write_state(path: Path, state: DeviceState) -> None:
    """Replace the state on disk; it is the old or the new one after a power cut, and never half of one."""
    write_whole(path, json.dumps({"format": FORMAT, **asdict(state)}).encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole, and on the disk, or not at all."""
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
