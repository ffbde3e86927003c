"""What the command returns and prints when something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from tailrace.cli import main
from tailrace.errors import ExitCode, UserError


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tailrace.toml"
    path.write_text(f'[stack]\nhome = "{tmp_path / "home"}"\n', encoding="utf-8")
    return path


def tailrace(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tailrace.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def test_an_error_shows_number_cause_and_fix() -> None:
    error = UserError("TR-999", "wanted a, got b", "because", "do this", ExitCode.USAGE)
    assert str(error).splitlines() == ["TR-999: wanted a, got b", "  cause: because", "  fix:   do this"]
    assert json.loads(error.as_json())["error"]["number"] == "TR-999"


def test_an_unknown_setting_is_a_usage_error_on_stderr(tmp_path: Path) -> None:
    config = tmp_path / "t.toml"
    config.write_text("[stack]\nkafka_prot = 1\n", encoding="utf-8")
    result = tailrace("status", "--config", config)
    assert (result.returncode, result.stdout) == (ExitCode.USAGE, "")
    assert "TR-100" in result.stderr
    assert "did you mean 'kafka_port'" in result.stderr


def test_with_json_an_error_is_one_json_object_on_stderr(tmp_path: Path) -> None:
    result = tailrace("status", "--json", "--config", tmp_path / "absent.toml")
    assert json.loads(result.stderr)["exit_code"] == result.returncode == ExitCode.USAGE


@pytest.mark.parametrize(
    ("words", "says", "fix"),
    [
        (("models", "gate", "abc"), "'candidate'", "models gate --help"),
        (("ab", "start"), "Missing argument", "ab start --help"),
        (("lake", "retain", "--days", "0"), "'--days'", "lake retain --help"),
        (("ab", "nosuch"), "nosuch", "ab --help"),
    ],
)
def test_with_json_wrong_words_are_one_json_object_too(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    says: str,
    fix: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["tailrace", *words, "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    error = json.loads(told.err)
    assert (ended.value.code, error["exit_code"], told.out) == (2, 2, "")
    assert error["error"]["number"] == "TR-108" and says in error["error"]["what"]
    assert error["error"]["fix"].endswith(fix)


@pytest.mark.parametrize(("ending", "code"), [(typer.Exit(1), 1), (typer.Exit(4), 4), (typer.Abort(), 1)])
def test_with_json_a_command_ends_with_its_own_code(
    monkeypatch: pytest.MonkeyPatch, ending: Exception, code: int
) -> None:
    app = typer.Typer()

    @app.command()
    def fails(json: bool = False) -> None:
        raise ending

    monkeypatch.setattr("tailrace.cli.app", app)
    monkeypatch.setattr(sys, "argv", ["tailrace", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code


def test_status_of_a_stopped_stack_returns_4_and_says_how_to_start_it(config: Path) -> None:
    result = tailrace("status", "--config", config)
    assert result.returncode == ExitCode.NOT_RUNNING
    assert "tailrace up" in result.stdout


def test_status_of_a_stopped_stack_as_json(config: Path) -> None:
    answer = json.loads(tailrace("status", "--json", "--config", config).stdout)
    assert (answer["running"], answer["healthy"], answer["services"]) == (False, False, [])


def test_down_of_a_stopped_stack_is_no_error(config: Path) -> None:
    result = tailrace("down", "--config", config)
    assert (result.returncode, result.stdout) == (0, "was not running\n")


def test_purge_asks_first(config: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    assert tailrace("down", "--purge", "--config", config).returncode != 0
    assert (tmp_path / "home").exists()
    assert tailrace("down", "--purge", "--yes", "--config", config).returncode == 0
    assert not (tmp_path / "home").exists()


def test_logs_of_an_unknown_process_names_the_known_ones(config: Path, tmp_path: Path) -> None:
    logs = tmp_path / "home" / "logs"
    logs.mkdir(parents=True)
    (logs / "kafka.log").write_text("one\ntwo\nthree\n", encoding="utf-8")
    unknown = tailrace("logs", "kafak", "--config", config)
    assert unknown.returncode == ExitCode.USAGE
    assert "kafka" in unknown.stderr
    assert tailrace("logs", "kafka", "-n", "2", "--config", config).stdout == "two\nthree\n"


def test_help_shows_the_exit_codes() -> None:
    shown = " ".join(tailrace("--help").stdout.split())
    assert all(f"{code.value} {code.name.lower().replace('_', ' ')}" in shown for code in ExitCode)
