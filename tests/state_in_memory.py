"""Flink's states as a keyed function sees them, in memory."""

from __future__ import annotations

from typing import Any


class MapState(dict[Any, Any]):
    """A dictionary with the calls of Flink's map state."""

    def put(self, key: Any, value: Any) -> None:
        self[key] = value

    def remove(self, key: Any) -> None:
        self.pop(key, None)


class ValueState:
    """One value, None at first."""

    def __init__(self) -> None:
        self._value: Any = None

    def value(self) -> Any:
        return self._value

    def update(self, value: Any) -> None:
        self._value = value
