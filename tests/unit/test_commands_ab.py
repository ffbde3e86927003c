"""`tailrace ab` over a topic of orders and a file of examples in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from flink_jobs.settings import load
from schemas.codec import decode, encode
from schemas.ids import user_key
from schemas.records import Control, Example, ExampleItem
from schemas.validation import control_key, validate_control
from tailrace import example_log, experiment_orders
from tailrace.cli import app
from tailrace.commands import ab
from tailrace.topic_scan import Record
from udfs.experiments.running import RunningExperiments

T0, DAY = 1_700_000_000_000, 86_400_000


class Topic:
    """The control topic."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def set_experiments(self, experiments: str, reason: str) -> None:
        control = Control("c", "set_experiments", None, None, None, None, T0, reason, experiments)
        validate_control(control, control_key(control))
        place = len(self.records)
        self.records.append(Record("t", 0, place, T0, control_key(control).encode(), encode(control), ()))

    def read_all(self) -> Iterator[Record]:
        yield Record("t", 0, 0, T0, b"*republish", b"junk", ())
        yield from self.records

    def __enter__(self) -> Topic:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Topic:
    made = Topic()
    monkeypatch.setattr(experiment_orders, "TopicReader", lambda *_: made)
    monkeypatch.setattr(experiment_orders, "control_producer", lambda *_: made)
    monkeypatch.setattr(ab, "ensure_topics", lambda *_: [])
    return made


