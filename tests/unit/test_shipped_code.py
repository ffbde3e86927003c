"""A worker that has run one release of a job runs the next one when that is submitted, or says why it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flink_jobs.settings import load
from flink_jobs.shipped_code import LOADED_CODE, code_hash, load_function, package_code

SUBMIT = """
import sys, cloudpickle
from flink_jobs.settings import load
from flink_jobs.user_shell import UserShell
settings = load(environment={}, job={"shards": 8}, kafka={"schema_ids": {9: "Event"}})
open(sys.argv[1], "wb").write(cloudpickle.dumps(UserShell(settings)))
"""

# As pemja does: one interpreter, and the folder of each operator that opens at the front of its path.
WORK = """
import pickle, sys
for folder, pickled in zip(sys.argv[1::2], sys.argv[2::2]):
    sys.path.insert(0, folder)
    shell = pickle.load(open(pickled, "rb"))
    logic = sys.modules["udfs.user_logic"]
    settings = shell._settings
    print(type(shell).open.__globals__["UserLogic"] is logic.UserLogic,
          settings.job.shards, *settings.kafka.schema_ids,
          sys.modules["flink_jobs"].__file__, logic.__file__)
"""


def python(code: str, *arguments: object, path: Path | None = None) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PYTHONSAFEPATH"] = "1"
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def release(folder: Path, change: str) -> tuple[Path, Path]:
    """Make a code folder with a changed logic, and a keyed function submitted from it."""
    code = package_code(folder)
    with (code / "udfs" / "user_logic.py").open("a", encoding="utf-8") as file:
        file.write(f"\n{change}\n")
    renamed = folder / code_hash(code)
    code.rename(renamed)
    pickled = folder / "shell.bin"
    python(SUBMIT, pickled, path=renamed)
    return renamed, pickled


def test_a_job_submitted_anew_runs_its_own_code_in_a_worker_that_has_run_another_release(
    tmp_path: Path,
) -> None:
    old, new = release(tmp_path / "old", "RELEASE = 1"), release(tmp_path / "new", "RELEASE = 2")
    printed = python(WORK, *old, *new, *old)
    assert printed == [
        f"True 8 9 {code}/flink_jobs/__init__.py {code}/udfs/user_logic.py"
        for code in (old[0], new[0], old[0])
    ]


def test_a_worker_of_a_release_without_the_loader_comes_to_run_the_new_code_too(tmp_path: Path) -> None:
    new = release(tmp_path / "new", "RELEASE = 2")
    old = shutil.copytree(new[0], tmp_path / "old")
    (old / "flink_jobs" / "shipped_code.py").unlink()
    ran_before = (
        f"import sys\nsys.path.insert(0, {str(old)!r})\nimport flink_jobs.settings, udfs.user_logic\n"
    )
    (line,) = python(ran_before + WORK, *new)
    assert line.endswith(f" {new[0]}/flink_jobs/__init__.py {new[0]}/udfs/user_logic.py")


def test_a_restart_of_the_same_code_from_another_folder_imports_nothing_again(tmp_path: Path) -> None:
    code, pickled = release(tmp_path / "first", "RELEASE = 1")
    copy = shutil.copytree(code, tmp_path / "second" / code.name)
    assert [line.split()[3] for line in python(WORK, code, pickled, copy, pickled)] == [
        f"{code}/flink_jobs/__init__.py"
    ] * 2


def test_another_job_of_the_same_code_runs_after_the_folder_of_the_first_is_gone(tmp_path: Path) -> None:
    code, pickled = release(tmp_path / "first", "RELEASE = 1")
    copy = shutil.copytree(code, tmp_path / "second" / code.name)
    between = f"import shutil\nshutil.rmtree({str(code)!r})\nsys.argv[1] = {str(copy)!r}\n"
    first, second = python(WORK + between + WORK, code, pickled)
    assert (first.split()[3], second.split()[3]) == (
        f"{code}/flink_jobs/__init__.py",
        f"{copy}/flink_jobs/__init__.py",
    )


def test_a_worker_without_the_code_of_the_job_refuses_to_run_another() -> None:
    with pytest.raises(RuntimeError, match=f"code 0123.*has {LOADED_CODE} loaded.*restart the TaskManagers"):
        load_function("0123", "flink_jobs.user_shell", "UserShell", load(environment={}).model_dump_json())


def test_the_hash_changes_with_any_shipped_file_and_no_other(tmp_path: Path) -> None:
    code = package_code(tmp_path)
    before = code_hash(code)
    assert before == code.name
    (code / "udfs" / "notes.txt").write_text("not shipped", encoding="utf-8")
    assert code_hash(code) == before
    (code / "flink_jobs" / "lists.lua").write_text("-- changed", encoding="utf-8")
    assert code_hash(code) != before
