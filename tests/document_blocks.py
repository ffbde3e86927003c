"""Finds the code in Markdown that is marked for running: fences whose first line ends in `run`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_FENCE = re.compile(r"^(`{3,})([^\n`]*)$")


class Block(NamedTuple):
    """One fenced block.

    Parameters
    ----------
    file, line
        Where its fence stands; lines count from 1.
    language
        First word behind the fence, e.g. ``console``.
    run
        The word ``run`` follows it.
    text
        Between the fences, with a newline at the end.
    """

    file: str
    line: int
    language: str
    run: bool
    text: str

    @property
    def name(self) -> str:
        """For test ids and messages."""
        return f"{self.file}:{self.line}"


def blocks(text: str, file: str = "") -> list[Block]:
    """All fenced blocks of a text, in order.

    Raises
    ------
    ValueError
        For a fence that is not closed.
    """
    found = []
    opened: tuple[int, str, list[str]] | None = None
    inside: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None:
            if fence is not None:
                opened, inside = (number, fence.group(1), fence.group(2).split()), []
        elif line == opened[1]:
            start, _, words = opened
            language = words[0] if words else ""
            content = "".join(f"{entry}\n" for entry in inside)
            found.append(Block(file, start, language, "run" in words[1:], content))
            opened = None
        else:
            inside.append(line)
    if opened is not None:
        raise ValueError(f"{file}:{opened[0]}: this fence is not closed")
    return found


def commands(block: Block) -> list[str]:
    """Commands of a console block: lines behind ``$ ``, joined where a line ends in a backslash."""
    found: list[str] = []
    more = False
    for line in block.text.splitlines():
        if more:
            found[-1] += " " + line.strip().removesuffix("\\").strip()
        elif line.startswith("$ "):
            found.append(line[2:].removesuffix("\\").strip())
        else:
            continue
        more = line.endswith("\\")
    return found


def documents(root: Path) -> list[Path]:
    """The Markdown files of the project, the changelog and licences left out."""
    pages = [*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("deploy/*.md")]
    return sorted(page for page in pages if page.name != "CHANGELOG.md")
