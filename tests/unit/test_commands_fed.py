"""`tailrace fed` and the guard of `tailrace submit federate`, without a broker or a store."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from federate_examples import CENTRAL, SEED, released, updates
from typer.testing import CliRunner

from schemas.redis_keys import edge_budget_key, stats_key
from schemas.validation import validate_control
from tailrace import edge_models, flink_client
from tailrace.cli import app
from tailrace.commands import fed, submit
from tailrace.errors import UserError
from udfs.federate.line import LineLogic
from udfs.federate.line_state import first_state
from udfs.federate.release import first_record


def versions() -> list[Any]:
    from federate_examples import drive

    state = first_state(np.zeros(16), 1.0)
    _, steps = drive(CENTRAL, state, updates(CENTRAL, 6), logic=LineLogic(CENTRAL, 4.0, SEED))
    return [first_record(state, CENTRAL, 4.0, 0), *released(steps)]


class Store(dict[str, dict[str, str]]):
    """Hashes by key."""

    def hgetall(self, key: str) -> dict[str, str]:
        return self.get(key, {})


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    found = Store()

    @contextmanager
    def opened(settings: Any) -> Any:
        yield found

    monkeypatch.setattr(fed, "store", opened)
    monkeypatch.setattr(fed, "published", lambda settings: versions())
    return found


def told(*command: str) -> str:
    done = CliRunner().invoke(app, list(command))
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_the_status_names_the_mode_with_every_epsilon_and_counts_refusals(store: Store) -> None:
    store[stats_key("federate")] = {"0": json.dumps({"counts": {"updates": 9, "refused_budget_spent": 2}})}
    found = json.loads(told("fed", "status", "--json"))
    assert [one["version"] for one in found["versions"]] == [0, 1]
    assert "weights" not in found["versions"][1]
    assert found["refused"] == {"budget_spent": 2}
    newest = told("fed", "status", "--last", "1").splitlines()
    assert len(newest) == 2
    assert "central mode, epsilon" in newest[0]
    assert "per user (zero-out)" in newest[0]
    assert "budget_spent" in newest[1]
    assert json.loads(told("fed", "status", "--line", "other", "--json"))["versions"] == []


def test_a_budget_is_what_the_job_told_last(store: Store) -> None:
    store[edge_budget_key("default/u1")] = {
        "epoch": "7", "epsilon": "1.25", "budget_epsilon": "4.0", "delta": "1e-05", "contributions": "3",
        "revoked": "1",
    }  # fmt: skip
    found = json.loads(told("fed", "budget", "u1", "--json"))
    assert (found["epsilon"], found["contributions"], found["revoked"]) == (1.25, 3, True)
    assert "consent taken back" in told("fed", "budget", "u1")
    with pytest.raises(UserError, match="TR-755"):
        told("fed", "budget", "u2")


def test_an_epoch_begins_by_order_only_where_it_has_no_length(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent: list[Any] = []

    @contextmanager
    def producer(settings: Any) -> Any:
        yield SimpleNamespace(send=sent.append)

    monkeypatch.setattr(fed, "control_producer", producer)
    with pytest.raises(UserError, match="TR-760"):
        told("fed", "epoch", "2")
    config = tmp_path / "tailrace.toml"
    config.write_text("[federate]\nepoch_ms = 0\n", encoding="utf-8")
    told("fed", "epoch", "2", "--config", str(config))
    (order,) = sent
    validate_control(order, "*begin_budget_epoch")
    assert order.epoch == 2
    told("fed", "revoke", "u1")
    validate_control(sent[1], "default/u1")
    assert (sent[1].kind, sent[1].consent) == ("set_consent", "none")


def test_the_audits_are_right_about_this_release() -> None:
    found = json.loads(told("fed", "audit", "--seeds", "1", "--json"))
    assert found["wrong"] == []
    assert found["audits"]["budget reset on restore: ledger"] == "1 of 1"


@pytest.mark.parametrize(
    ("count", "given", "refused"),
    [(1, (), False), (2, (), True), (2, ("--from", "file:///s"), False), (2, ("--forget-ledgers",), False)],
)
def test_the_job_is_not_started_without_its_ledgers_once_versions_are_out(
    monkeypatch: pytest.MonkeyPatch, count: int, given: tuple[str, ...], refused: bool
) -> None:
    started = []
    monkeypatch.setattr(edge_models, "published", lambda settings: versions()[:count])
    monkeypatch.setattr(submit, "ensure_topics", lambda settings: None)
    monkeypatch.setattr(flink_client, "running_jobs", lambda target, job: {})
    monkeypatch.setattr(flink_client, "submit", lambda *given, **named: started.append(given) or "job")
    if refused:
        with pytest.raises(UserError, match="TR-759"):
            told("submit", "federate", "--no-wait", *given)
    else:
        told("submit", "federate", "--no-wait", *given)
    assert len(started) == (not refused)
