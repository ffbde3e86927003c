"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="A TOML file instead of ./tailrace.toml.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
