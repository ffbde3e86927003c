"""Writes docs/settings.md from the settings' own definitions: `python docs/generate_settings.py`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "settings.md"

HEAD = """\
# Settings

Written by `docs/generate_settings.py` from `flink_jobs/settings.py`; a test fails when it is not current.

Settings are read once, from highest to lowest: environment variables, a TOML file, the defaults below. The
file is `tailrace.toml` in the working folder, or what `--config` names. A variable is
`TAILRACE_<SECTION>__<KEY>`, with two underscores between section and key, for example
`TAILRACE_REDIS__PASSWORD`; secrets belong there. An unknown key is an error that names the nearest known one.

```toml
[kafka]
bootstrap_servers = "broker-1:9092,broker-2:9092"

[job]
parallelism = 4
```

A job's settings are fixed when it is submitted. To change one, submit it again from a savepoint.
"""


def settings_page() -> str:
    """The page as it should stand in the file."""
    sys.path.insert(0, str(ROOT))
    from flink_jobs.settings import Settings

    parts = [HEAD]
    for section, field in Settings.model_fields.items():
        model: Any = field.annotation
        lines = [
            f"\n## [{section}]\n",
            f"{model.__doc__}\n",
            "| key | type | default | meaning |",
            "|---|---|---|---|",
        ]
        for key, entry in model.model_fields.items():
            lines.append(f"| `{key}` | {_type(entry)} | {_default(entry)} | {_meaning(entry)} |")
        parts.append("\n".join(lines) + "\n")
    return "".join(parts)


def _type(entry: Any) -> str:
    words = {
        "str": "text", "int": "integer", "float": "number", "bool": "true or false", "Path": "path",
        "SecretStr": "secret", "NoneType": "",
    }  # fmt: skip
    annotation = entry.annotation
    name = getattr(annotation, "__name__", "")
    if name in words:
        return words[name]
    if all(isinstance(choice, str) for choice in get_args(annotation)) and get_args(annotation):
        return "one of " + ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if name in ("dict", "tuple"):
        return {"dict": "table", "tuple": "list of texts"}[name]
    return " or ".join(
        filter(None, (words.get(part.__name__, part.__name__) for part in get_args(annotation)))
    )


def _default(entry: Any) -> str:
    if entry.default_factory is not None:
        made = entry.default_factory()
        if isinstance(made, dict):
            return ", ".join(f"{key}: {value}" for key, value in made.items())
        return "`tailrace` in the user's cache folder"
    value = entry.default
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:_}" if value >= 100_000 else str(value)
    return f"`{value}`" if str(value) else "empty"


def _meaning(entry: Any) -> str:
    bounds = []
    for rule in entry.metadata:
        for name, words in (("ge", "at least"), ("le", "at most"), ("gt", "above"), ("lt", "below")):
            if hasattr(rule, name):
                bounds.append(f"{words} {getattr(rule, name)}")
    text = (entry.description or "").replace("<", "&lt;")
    return "; ".join(filter(None, (text, ", ".join(bounds))))


if __name__ == "__main__":
    PAGE.write_text(settings_page(), encoding="utf-8")
