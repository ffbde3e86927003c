"""What one check says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tailrace.errors import UserError

Severity = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One line of `tailrace doctor`.

    Parameters
    ----------
    number
        The same as the error that the command would end with, e.g. `TR-104`.
    severity
        `error`: it will not work. `warning`: it works, slower or with a risk.
    what
        Where, wanted, got.
    cause, fix
        Empty where all is well.
    """

    number: str
    severity: Severity
    what: str
    cause: str = ""
    fix: str = ""

    @classmethod
    def of(cls, error: UserError) -> Finding:
        """Turn an error that a part of the stack would raise into a finding."""
        return cls(error.number, "error", error.what, error.cause, error.fix)
