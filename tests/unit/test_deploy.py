"""The worker image and its documents agree with the locks, the local stack and the linter."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flink_jobs.settings import load
from tailrace.stack.flink import THREAD_LIMITS, wheel_folder
from tailrace.stack.flink_config import flink_configuration
from tailrace.stack.jars import locked_jars

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
README = ROOT / "deploy" / "README.md"
FRAGMENT = ROOT / "deploy" / "flink-conf.yaml"

# Of the machine, so each cluster has its own.
OWN = {"python.executable", "python.client.executable"}


def jar_names(text: str) -> set[str]:
    """Names of jar files that a text holds, those with a wildcard left out."""
    return set(re.findall(r"[a-z][\w.-]*-\d[\w.-]*\.jar", text))


def fragment() -> dict[str, object]:
    return yaml.safe_load(FRAGMENT.read_text(encoding="utf-8"))


def plain(value: object) -> object:
    """A value of config.yaml, however it is written there."""
    return yaml.safe_load(value) if isinstance(value, str) else value


def lint(dockerfile: Path) -> subprocess.CompletedProcess[str]:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed (extra `dev`)")
    return subprocess.run([hadolint, str(dockerfile)], capture_output=True, text=True, check=False)


def test_hadolint_finds_nothing() -> None:
    done = lint(DOCKERFILE)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python\nRUN cd x && pip install y\n", encoding="utf-8")
    assert lint(bad).returncode != 0


@pytest.mark.parametrize("document", [DOCKERFILE, README], ids=["Dockerfile", "README"])
def test_every_jar_named_is_the_locked_one(document: Path) -> None:
    ours = {jar.file_name for jar in locked_jars("flink")}
    of_flink = {path.name for path in wheel_folder().glob("opt/*.jar")}
    named = jar_names(document.read_text(encoding="utf-8"))
    assert named - of_flink == ours
    assert any(name.startswith("flink-python-") for name in named & of_flink)


def test_the_readme_names_the_locked_coordinates() -> None:
    named = set(re.findall(r"`(org\.apache\.[\w.]+:[\w.-]+:[\w.-]+)`", README.read_text(encoding="utf-8")))
    assert named == {jar.coordinate for jar in locked_jars("flink")}


def test_the_configuration_is_that_of_the_local_stack_where_they_share_keys() -> None:
    local = flink_configuration(load(environment={}), wheel_folder())
    shared = {key: value for key, value in fragment().items() if key in local and key not in OWN}
    assert len(shared) > 15
    assert {key: plain(value) for key, value in shared.items()} == {key: plain(local[key]) for key in shared}


def test_the_configuration_has_no_key_of_its_own() -> None:
    assert set(fragment()) <= set(flink_configuration(load(environment={}), wheel_folder()))


def test_the_image_sets_the_thread_limits_and_the_python_path() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    for name, value in THREAD_LIMITS.items():
        assert f"{name}={value}" in text
        assert f"{name}={value}" in README.read_text(encoding="utf-8")
    assert "PYTHONPATH=/opt/venv/lib/python3.11/site-packages" in text
    assert {str(fragment()[key]) for key in OWN} == {"/opt/venv/bin/python"}


def test_the_image_does_not_run_as_root_and_checks_hashes() -> None:
    lines = DOCKERFILE.read_text(encoding="utf-8").splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users and users[-1] not in ("root", "0")
    assert sum("--require-hashes" in line for line in lines) == sum(
        "uv pip install" in line for line in lines
    )


def test_image_and_makefile_use_one_version_of_uv() -> None:
    image = re.search(r"^ARG UV_VERSION=(\S+)", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    make = re.search(r"^UV_VERSION := (\S+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert image is not None
    assert make is not None
    assert image.group(1) == make.group(1)


def test_everything_that_the_image_copies_is_let_into_its_context() -> None:
    ignore = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    copied = {
        source
        for line in DOCKERFILE.read_text(encoding="utf-8").splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    }
    assert copied == let_in
    assert all((ROOT / name).is_file() for name in copied)
