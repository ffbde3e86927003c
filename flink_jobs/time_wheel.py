"""A time wheel in a Flink map state: slot → names to look at when its time has come, one a line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def add(wheel: Any, slot: int, names: Iterable[str]) -> None:
    """Put names into a slot, behind those that stand there."""
    waiting = wheel.get(slot)
    joined = "\n".join(names).encode()
    wheel.put(slot, joined if waiting is None else waiting + b"\n" + joined)


def take(wheel: Any, slot: int) -> list[str]:
    """Empty a slot, and give its names, each once."""
    names = wheel.get(slot)
    if names is None:
        return []
    wheel.remove(slot)
    return list(dict.fromkeys(names.decode().split("\n")))
