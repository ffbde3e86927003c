"""Wiring: one `build` a job, the shells that turn pure logic into Flink operators, sources, sinks, settings."""

import builtins

# PyFlink 2.3 puts a method in the place of `print` in its UDF workers; importing Numba then fails with
# "module has no attribute 'print'". The original stands behind it, and still ends in the worker's log.
_replaced = getattr(builtins.print, "__self__", None)
if hasattr(_replaced, "_print"):
    builtins.print = _replaced._print
