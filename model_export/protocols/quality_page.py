"""What every quality report gives, and its section on a Markdown page of figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class QualityReport(Protocol):
    """The outcome of one protocol."""

    protocol: str
    """As the command names it."""

    def title(self) -> str:
        """Return the section's heading."""

    def intro(self) -> str:
        """Return what is predicted from what, in a sentence or two."""

    def tables(self) -> Mapping[str, Sequence[Sequence[str]]]:
        """Return title to rows, the first of which is the head; one without a title has the name ''."""

    def remarks(self) -> Sequence[str]:
        """Return what is to be said with the figures: counts, hashes, seed, time, cautions."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""


def write_section(path: Path, report: QualityReport, command: str, commit: str) -> None:
    """Write a report between two marks of a Markdown file; the rest of it stays.

    Parameters
    ----------
    path
        The file; made if it is not there.
    report
        What to write.
    command
        That printed it.
    commit
        Of the code.
    """
    begin, end = marks(report.protocol)
    lines = [
        begin,
        f"## {report.title()}",
        "",
        report.intro(),
        "",
        f"Written by `{command}` at commit `{commit}`.",
        "",
    ]
    for title, (head, *rows) in report.tables().items():
        lines += [f"**{title}**", ""] if title else []
        lines += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        lines.append("")
    lines += [line for remark in report.remarks() for line in (remark, "")]
    section = "\n".join([*lines, end])
    old = path.read_text(encoding="utf-8") if path.exists() else "# Recommendation quality\n\n"
    if begin in old and end in old:
        text = old[: old.index(begin)] + section + old[old.index(end) + len(end) :]
    else:
        text = old.rstrip("\n") + "\n\n" + section + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def marks(protocol: str) -> tuple[str, str]:
    """Return the lines that a protocol's section stands between."""
    return f"<!-- tailrace eval {protocol}: begin -->", f"<!-- tailrace eval {protocol}: end -->"
