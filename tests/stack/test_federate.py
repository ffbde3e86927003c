"""The federate job: a fleet with late, repeated, broken and greedy devices, a TaskManager killed twice."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.edge_fleet import Arrival, Fleet, budget_of
from clients.edge.ckks import HeadEncryption
from clients.edge.secure_contribution import SecureContribution
from flink_jobs.federate_settings import model_lines
from flink_jobs.settings import Settings, load
from schemas.codec import decode, encode
from schemas.records import EdgeModel, EdgeUpdate
from schemas.topics import DEAD_LETTERS, EDGE_COHORTS, EDGE_MODELS, EDGE_UPDATES
from tailrace import flink_client
from tailrace.cli import app
from tailrace.federated_key import new_keys
from tailrace.federated_run import FederatedRun
from tailrace.stack.noise_key import VARIABLE, noise_key
from tailrace.toml_text import settings_toml
from tests.stack.conftest import SharedStack
from tests.stack.deployment import Deployment, until
from tests.stack.patience import SLOWER
from udfs.federate.audit import PlainRun, device_update
from udfs.federate.ciphertext import number_quantiser
from udfs.federate.line_settings import LineSettings
from udfs.federate.release import Seed
from udfs.privacy.client_update import privatise
from udfs.privacy.fixed_point import UNIT

pytestmark = pytest.mark.stack
RELEASES, KILLED_IN, PATIENCE_S = 4, (1, 2), 150.0 * SLOWER
LINE = {
    "dimension": 64, "mode": "central", "noise_multiplier": 4.0, "cohort_size": 60, "cohort_min": 20,
    "timeout_ms": 600_000_000,
}  # fmt: skip
LINES = {
    "trusting": LINE,
    "wary": {**LINE, "mode": "local", "noise_multiplier": 8.0, "cohort_size": 30},
    "table": {**LINE, "dimension": 320_000, "cohort_size": 4, "cohort_min": 2},
    "masked": {
        **LINE, "mode": "distributed", "secure": True, "cohort_size": 4, "cohort_min": 3, "timeout_ms": 10_000,
    },
    "sealed": {**LINE, "mode": "distributed", "cohort_size": 4, "cohort_min": 3},
}  # fmt: skip


class Federated(Deployment):
    """A deployment with lines, which its settings file says as TOML."""

    def write_config(self, name: str, settings: Settings) -> Path:
        path = self.folder / name
        path.write_text(settings_toml(settings), encoding="utf-8")
        return path


@pytest.fixture
def federated(stack: SharedStack, tmp_path: Path) -> Iterator[Federated]:
    given = stack.settings.model_dump(exclude_unset=True)
    given["kafka"]["topic_prefix"] = "federated."
    lines_with_key = {
        **LINES,
        "sealed": {**LINES["sealed"], "encryption_key": new_keys(tmp_path / "keys").name},
    }
    given["redis"]["url"] = f"{stack.settings.redis.url.rsplit('/', 1)[0]}/15"
    lines = model_lines(load(environment={}, federate={"lines": lines_with_key}).federate)
    quick = {
        "batch_ms": 100,
        "line_batch_ms": 100,
        "timeout_grace_ms": 1_000,
        "budget_epsilon": budget_of(lines["trusting"]),
    }
    given["job"] |= {"checkpoint_interval_ms": 1_000}
    deployment = Federated(
        stack.stack, load(environment={}, **given, federate={**quick, "lines": lines_with_key}), tmp_path
    )
    for other in [stack, *stack._deployments.values()]:
        if other.job_id is not None:
            other.stop()
    yield deployment
    deployment.cancel()


def test_a_job_killed_twice_publishes_what_an_uninterrupted_plain_run_does(federated: Federated) -> None:
    settings = federated.settings
    noise = Seed(settings.federate.noise_key_id, bytes.fromhex(noise_key(settings.stack.home)[VARIABLE]))
    lines = model_lines(settings.federate)
    trusting = Fleet(lines["trusting"], 400, 1, noise, name="trusting")
    wary = Fleet(lines["wary"], 60, 2, noise, name="wary")
    federated.job_id = flink_client.submit(settings, "federate", federated.jobmanager, federated.config)
    federated.wait_until_running()

    run = FederatedRun(settings, federated.stack, trusting, print, PATIENCE_S)
    run.run(RELEASES, KILLED_IN)
    other = FederatedRun(settings, None, wary, print, PATIENCE_S)
    other.run(1)
    assert told(federated, "revoke", "user-gone") == {"user": "user-gone", "consent": "none"}
    until(lambda: run.counts().get("consent_revoked") == 1, 30, "the order")
    gone = device_update(lines["wary"], "gone", 1, np.zeros(64), bytes(32))
    run.send([Arrival("default/user-gone", encode(gone))])

    refused = trusting.counts.refused + wary.counts.refused + Counter(revoked=1)
    run.wait_for_counts(dict(refused))
    report, more = run.report(), other.report()
    print(report)
    assert (report["releases"], report["kills"], report["contributions"]) == (RELEASES, 2, 240)
    assert report["read_uncommitted"]["cohorts"] == RELEASES + 1
    assert report["sent"]["repeat"] > 100
    assert set(refused) >= {"wrong_shape", "norm_too_large", "budget_spent", "unknown_base", "noise_missing"}
    assert more["mode"] == "local"
    assert report["accuracy"][-1] > report["accuracy"][0]
    check_letters(federated, refused)
    check_table(federated, run, lines["table"], noise)
    check_masked(federated, run)
    check_sealed(federated, run, lines["sealed"])
    versions = told(federated, "status", "--line", "trusting", "--last", "2")
    assert [one["version"] for one in versions["versions"]] == [RELEASES - 1, RELEASES]
    assert versions["refused"] == dict(refused)
    budget = told(federated, "budget", "user-trusting-hot-0")
    assert budget["epsilon"] == pytest.approx(
        trusting.oracle_epsilon("default/user-trusting-hot-0"), rel=1e-6
    )
    assert told(federated, "budget", "user-gone")["revoked"]


def check_table(federated: Federated, run: FederatedRun, line: LineSettings, noise: Seed) -> None:
    """A table of 320,000 numbers goes through broker, windows, state and transaction."""
    rng = np.random.default_rng(4)
    updates = [
        device_update(line, f"table-{n}", 0, rng.standard_normal(line.dimension), bytes(32))
        for n in range(line.cohort_size)
    ]
    plain = PlainRun(line, noise)
    for update in updates:
        plain.take(update)
    run.send([Arrival(f"default/{update.user_id}", encode(update)) for update in updates])
    assert len(encode(updates[0])) < 700_000

    def newest() -> bytes:
        models = federated.records(EDGE_MODELS.name, "EdgeModel")
        found: bytes = [model for model in models if model.model_line == "table"][-1].weights
        return found

    wanted = plain.state.weights.tobytes()
    until(lambda: newest() == wanted, 60, "the table of the plain run", 1.0)


def check_masked(federated: Federated, run: FederatedRun) -> None:
    """Four devices add their numbers under masks, one is gone after it has shared: the version is the others' sum."""

    def newest() -> EdgeModel:
        models = federated.records(EDGE_MODELS.name, "EdgeModel")
        found: EdgeModel = [model for model in models if model.model_line == "masked"][-1]
        return found

    model, rng = newest(), np.random.default_rng(6)
    members = [
        SecureContribution(
            model, ("default", f"masked-{n}", f"d-{n}"), rng.standard_normal(64), bytes([n] * 32), bytes([9, n] * 16)
        )
        for n in range(4)
    ]  # fmt: skip

    sent: list[EdgeUpdate] = []

    def send(updates: list[EdgeUpdate]) -> None:
        sent.extend(updates)
        run.send([Arrival(f"default/{update.user_id}", encode(update)) for update in updates])

    send([member.join() for member in members])
    heard = 0
    began_s = time.monotonic()
    while newest().version == 0:
        told_now = federated.records(EDGE_COHORTS.name, "EdgeCohort")
        assert time.monotonic() < began_s + SLOWER * 90.0, [one.phase for one in told_now]
        told_now = told_now[heard:]
        heard += len(told_now)
        for one in told_now:
            there = members if one.phase in ("roster", "shares") else members[:3]
            send([answer for answer in (member.on_told(one) for member in there) if answer is not None])
        time.sleep(0.3)
    total = np.sum([member.units for member in members[:3]], axis=0)
    assert newest().weights == (total * UNIT / 3).astype("<f8").tobytes()
    assert (newest().cohort_size, newest().trigger) == (3, "timeout")
    for update in sent:
        if update.secure == "masked":
            n = int(update.user_id.removeprefix("masked-"))
            assert not (np.frombuffer(update.payload, "<i8") == members[n].units).any()


