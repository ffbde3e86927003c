"""What `tailrace submit` hands to Flink."""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tailrace import flink_client
from tailrace.cli import app
from tailrace.commands import submit

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # PyFlink's own, while it is imported
    from flink_jobs.submit import chosen_settings


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tailrace.toml"
    path.write_text(f'[stack]\nhome = "{tmp_path / "home"}"\ncache = "{tmp_path}"\n', encoding="utf-8")
    return path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["submit", "recommend", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(("given", "passed"), [((), 0), (("--allow-non-restored-state",), 1)])
def test_state_without_an_operator_is_allowed_only_when_asked_for(
    config: Path, given: tuple[str, ...], passed: int
) -> None:
    words = shlex.split(run("--config", config, "--from", "file:///savepoint", "--dry-run", *given))
    assert words.count("--allowNonRestoredState") == passed
    options, program = words[: words.index("--pyModule")], words[words.index("--pyModule") :]
    assert options[options.index("--fromSavepoint") + 1] == "file:///savepoint"
    assert "--allowNonRestoredState" not in program


@pytest.mark.parametrize(
    ("job", "wanted"),
    [("recommend", "job"), ("similarity", "similarity"), ("feedback", "feedback")],
)
def test_a_parallelism_given_on_the_line_wins_over_the_file(config: Path, job: str, wanted: str) -> None:
    config.write_text(config.read_text(encoding="utf-8") + f"[{wanted}]\nparallelism = 2\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["submit", job, "-p", "1", "--config", str(config), "--dry-run"])
    assert result.exit_code == 0, result.output
    words = shlex.split(result.output)
    program = words[words.index(job) + 1 :]
    settings = chosen_settings(program)
    assert getattr(settings, wanted).parallelism == 1
    assert settings.stack.home == config.parent / "home"


@pytest.mark.parametrize("allowed", [False, True])
def test_replacing_the_job_goes_on_from_its_savepoint_with_the_permission_given(
    config: Path, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    lines: list[list[str]] = []

    def flink(settings: Any, command: list[str]) -> str:
        lines.append(command)
        return f"JobID {'a' * 32}"

    monkeypatch.setattr(submit, "ensure_topics", lambda settings: [])
    monkeypatch.setattr(flink_client, "running_jobs", lambda *_: {"b" * 32: "RUNNING"})
    monkeypatch.setattr(flink_client, "_flink", flink)
    monkeypatch.setattr(flink_client, "stop_with_savepoint", lambda *_: "file:///new")
    run("--config", config, "--replace", "--no-wait", *["--allow-non-restored-state"] * allowed)
    (started,) = lines
    assert started[started.index("--fromSavepoint") + 1] == "file:///new"
    assert ("--allowNonRestoredState" in started) is allowed
