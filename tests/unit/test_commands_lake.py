"""`tailrace lake` and `tailrace parity` where there is nothing to read, or what is there cannot be read."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_export.lake.files import RawRecord, files_of, write_run
from schemas.topics import EVENTS, SERVED
from tailrace.cli import app
from tailrace.errors import ExitCode, UserError

T0_MS = 1_700_000_000_000


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tailrace.toml"
    path.write_text(f'[lake]\nroot = "{tmp_path / "lake"}"\n')
    return path


def refused(config: Path, *words: str) -> UserError:
    done = CliRunner().invoke(app, [*words, "--config", str(config)])
    assert isinstance(done.exception, UserError), (done.output, done.exception)
    assert not done.stdout
    return done.exception


@pytest.mark.parametrize("words", [("parity",), ("parity", "--json")])
def test_a_lake_without_lists_is_no_parity(config: Path, words: tuple[str, ...]) -> None:
    error = refused(config, *words)
    assert (error.number, error.exit_code, error.fix) == (
        "TR-394",
        ExitCode.FAILED,
        "tailrace lake run --once",
    )
    assert json.loads(error.as_json())["exit_code"] == 1


@pytest.mark.parametrize("words", [("ls",), ("compact",), ("erase", "u1")])
def test_an_empty_lake_says_how_it_is_filled(config: Path, words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, ["lake", *words, "--config", str(config)])
    assert done.exit_code == 0
    assert "holds nothing yet: tailrace lake run --once" in done.stdout.replace("\n", "")


@pytest.mark.parametrize("words", [("run", "--once"), ("retain", "--days", "3")])
def test_a_topic_that_there_is_not_is_named(config: Path, words: tuple[str, ...]) -> None:
    error = refused(config, "lake", *words, "--topic", "events")
    assert (error.number, error.exit_code) == ("TR-393", ExitCode.USAGE)
    assert "there is no topic events" in error.what and EVENTS.name in error.fix


@pytest.mark.parametrize("words", [("parity",), ("lake", "erase", "u1"), ("lake", "compact")])
def test_a_file_that_is_cut_short_is_named(config: Path, words: tuple[str, ...]) -> None:
    root = config.parent / "lake"
    for offset in (0, 1):
        write_run(root, SERVED.name, [RawRecord(0, offset, T0_MS, b"default/u1", b"junk")])
    file = files_of(root, SERVED.name)[0].path
    file.write_bytes(file.read_bytes()[:40])
    error = refused(config, *words)
    assert error.number == "TR-395"
    assert str(file) in error.what and "cannot be read" in error.what
    assert datetime.fromtimestamp(T0_MS / 1000, UTC).date().isoformat() in error.what


def test_training_names_a_file_of_the_lake_that_is_cut_short(config: Path) -> None:
    pytest.importorskip("xgboost", reason="the extra `training` is not installed")
    root = config.parent / "lake"
    write_run(root, EVENTS.name, [RawRecord(0, 0, T0_MS, b"default/u1", b"junk")])
    file = files_of(root, EVENTS.name)[0].path
    file.write_bytes(file.read_bytes()[:40])
    error = refused(config, "train", "--data", str(root), "--until", "2024-01-01", "--epoch", "1")
    assert (error.number, error.exit_code) == ("TR-501", ExitCode.USAGE)
    assert str(file) in error.what