def run(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["ab", *words, "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def examples(rates: dict[str, float], running: RunningExperiments, users: int = 3_000) -> list[Example]:
    """One list a user, clicked at the rate of the user's variant."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(users):
        label, _ = running.of_user(user_key("default", f"u{number}"))
        clicked = bool(rng.random() < rates.get(label, 0.1))
        item = ExampleItem(f"i{number % 50}", 0, 0, "ranker", 1.0, 0.9, "click" if clicked else "none",
                           0.2 * clicked, clicked, False, False, 0.0, 0.0)  # fmt: skip
        at_ms = T0 + number * 1_000
        variant = label or "default"
        made.append(
            Example(
                f"r{number}", "default", f"u{number}", "v", at_ms, at_ms, at_ms, 1, "m", variant, 1, (item,), b""
            )
        )  # fmt: skip
    return made


SPREAD = ("start", "spread", "--variant", "a", "--variant", "b:diversity=0.3", "--expected-effect", "0.3")


def test_the_better_variant_is_found_and_promoted_for_all(topic: Topic, tmp_path: Path) -> None:
    started = run(*SPREAD)
    assert [one["settings"] for one in started["variants"]] == [{}, {"diversity": 0.3}]
    running = experiment_orders.read_running(load(environment={}))
    file = tmp_path / "examples.avro"
    made = examples({"spread=a": 0.10, "spread=b": 0.17}, running)
    example_log.keep([*made, *made], file)
    (found,) = run("report", "spread", "--data", str(file))["experiments"]
    assert (found["verdict"], found["variant"]) == ("better", "b")
    assert sum(one["users"] for one in found["variants"].values()) == len(made), "each list once"
    (compared,) = found["comparisons"]
    assert 0 < compared["low"] < 0.07 < compared["high"] and compared["p"] < 0.05
    table = CliRunner().invoke(app, ["ab", "report", "--data", str(file)]).output
    assert "b is better" in table and "b against a, ctr: +0.0" in table
    after = run("report", "--data", str(file), "--act")
    assert after["promoted"] == {"diversity": 0.3}
    left = experiment_orders.read_running(load(environment={}))
    assert left.experiments == () and left.of_user("default/anyone") == ("", {"diversity": 0.3})
    refused = CliRunner().invoke(app, ["ab", "withdraw", "candidates"])
    assert "one that is promoted (diversity)" in str(refused.exception)
    assert run("withdraw", "diversity") == {"promoted": {}, "running": []}


def test_a_harmful_variant_is_stopped_by_itself_and_an_equal_one_is_not(topic: Topic, tmp_path: Path) -> None:
    run(*SPREAD, "--guardrail", "ctr:0.05")
    running = experiment_orders.read_running(load(environment={}))
    file = tmp_path / "examples.avro"
    example_log.keep(examples({"spread=a": 0.12, "spread=b": 0.12}, running), file)
    assert run("report", "--data", str(file), "--act")["experiments"][0]["verdict"] == "running"
    assert experiment_orders.read_running(load(environment={})) == running
    example_log.keep(examples({"spread=a": 0.20, "spread=b": 0.08}, running), file)
    (found,) = run("report", "--data", str(file), "--act")["experiments"]
    assert (found["verdict"], found["variant"]) == ("harmful", "b")
    assert experiment_orders.read_running(load(environment={})) == RunningExperiments()


def test_users_who_were_not_dealt_as_planned_raise_an_alarm(topic: Topic, tmp_path: Path) -> None:
    run(*SPREAD)
    running = experiment_orders.read_running(load(environment={}))
    file = tmp_path / "examples.avro"
    lost = [one for one in examples({}, running) if one.variant == "spread=a" or int(one.user_id[1:]) % 4]
    example_log.keep(lost, file)
    assert run("report", "--data", str(file))["experiments"][0]["verdict"] == "sample_ratio"


def no_examples(folder: Path) -> Path:
    example_log.keep([], folder / "none.avro")
    return folder / "none.avro"


def test_experiments_of_one_layer_get_different_users_until_it_is_full(topic: Topic, tmp_path: Path) -> None:
    one = run("start", "one", "--variant", "a", "--variant", "b:diversity=0.1", "--share", "0.5")
    two = run("start", "two", "--variant", "a", "--variant", "b:diversity=0.2", "--share", "0.3")
    assert (one["first_bucket"], two["first_bucket"]) == (0, 5_000)
    full = CliRunner().invoke(
        app, ["ab", "start", "three", "--variant", "a", "--variant", "b", "--share", "0.3"]
    )
    assert full.exit_code != 0 and "no 30.00% of the users left" in str(full.exception)
    again = CliRunner().invoke(app, ["ab", "start", "two", "--variant", "a", "--variant", "b"])
    assert again.exit_code != 0 and "two runs already" in str(again.exception)
    told = CliRunner().invoke(app, ["ab", "report", "two", "--data", str(no_examples(tmp_path))]).stdout
    assert "no list counts yet" in told and "tailrace counts --job feedback" in told
    run("stop", "one")
    assert run("start", "three", "--variant", "a", "--variant", "b", "--share", "0.3")["first_bucket"] == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--variant", "a"), "two or more"),
        (("--variant", "a", "--variant", "b:heat=1"), "names of"),
        (("--variant", "a", "--variant", "b:rules=1"), "which the job applies"),
        (("--variant", "a", "--variant", "b:diversity=7"), "diversity: wanted 0.0 to 1.0"),
        (("--variant", "a", "--variant", "b:epoch=0.5"), "epoch: wanted"),
        (("--variant", "a", "--variant", "b", "--metric", "joy"), "metric"),
        (
            ("--variant", "a", "--variant", "b:diversity=much"),
            "wanted diversity=NUMBER, got 'diversity=much'",
        ),
        (("--variant", "a", "--variant", "b:diversity"), "wanted diversity=NUMBER"),
        (("--variant", "a", "--variant", "b*x"), "wanted NAME*3"),
        (("--variant", "a", "--variant", "b", "--guardrail", "conversion:much"), "wanted conversion:0.05"),
    ],
)
def test_what_cannot_run_is_refused_before_a_broker_is_asked(
    topic: Topic, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], says: str
) -> None:
    monkeypatch.setattr(ab, "ensure_topics", lambda *_: pytest.fail("asked the broker"))
    done = CliRunner().invoke(app, ["ab", "start", "x", *words])
    assert done.exit_code != 0 and says in str(done.exception)
    assert topic.records == []


def test_naming_what_does_not_run_is_an_error(topic: Topic) -> None:
    for words in (("report", "x"), ("stop", "x"), ("promote", "x", "b")):
        done = CliRunner().invoke(app, ["ab", *words])
        assert done.exit_code != 0 and "none runs" in str(done.exception)
    run(*SPREAD)
    assert "wanted one of a, b" in str(CliRunner().invoke(app, ["ab", "promote", "spread", "c"]).exception)
    run("promote", "spread", "b")
    newest = decode("Control", topic.records[-1].value)
    assert isinstance(newest, Control) and newest.reason == "promote spread=b"
