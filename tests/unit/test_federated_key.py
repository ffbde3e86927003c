"""`tailrace fed key`: keys that their holder alone can read, and sums that are opened from what the job told."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from clients.edge.ckks import HeadEncryption
from flink_jobs.federate_settings import model_lines
from flink_jobs.settings import load
from schemas.codec import decode, encode
from schemas.records import EdgeCohort
from tailrace import federated_key
from tailrace.cli import app
from tailrace.errors import UserError
from tailrace.federated_key import VARIABLE
from udfs.federate.audit import device_update
from udfs.federate.encrypted_line import EncryptedLogic, EncryptedState
from udfs.federate.line import LineLogic
from udfs.federate.line_state import LineHead, first_state
from udfs.federate.release import Seed, first_record

pytest.importorskip("tenseal", reason="TenSEAL is not installed: the extra `encryption`")
LINE = {"dimension": 8, "mode": "distributed", "noise_multiplier": 4.0, "cohort_size": 3, "cohort_min": 2}


def told(*command: str) -> Any:
    done = CliRunner().invoke(app, ["fed", "key", *command])
    if done.exception is not None:
        raise done.exception
    return done.stdout


class Topics:
    """What the job told of one line, and what was sent since."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.key = json.loads(told("new", "--out", str(folder / "keys"), "--json"))["encryption_key"]
        self.secret = folder / "keys" / "heads.secret"
        self.config = folder / "tailrace.toml"
        self.write({**LINE, "encryption_key": self.key})
        line = model_lines(load(self.config, environment={}).federate)["head"]
        self.models = [first_record(first_state(np.zeros(8), 1.0), line, 4.0, 0)]
        device = HeadEncryption((folder / "keys" / "heads.public").read_bytes())
        logic = EncryptedLogic(LineLogic(line, 4.0, Seed("", b"")))
        state, self.sums = EncryptedState(LineHead(0, (1.0,))), []
        for n in range(6):
            one = device_update(line, f"{n}", n // 3, np.ones(8), bytes(32), device.encrypt)
            step = logic.on_update(state, one, n)
            state = step.state
            self.sums += step.sealed
        other = EdgeCohort("headless", 1, "roster", (), 2, b"", 0)
        records = [
            SimpleNamespace(key=f"{one.model_line}/{one.cohort}".encode(), value=encode(one))
            for one in (*self.sums, other)
        ]
        reader = SimpleNamespace(read_all=lambda: records)
        topics = self

        class Sender:
            def __init__(self, *_: Any, topic: Any, **__: Any) -> None:
                assert topic.record == "EdgeModel"

            def __enter__(self) -> Sender:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def deliver(self, key: str, value: bytes) -> None:
                topics.models.append(decode("EdgeModel", value))  # type: ignore[arg-type]

        class Reader:
            def __init__(self, settings: Any, topic: str) -> None:
                pass

            def __enter__(self) -> Any:
                return reader

            def __exit__(self, *_: object) -> None:
                pass

        monkeypatch.setattr(federated_key, "published", lambda settings: list(self.models))
        monkeypatch.setattr(federated_key, "TopicReader", Reader)
        monkeypatch.setattr(federated_key, "EdgeSender", Sender)

    def write(self, line: dict[str, Any]) -> None:
        text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in line.items())
        self.config.write_text(f"[federate.lines.head]\n{text}", encoding="utf-8")

    def open(self, *more: str) -> Any:
        return json.loads(
            told("open", "head", "--secret", str(self.secret), "--config", str(self.config), "--json", *more)
        )


@pytest.fixture
def topics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Topics:
    return Topics(tmp_path, monkeypatch)


def test_sums_are_opened_in_order_and_once(topics: Topics) -> None:
    topics.sums.reverse()
    assert topics.open() == {
        "line": "head",
        "opened": [
            {"version": 1, "cohort_size": 3, "trigger": "full"},
            {"version": 2, "cohort_size": 3, "trigger": "full"},
        ],
    }
    assert [model.version for model in topics.models] == [0, 1, 2]
    assert topics.open()["opened"] == []
    del topics.models[1:]  # the brokers lost them, or never had them
    assert len(topics.open()["opened"]) == 2
    written = told("open", "head", "--secret", str(topics.secret), "--config", str(topics.config))
    assert "no sum is waiting" in written


def test_a_secret_key_is_its_owner_s_alone_and_never_written_over(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert topics.secret.stat().st_mode & 0o777 == 0o600
    before = topics.secret.read_bytes()
    with pytest.raises(UserError, match="TR-762"):
        told("new", "--out", str(topics.secret.parent))
    assert topics.secret.read_bytes() == before
    monkeypatch.setenv(VARIABLE, str(topics.secret))
    assert "head 1" in told("open", "head", "--config", str(topics.config))
    topics.secret.chmod(0o640)
    with pytest.raises(UserError, match="others may read it"):
        topics.open()


def test_what_cannot_be_opened_is_said_with_the_reason(topics: Topics, tmp_path: Path) -> None:
    told("new", "--out", str(tmp_path / "other"))
    for wrong, says in (
        ({"encryption_key": ""}, "wanted a line with encryption_key"),
        ({"encryption_key": "0" * 64}, "the line wants 000"),
        ({"encryption_key": topics.key, "noise_multiplier": 2.0}, "noise"),
        ({"encryption_key": topics.key, "cohort_min": 3}, "cohort_min"),
    ):
        topics.write({**LINE, **wrong})
        with pytest.raises(UserError, match=says):
            topics.open()
    topics.write({**LINE, "encryption_key": topics.key})
    topics.secret = tmp_path / "nowhere"
    with pytest.raises(UserError, match="nowhere"):
        topics.open()
    assert len(topics.models) == 1, "nothing was published"


def test_the_public_key_and_the_line_to_write_are_told(tmp_path: Path) -> None:
    written = told("new", "--out", str(tmp_path / "k"))
    assert "encryption_key" in written
    assert (tmp_path / "k" / "heads.public").exists()
    assert oct((tmp_path / "k").stat().st_mode)[-3:] == "700"
