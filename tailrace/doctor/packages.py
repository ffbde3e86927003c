"""The Python packages: the set that keeps PyFlink 2.3 whole."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version

from tailrace.doctor.finding import Finding

PYTHON = (3, 11)
LIMITS = {
    "apache-flink": "==2.3.0",
    "apache-beam": "==2.61.0",
    "redis": "<6",
    "grpcio": "<1.66",
    "protobuf": "<6",
    "pyarrow": "<17",
    "numpy": "<2.2",
    "pandas": "<2.3",
    "setuptools": "<82",
}
"""With a newer redis or grpcio the resolver silently falls back to an old Beam and an old NumPy."""
_MAY_BE_ABSENT = {"setuptools"}
_EACH_OVERWRITES_THE_OTHER = ("onnxruntime", "onnxruntime-gpu")
_INSTALL = "make setup   (installs requirements.lock)"


def installed_version(package: str) -> str | None:
    """Return the installed version, `None` where the package is absent."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def check_packages(installed: Callable[[str], str | None] = installed_version) -> Iterable[Finding]:
    """Compare Python and the packages with what the worker needs.

    Parameters
    ----------
    installed
        Gives the version of a package; tests give their own.
    """
    python = sys.version_info[:2]
    if python == PYTHON:
        yield Finding("TR-201", "ok", f"Python {python[0]}.{python[1]}")
    else:
        yield Finding(
            "TR-201",
            "error",
            f"Python: wanted 3.11, got {python[0]}.{python[1]}",
            "PyFlink's thread mode and the pinned wheels are made for 3.11",
            "uv venv --python 3.11, then make setup",
        )
    wrong = False
    for package, limit in LIMITS.items():
        got = installed(package)
        if got is None and package in _MAY_BE_ABSENT:
            continue
        if got is None or not satisfies(got, limit):
            wrong = True
            yield Finding(
                "TR-103" if package == "apache-flink" else "TR-202",
                "error",
                f"{package}: wanted {limit}, got {got or 'none'}",
                "installed without the lock, so that the resolver was free to move the set",
                _INSTALL,
            )
    if not wrong:
        yield Finding(
            "TR-202", "ok", "packages: " + ", ".join(f"{name}{limit}" for name, limit in LIMITS.items())
        )
    both = [package for package in _EACH_OVERWRITES_THE_OTHER if installed(package) is not None]
    if len(both) == 2:
        yield Finding(
            "TR-204",
            "error",
            "onnxruntime: wanted one of onnxruntime and onnxruntime-gpu, got both",
            "both write the same files, and the later one wins in part",
            "uv pip uninstall onnxruntime onnxruntime-gpu, then install the extra `worker` or `worker-gpu`",
        )
    elif not both:
        yield Finding(
            "TR-204",
            "error",
            "onnxruntime: wanted one flavour, got none",
            "no worker extra installed",
            _INSTALL,
        )
    else:
        yield Finding("TR-204", "ok", f"{both[0]} {installed(both[0])}, alone")


def satisfies(got: str, limit: str) -> bool:
    """Compare a version with `==X` or `<X`, by its leading numbers.

    Examples
    --------
    >>> satisfies("5.3.1", "<6"), satisfies("6.0.0b1", "<6"), satisfies("2.61.0", "==2.61.0")
    (True, False, True)
    """
    operator, bound = ("==", limit[2:]) if limit.startswith("==") else ("<", limit[1:])
    return got == bound if operator == "==" else _numbers(got) < _numbers(bound)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.match(r"[\d.]*", text).group().strip(".").split("."))
