"""What every shell of a keyed step shares: how it travels to the workers, and how it opens its state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyflink.common import Types
from pyflink.common.typeinfo import TypeInformation
from pyflink.datastream import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import MapStateDescriptor, ValueStateDescriptor

from flink_jobs.settings import Settings
from flink_jobs.shipped_code import by_own_code


class KeyedShell(KeyedProcessFunction):
    """A keyed function that is made from settings alone.

    Parameters
    ----------
    settings
        Read once at submission, and shipped with the job; without secrets, which are in the environment.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        """Travel so that a TaskManager that has run an older release runs this one."""
        return by_own_code(type(self), self._settings)


def map_state(context: RuntimeContext, name: str, key: TypeInformation | None = None) -> Any:
    """Open a map from keys of a type, by default strings, to bytes."""
    descriptor = MapStateDescriptor(name, key or Types.STRING(), Types.PICKLED_BYTE_ARRAY())
    return context.get_map_state(descriptor)


def value_state(context: RuntimeContext, name: str) -> Any:
    """Open a single value of bytes."""
    return context.get_state(ValueStateDescriptor(name, Types.PICKLED_BYTE_ARRAY()))
