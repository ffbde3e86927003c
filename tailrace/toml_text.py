"""Settings as the text of a TOML file, for a job that is submitted by another program."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flink_jobs.settings import Settings


def settings_toml(settings: Settings) -> str:
    """Give what was set, without defaults and secrets, as `--config` reads it.

    Examples
    --------
    >>> from flink_jobs.settings import load
    >>> print(settings_toml(load(environment={}, job={"shards": 4})))
    [job]
    shards = 4
    <BLANKLINE>
    """
    tree = json.loads(
        settings.model_dump_json(
            exclude_unset=True, exclude={"redis": {"password"}, "federate": {"noise_key"}}
        )
    )
    return "".join(
        f"[{section}]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in values.items())
        for section, values in tree.items()
        if values
    )


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_value(each) for each in value) + "]"
    return json.dumps(value)
