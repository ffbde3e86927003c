"""Encrypted heads through both steps of the job, to the key holder and back: exact, charged, and read by nobody."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federate_examples import KEY
from test_federate_shells import HEAD, Job, reasons, records, settings_of, store

from clients.edge.ckks import HeadEncryption, Keys, SumOpening, make_keys
from flink_jobs.federate_settings import model_lines
from flink_jobs.settings import SettingsError
from schemas.codec import decode, encode
from schemas.records import EdgeModel, EdgeUpdate
from tailrace.errors import UserError
from tailrace.federated_key import opened
from udfs.federate.audit import device_update
from udfs.federate.ciphertext import CIPHERTEXT_BYTES, MODULUS, number_quantiser
from udfs.federate.encrypted_line import SEALED, EncryptedLogic, EncryptedState
from udfs.federate.line import LineLogic
from udfs.federate.line_state import LineHead
from udfs.federate.opened_sum import NOT_OPENED
from udfs.federate.release import Seed
from udfs.privacy.client_update import privatise
from udfs.privacy.fixed_point import UNIT

__all__ = ["store"]

HEADS = 6
DELTAS = np.random.default_rng(3).standard_normal((3 * HEADS, 16)) * 0.4


class Line:
    """A line whose devices encrypt, and the holder of its key."""

    def __init__(self, keys: Keys, folder: Path, **more: Any) -> None:
        self.given = {
            **HEAD, "mode": "distributed", "noise_multiplier": 4.0, "cohort_size": HEADS, "cohort_min": 4,
            "timeout_ms": 1_000, "encryption_key": keys.name, **more,
        }  # fmt: skip
        self.settings = settings_of(self.given)
        self.line = model_lines(self.settings.federate)["head"]
        self.folder = folder
        self._device, self._opening = HeadEncryption(keys.public), SumOpening(keys.secret)

    def update(self, n: int, base: int = 0) -> EdgeUpdate:
        one = device_update(self.line, f"{n}", base, DELTAS[n], KEY, self._device.encrypt)
        return one._replace(update_id=f"{n}-{base}")

    def job(self) -> Job:
        job = Job(self.settings)
        job.read([], 0)  # version 0
        return job

    def open(self, versions: Iterable[EdgeModel], told: Iterable[Any]) -> list[EdgeModel]:
        """What the key holder publishes."""
        made: list[EdgeModel] = []

        def deliver(key: str, value: bytes) -> None:
            found = decode("EdgeModel", value)
            assert isinstance(found, EdgeModel)
            assert key == f"head/{found.version}"
            made.append(found)

        yielded = list(
            opened(self.line, self._opening, versions, told, self.folder / "heads.opened", deliver)
        )
        assert yielded == made
        return made

    def mean(self, members: Iterable[int], base: int = 0) -> bytes:
        """The mean of what devices encrypted, computed in the clear."""
        terms = self.line.terms(1.0)
        how = number_quantiser(terms)
        rows = [
            how.unpack(privatise(DELTAS[n], terms, KEY, f"head/{base}/{n}".encode(), how).payload, 16)
            for n in members
        ]
        return (np.sum(rows, axis=0) * UNIT / len(rows)).astype("<f8").tobytes()


@pytest.fixture(scope="module")
def keys() -> Keys:
    pytest.importorskip("tenseal", reason="TenSEAL is not installed: the extra `encryption`")
    return make_keys()


@pytest.fixture
def line(keys: Keys, tmp_path: Path) -> Line:
    return Line(keys, tmp_path)


def test_the_opened_version_is_the_mean_of_what_was_encrypted_bit_for_bit(line: Line) -> None:
    job = line.job()
    job.read(records([line.update(n) for n in range(HEADS)]))
    (told,) = job.told
    assert (told.phase, told.cohort, told.members, len(told.payload)) == (SEALED, 1, (), CIPHERTEXT_BYTES)
    assert [model.version for model in job.models] == [0], "the job publishes no version that it cannot read"
    (made,) = line.open(job.models, job.told)
    assert made.weights == line.mean(range(HEADS))
    assert (made.version, made.cohort_size, made.mode, made.trigger) == (1, HEADS, "distributed", "full")
    assert (made.epsilon, made.clip_norm, made.encryption) == (
        line.line.terms(1.0).epsilon,
        1.0,
        line.line.encryption_key,
    )
    assert made.signal_to_noise is not None
    job.read(records([line.update(n, 1) for n in range(HEADS)], HEADS, 2_000))
    (second,) = line.open([*job.models, made], job.told)
    assert np.allclose(
        np.frombuffer(second.weights), np.frombuffer(made.weights) + np.frombuffer(line.mean(range(HEADS), 1))
    )
    assert not job.letters


def test_state_has_one_ciphertext_however_many_heads_and_a_checkpoint_gives_the_same_sum(line: Line) -> None:
    updates = [line.update(n) for n in range(HEADS)]
    whole = line.job()
    whole.read(records(updates))
    for order in (updates[2:], updates[:1:-1]):
        job = line.job()
        job.read(records(updates[:2]))
        sums = [blob for state in job.lines.of("sums") for blob in state.values()]
        assert len(sums) == 1
        assert CIPHERTEXT_BYTES <= len(sums[0]) < CIPHERTEXT_BYTES + 64
        job = Job(line.settings, copy.deepcopy(job.states))
        for place, one in enumerate(order):
            job.read(records([one], 2 + place))
        assert job.told[-1].payload == whole.told[-1].payload
        assert not any(state for state in job.lines.of("sums"))
    seen = [decode("EdgeModel", told.release) for told in (whole.told[-1], job.told[-1])]
    assert seen[0].cohort_digest == seen[1].cohort_digest


def test_after_the_timeout_enough_heads_are_sealed_and_fewer_never_are(line: Line) -> None:
    job = line.job()
    job.read(records([line.update(n) for n in range(3)]), 20_000)
    job.read([], 90_000)
    assert not job.told, "three of at least four"
    job.read(records([line.update(3)], 3, 1_500), 90_000)
    (made,) = line.open(job.models, job.told)
    assert (made.cohort_size, made.trigger, made.weights) == (4, "timeout", line.mean(range(4)))


def test_stale_heads_count_like_others_until_they_are_too_old(keys: Keys, tmp_path: Path) -> None:
    line = Line(keys, tmp_path, max_staleness=1)
    job = line.job()
    job.read(records([line.update(n) for n in range(HEADS)]))
    job.read(records([line.update(n) for n in range(HEADS, HEADS + 2)], 6, 2_000))
    job.read(records([line.update(n, 1) for n in range(4)], 8, 2_100))
    made = line.open(job.models, job.told)
    assert [(one.version, one.cohort_size, one.max_staleness) for one in made] == [(1, 6, 0), (2, 6, 1)]
    job.read(records([line.update(9)], 20, 3_000))
    assert reasons(job) == ["stale_update"]


REFUSED: dict[str, tuple[Callable[[EdgeUpdate], EdgeUpdate], str]] = {
    "in the clear": (lambda one: one._replace(encryption=None, bits=16, payload=bytes(32)), "wrong_terms"),
    "under another key": (lambda one: one._replace(encryption="0" * 64), "wrong_terms"),
    "as a message of masks": (lambda one: one._replace(secure="masked"), "wrong_terms"),
    "of another step": (lambda one: one._replace(step=one.step * 2), "wrong_terms"),
    "of another clip": (lambda one: one._replace(clip_norm=0.5), "wrong_terms"),
    "cut short": (lambda one: one._replace(payload=one.payload[:-8]), "wrong_shape"),
    "beyond the modulus": (
        lambda one: one._replace(payload=one.payload[:-8] + MODULUS.to_bytes(8, "little")), "bad_value",
    ),
    "of a version to come": (lambda one: one._replace(base_version=7), "unknown_base"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_no_head_of_the_line_is_refused_and_its_letter_has_no_ciphertext(
    line: Line, name: str
) -> None:
    change, reason = REFUSED[name]
    job = line.job()
    job.read(records([change(line.update(0))]))
    assert reasons(job) == [reason]
    assert all(
        letter.value == b"" or decode("EdgeUpdate", letter.value).payload == b"" for letter in job.letters
    )
    job.read(records([line.update(n) for n in range(1, HEADS + 1)], 9))
    assert line.open(job.models, job.told)[0].weights == line.mean(range(1, HEADS + 1))


def test_a_repeat_is_added_once_and_a_second_head_of_a_user_not_at_all(line: Line) -> None:
    job = line.job()
    first = line.update(0)
    again = line.update(0)._replace(update_id="another")
    job.read(records([first, first, again, *[line.update(n) for n in range(1, HEADS)], first]))
    (made,) = line.open(job.models, job.told)
    assert made.weights == line.mean(range(HEADS))
    assert reasons(job) == ["already_contributed"]


def test_the_line_itself_takes_a_head_once_and_a_user_once(line: Line) -> None:
    """Behind the ledgers, whose memory of repeats is short."""
    logic = EncryptedLogic(LineLogic(line.line, 4.0, Seed("", b"")))
    first = line.update(0)
    once = logic.on_update(EncryptedState(LineHead(0, (1.0,))), first, 5)
    again = logic.on_update(once.state, first, 6)
    assert (again.state, again.counts, again.refused) == (once.state, ("duplicate",), None)
    other = logic.on_update(once.state, line.update(0)._replace(update_id="another"), 6)
    assert other.state == once.state
    assert other.refused is not None
    assert other.refused.reason == "already_contributed"


def test_heads_are_charged_to_the_budget_like_numbers_in_the_clear(line: Line, store: Any) -> None:
    epsilon = line.line.terms(1.0).epsilon
    settings = settings_of(line.given, budget_epsilon=epsilon * 1.2)
    job = Job(settings)
    job.read([], 0)
    job.read(records([line.update(n) for n in range(HEADS)]))
    assert store.budgets["default/user-0"]["epsilon"] == pytest.approx(epsilon, rel=1e-6)
    job.read(records([line.update(0, 1)], 50))
    assert reasons(job) == ["budget_spent"]


def test_the_key_holder_opens_one_sum_of_a_version_and_none_of_too_few_heads(line: Line) -> None:
    job = line.job()
    job.read(records([line.update(n) for n in range(HEADS)]))
    other = line.job()
    other.read(records([line.update(n) for n in range(1, HEADS + 1)]))
    made = line.open(job.models, job.told)
    assert line.open(job.models, job.told) == made, "the same sum gives the same bytes"
    assert json.loads((line.folder / "heads.opened").read_bytes()).keys() == {"1"}
    with pytest.raises(UserError, match="second sum of one version"):
        line.open(job.models, other.told)
    with pytest.raises(UserError, match="second sum of one version"):
        line.open([*job.models, *made], other.told)
    record = decode("EdgeModel", job.told[0].release)
    line.folder = line.folder / "new"
    line.folder.mkdir()
    for wrong, says in (
        ({"cohort_size": 3}, "wanted 4 to 6 heads"),
        ({"noise_multiplier": 1.0}, "noise"),
        ({"delta": 0.1}, "delta"),
        ({"encryption": None}, "encryption key"),
        ({"version": 2}, "version"),
    ):
        told = job.told[0]._replace(release=encode(record._replace(**wrong)))
        with pytest.raises(UserError, match=says):
            line.open(job.models, [told])
    with pytest.raises(UserError, match="cohort_min"):
        line.open(job.models, [job.told[0]._replace(threshold=2)])
    with pytest.raises(UserError, match="not published"):
        line.open([], job.told)
    assert not (line.folder / "heads.opened").exists(), "nothing was opened"


def test_a_sum_that_cannot_be_one_of_its_heads_makes_a_version_that_changes_nothing(line: Line) -> None:
    job = line.job()
    poisoned = np.random.default_rng(1).integers(0, MODULUS, CIPHERTEXT_BYTES // 8, np.uint64)
    bad = line.update(0)._replace(payload=poisoned.tobytes())
    job.read(records([bad, *[line.update(n) for n in range(1, HEADS)]]))
    miscounted = line.job()
    record = decode("EdgeModel", job.told[0].release)
    miscounted.read(records([line.update(n) for n in range(HEADS)]))
    (made,) = line.open(job.models, job.told)
    assert (made.trigger, made.weights, made.version) == (NOT_OPENED, job.models[0].weights, 1)
    line.folder = line.folder / "new"
    line.folder.mkdir()
    fewer = miscounted.told[0]._replace(release=encode(record._replace(cohort_size=HEADS - 1)))
    (made,) = line.open(job.models, [fewer])
    assert made.trigger == NOT_OPENED, "six ones in a sum of five"
    job.read(records([line.update(n, 1) for n in range(6, 6 + HEADS)], 30))
    assert job.told[-1].cohort == 2, "the line goes on"


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "central"}, {"encryption_key": "abc"}, {"cohort_min": 1}, {"dimension": 2_048}, {"secure": True},
        {"robust_rule": "norm_bound"}, {"cohort_size": 1_025, "cohort_min": 1_000}, {"noise_multiplier": 1e-3},
    ],
    ids=str,
)  # fmt: skip
def test_an_encrypted_line_that_breaks_a_promise_is_no_setting(line: Line, wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        settings_of({**line.given, **wrong})


def test_a_line_that_has_begun_keeps_its_key(line: Line) -> None:
    plain = settings_of({**line.given, "encryption_key": ""})
    begun = line.job()
    begun.read(records([line.update(0)]))
    with pytest.raises(ValueError, match="give the line another name"):
        Job(plain, begun.states).read([], 0)
    with pytest.raises(ValueError, match="give the line another name"):
        Job(settings_of({**line.given, "encryption_key": "0" * 64}), begun.states).read([], 0)
    clear = Job(plain)
    clear.read([], 0)
    clear.read(records([device_update(model_lines(plain.federate)["head"], "early", 0, DELTAS[0], KEY)]))
    with pytest.raises(ValueError, match="give the line another name"):
        Job(line.settings, clear.states).read(records([line.update(1)]))


def test_in_local_mode_each_head_has_all_of_its_noise_inside(keys: Keys, tmp_path: Path) -> None:
    line = Line(keys, tmp_path, mode="local", noise_multiplier=8.0)
    job = line.job()
    job.read(records([line.update(n) for n in range(HEADS)]))
    (made,) = line.open(job.models, job.told)
    assert (made.mode, made.adjacency, made.weights) == ("local", "replace", line.mean(range(HEADS)))
    spread = np.std(np.frombuffer(made.weights)) * HEADS**0.5
    assert 4.0 < spread < 13.0
