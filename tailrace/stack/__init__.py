"""The local stack and its parts.

`LocalStack` is what tests, the demo and the command use. It is imported on first use: the supervisor runs in
this package with the standard library alone.
"""

from typing import Any

__all__ = ["LocalStack", "ServiceStatus", "StackStatus"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tailrace.stack import local

    return getattr(local, name)