def check_sealed(federated: Federated, run: FederatedRun, line: LineSettings) -> None:
    """Four devices encrypt, one of them twice; the key holder opens the job's sum, and it is exactly theirs."""
    keys, rng = federated.folder / "keys", np.random.default_rng(8)
    device = HeadEncryption((keys / "heads.public").read_bytes())
    updates = [
        device_update(line, f"sealed-{n}", 0, rng.standard_normal(64), bytes([n] * 32), device.encrypt)
        for n in range(4)
    ]
    run.send([Arrival(f"default/{update.user_id}", encode(update)) for update in [updates[0], *updates]])

    def opened() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = told(
            federated, "key", "open", "sealed", "--secret", str(keys / "heads.secret")
        )["opened"]
        return found

    made: list[dict[str, Any]] = []
    until(lambda: bool(made.extend(opened()) or made), 60, "the sealed sum", 1.0)
    assert made == [{"version": 1, "cohort_size": 4, "trigger": "full"}]
    assert opened() == [], "a version is published once"
    models = federated.records(EDGE_MODELS.name, "EdgeModel")
    (version,) = [model for model in models if (model.model_line, model.version) == ("sealed", 1)]
    how, rng = number_quantiser(line.terms(1.0)), np.random.default_rng(8)
    rows = [
        how.unpack(
            privatise(rng.standard_normal(64), line.terms(1.0), bytes([n] * 32), f"sealed/0/sealed-{n}".encode(), how)
            .payload,
            64,
        )
        for n in range(4)
    ]  # fmt: skip
    assert version.weights == (np.sum(rows, axis=0) * UNIT / 4).astype("<f8").tobytes()


def told(federated: Federated, *command: str) -> dict[str, Any]:
    """What `tailrace fed` prints as JSON."""
    done = CliRunner().invoke(app, ["fed", *command, "--config", str(federated.config), "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check_letters(federated: Federated, refused: Counter[str]) -> None:
    """Each refusal is in the dead letters once or more, with its place, and none has a number of a device."""

    def letters() -> dict[int, str]:
        found = federated.records(DEAD_LETTERS.name, "DeadLetter")
        for letter in found:
            assert (letter.topic, letter.job) == (EDGE_UPDATES.name, "federate")
            assert letter.value == b"" or decode("EdgeUpdate", letter.value).payload == b""
        return {(letter.partition, letter.offset): letter.reason for letter in found}

    until(lambda: Counter(letters().values()) == refused, 30, lambda: f"{refused}, got {letters()}")
