"""Which epoch serves, where the topic, the store or both cannot be asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flink_jobs.settings import Settings, load
from schemas.records import ModelPointer
from tailrace import model_epochs
from tailrace.cli import app
from tailrace.errors import UserError

SETTINGS = load(environment={})
POINTER = ModelPointer("m", 3, "/models/3", "ab", 1, "activate")


class Store:
    """A store whose only field says that epoch 2 serves."""

    def hget(self, key: str, field: str) -> str:
        return "2"


def parts(monkeypatch: pytest.MonkeyPatch, topic: list[ModelPointer] | None, store: bool) -> None:
    """Let the topic hold these records, None: it cannot be read; and the store answer or not."""

    def pointers(settings: Settings) -> list[ModelPointer]:
        if topic is None:
            raise UserError("TR-300", "no broker", fix="tailrace up")
        return topic

    @contextmanager
    def client(settings: Settings) -> Iterator[Store]:
        if not store:
            raise UserError("TR-341", "no store", fix="tailrace up")
        yield Store()

    monkeypatch.setattr(model_epochs, "read_pointers", pointers)
    monkeypatch.setattr(model_epochs, "store", client)


@pytest.mark.parametrize(
    ("topic", "store", "wanted"),
    [([POINTER], False, 3), ([POINTER], True, 3), ([], True, 2), (None, True, 2), ([], False, None)],
)
def test_the_topic_is_asked_first_and_then_the_store(
    monkeypatch: pytest.MonkeyPatch, topic: list[ModelPointer] | None, store: bool, wanted: int | None
) -> None:
    parts(monkeypatch, topic, store)
    assert model_epochs.serving_epoch(SETTINGS) == model_epochs.active_epoch(SETTINGS) == wanted


def test_where_nobody_can_tell_no_command_says_that_nothing_serves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parts(monkeypatch, None, False)
    config = tmp_path / "tailrace.toml"
    config.write_text(f'[model]\nroot = "{tmp_path / "models"}"\n')
    assert model_epochs.active_epoch(SETTINGS) is None
    with pytest.raises(UserError, match="no broker"):
        model_epochs.serving_epoch(SETTINGS)
    listed = json.loads(CliRunner().invoke(app, ["models", "ls", "--config", str(config), "--json"]).stdout)
    assert listed["active"] is None and "TR-300: no broker; tailrace up" in listed["active_unknown"]
    shadow = CliRunner().invoke(app, ["models", "shadow", "2", "--config", str(config)])
    assert isinstance(shadow.exception, UserError) and shadow.exception.number == "TR-300"
