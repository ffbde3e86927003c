"""Which code a job ships, and how a long-lived worker comes to run that code and no older one.

In thread mode a TaskManager has one Python interpreter for as long as it lives. Each operator that opens puts
its job's code folder at the front of `sys.path`, but a module of an earlier job that is imported already stays
what it is: a job submitted anew would run the old code without a word. So a keyed function travels as the call
of `load_function`, by value, with plain texts as arguments. It drops our modules when they are of another
content, imports those of its own job, and refuses to start where it does not find them.

Another job that is still running in the same interpreter keeps the modules that it has.
"""

from __future__ import annotations

import hashlib
import importlib
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle

from flink_jobs.settings import Settings

SHIPPED = ("schemas", "udfs", "flink_jobs")
SHIPPED_SUFFIXES = (".py", ".avsc", ".lua", ".uids", ".json")


def code_files(root: Path) -> list[Path]:
    """Give the files that a job ships from the folder that holds our packages, sorted."""
    return sorted(
        path
        for package in SHIPPED
        for path in (root / package).rglob("*")
        if path.suffix in SHIPPED_SUFFIXES and "__pycache__" not in path.parts
    )


def code_hash(root: Path) -> str:
    """Give 16 hexadecimal digits that change with the name or content of any shipped file."""
    digest = hashlib.sha256()
    for path in code_files(root):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def package_code(target: Path) -> Path:
    """Copy the packages that a job ships into `target/<content hash>/`.

    Returns
    -------
    Path
        The folder to give as `-pyfs`; the same content gives the same folder.
    """
    root = Path(__file__).resolve().parent.parent
    folder = target / code_hash(root)
    if not folder.is_dir():
        building = folder.with_suffix(".new")
        shutil.rmtree(building, ignore_errors=True)
        for path in code_files(root):
            copy = building / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        building.rename(folder)
    return folder


LOADED_CODE = code_hash(Path(__file__).resolve().parent.parent)
"""Of the modules in this process. Taken at import: a job that ends takes its folder with it."""


def by_own_code(function: type, settings: Settings) -> tuple[Callable[..., Any], tuple[str, ...]]:
    """Give what `__reduce__` of a keyed function returns, so that it is loaded by `load_function`.

    Parameters
    ----------
    function
        A class at the top of its module, made from settings alone.
    settings
        Without secrets (`submit.shipped_settings`); they travel as JSON.
    """
    return load_function, (LOADED_CODE, function.__module__, function.__name__, settings.model_dump_json())


def load_function(code: str, module: str, name: str, settings: str) -> Any:
    """Make a keyed function from the modules that its own job has shipped.

    Parameters
    ----------
    code
        `code_hash` of these modules.
    module, name
        Where the class is.
    settings
        As JSON.

    Raises
    ------
    RuntimeError
        When neither the modules in this process nor a folder on `sys.path` have that content.
    """
    # One a process, however many copies of this function there are.
    lock = sys.__dict__.setdefault("_tailrace_import_lock", threading.Lock())
    with lock:
        known = sys.modules.get("flink_jobs.shipped_code")
        loaded = getattr(known, "LOADED_CODE", None)
        # A job that ended took its folder along: what it had not imported, another job of the code could not.
        if loaded != code or not Path(str(getattr(known, "__file__", None))).is_file():
            folders = [Path(entry) for entry in dict.fromkeys(sys.path) if Path(entry, "flink_jobs").is_dir()]
            own = next((folder for folder in folders if code_hash(folder) == code), None)
            if own is None:
                raise RuntimeError(
                    f"the job was submitted with code {code}; this worker has {loaded or 'none'} loaded, and "
                    f"on sys.path {[str(folder) for folder in folders]}. Submit with `tailrace submit`, which "
                    "ships the code; or, where the workers have the code installed, bring client and workers "
                    "to one release and restart the TaskManagers"
                )
            for name_of_ours in [each for each in sys.modules if each.split(".")[0] in SHIPPED]:
                del sys.modules[name_of_ours]
            sys.path.insert(0, str(own))
            importlib.invalidate_caches()
        made = getattr(importlib.import_module(module), name)
        read = importlib.import_module("flink_jobs.settings").Settings.model_validate_json
    return made(read(settings))


# A reference to this module would be answered by the old one.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
