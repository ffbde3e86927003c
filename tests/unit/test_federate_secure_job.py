"""Cohorts under masks through both steps of the job: sums alone are opened, members may leave at every step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from math import sqrt
from typing import Any

import numpy as np
import pytest
from test_federate_shells import (
    HEAD,
    SHARDS,
    Job,
    LineShell,
    Store,
    Task,
    records,
    settings_of,
    store,
    update,
)

from clients.edge.secure_contribution import SecureContribution
from flink_jobs.settings import SettingsError
from flink_jobs.shards import shard_of
from schemas.ids import user_key
from schemas.records import EdgeModel, EdgeUpdate
from udfs.federate.contribution import SecurePacket
from udfs.federate.secure_sum import SecureSumError
from udfs.privacy.fixed_point import UNIT

__all__ = ["store"]

MEMBERS = 6
SECURE = {
    **HEAD, "mode": "distributed", "noise_multiplier": 4.0, "secure": True, "cohort_size": MEMBERS, "cohort_min": 4,
    "timeout_ms": 1_000,
}  # fmt: skip


class Fleet:
    """Devices of a line under masks, the topic in which they are told things, and time."""

    def __init__(self, job: Job, count: int = MEMBERS, **more: Any) -> None:
        self.job, self.place, self.now_ms, self.heard = job, 0, 0, 0
        model = next(model for model in reversed(job.models) if model.model_line == "head")
        rng = np.random.default_rng(9)
        self.deltas = rng.standard_normal((count, 16)) * 0.1
        self.members = [
            SecureContribution(
                model, ("default", f"user-{n}", f"client-{n}"), self.deltas[n],
                bytes([n, 1] * 16), bytes([n, 2] * 16), **more,
            )
            for n in range(count)
        ]  # fmt: skip
        self.sent: list[EdgeUpdate] = []
        self.units = [member.units for member in self.members]

    def send(self, updates: Collection[EdgeUpdate | None]) -> None:
        there = [update for update in updates if update is not None]
        self.sent += there
        self.now_ms += 1
        self.job.read(records(there, self.place, self.now_ms), self.now_ms)
        self.place += len(there)

    def hear(self, which: Collection[int]) -> list[EdgeUpdate | None]:
        """Give all that was told since to the devices that are still there; their answers."""
        told, self.heard = self.job.told[self.heard :], len(self.job.told)
        answers = []
        for one in told:
            answers += [self.members[n].on_told(one) for n in which]
        return answers

    def wait(self) -> None:
        """Let the phase's time pass."""
        self.now_ms += 12_000
        self.job.read([], self.now_ms)


def opened(settings: Any) -> Job:
    job = Job(settings)
    job.read([], 0)  # version 0
    return job


def run(fleet: Fleet, share: Collection[int], mask: Collection[int], open_: Collection[int]) -> None:
    """One cohort, of which fewer and fewer members are there."""
    fleet.send([member.join() for member in fleet.members])
    fleet.send(fleet.hear(share))
    if len(share) < len(fleet.members):
        fleet.wait()
    fleet.send(fleet.hear(mask))
    if len(mask) < len(share):
        fleet.wait()
    fleet.send(fleet.hear(open_))
    if len(open_) < len(mask):
        fleet.wait()
    fleet.send(fleet.hear(open_))


def version(job: Job) -> EdgeModel:
    return job.models[-1]


EVERYBODY = range(MEMBERS)


@pytest.mark.parametrize(
    ("share", "mask", "open_"),
    [
        (EVERYBODY, EVERYBODY, EVERYBODY),
        (EVERYBODY, [0, 1, 3, 4, 5], [0, 1, 3, 4, 5]),
        ([0, 2, 3, 4, 5], [0, 2, 3, 4, 5], [0, 2, 3, 4, 5]),
        (EVERYBODY, EVERYBODY, [0, 1, 2, 4, 5]),
    ],
    ids=["all", "gone after sharing", "gone before", "one does not open"],
)
def test_a_version_is_the_sum_of_those_who_remained_and_nothing_else_is_opened(
    share: Collection[int], mask: Collection[int], open_: Collection[int]
) -> None:
    job = opened(settings_of(SECURE))
    fleet = Fleet(job)
    run(fleet, share, mask, open_)
    made = version(job)
    assert (made.version, made.cohort_size, made.mode) == (1, len(mask), "distributed")
    total = np.sum([fleet.units[n] for n in mask], axis=0)
    assert made.weights == (total * UNIT / len(mask)).astype("<f8").tobytes()
    assert [told.phase for told in job.told if told.phase != "shares"] == ["roster", "mask", "open", "agreed"]
    assert not job.letters
    for sent in fleet.sent:
        if sent.secure == "masked":
            number = int(sent.user_id.removeprefix("user-"))
            masked = np.frombuffer(sent.payload, "<i8")
            assert not (masked == fleet.units[number]).any()


def test_masked_numbers_look_like_random_bits() -> None:
    job = opened(settings_of({**SECURE, "dimension": 4_096}))
    fleet = Fleet(job, count=0)
    model = version(job)
    fleet.members = [
        SecureContribution(
            model, ("default", f"user-{n}", "c"), np.zeros(4_096), bytes([n, 1] * 16), bytes([n, 2] * 16)
        )
        for n in range(MEMBERS)
    ]
    fleet.send([member.join() for member in fleet.members])
    fleet.send(fleet.hear(EVERYBODY))
    fleet.send(fleet.hear(EVERYBODY))
    masked = [update for update in fleet.sent if update.secure == "masked"]
    assert len(masked) == MEMBERS
    counts = np.bincount(np.frombuffer(b"".join(one.payload for one in masked), np.uint8), minlength=256)
    expected = counts.sum() / 256
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_square - 255) < 3.3 * sqrt(2 * 255)
    stored = [blob for state in job.lines.of("sums") for blob in state.values()]
    assert len(stored) == 1, "one running sum, however many members"


@pytest.mark.parametrize(
    ("share", "mask", "open_"),
    [(range(4), [], []), (EVERYBODY, range(4), []), (EVERYBODY, EVERYBODY, range(4))],
    ids=["too few share", "too few mask", "too few open"],
)
def test_below_the_threshold_nothing_is_opened_and_others_may_form_a_cohort(
    share: Collection[int], mask: Collection[int], open_: Collection[int]
) -> None:
    job = opened(settings_of(SECURE))
    fleet = Fleet(job)
    run(fleet, share, mask, open_)
    fleet.wait()
    fleet.wait()
    assert version(job).version == 0
    assert job.told[-1].phase == "over"
    assert not any(state for state in job.lines.of("sums"))
    others = Fleet(job, 2 * MEMBERS)
    others.now_ms, others.heard, others.members = fleet.now_ms, len(job.told), others.members[MEMBERS:]
    others.units, others.place = others.units[MEMBERS:], 1_000
    run(others, EVERYBODY, EVERYBODY, EVERYBODY)
    assert version(job).version == 1
    assert version(job).weights == (np.sum(others.units, axis=0) * UNIT / MEMBERS).astype("<f8").tobytes()


def test_a_cohort_goes_on_from_a_checkpoint_and_gives_the_same_bytes() -> None:
    settings = settings_of(SECURE)
    whole = opened(settings)
    run(Fleet(whole), EVERYBODY, EVERYBODY, EVERYBODY)
    job = opened(settings)
    fleet = Fleet(job)
    for _ in range(5):
        again = Job(settings, copy.deepcopy(job.states))
        again.models, again.told = list(job.models), list(job.told)
        fleet.job = job = again
        fleet.send([member.join() for member in fleet.members] if not job.told else fleet.hear(EVERYBODY))
    assert version(job) == version(whole)._replace(released_time=version(job).released_time)


def test_only_masked_numbers_are_charged_and_a_user_who_took_consent_back_sends_nothing(store: Any) -> None:
    job = opened(settings_of(SECURE))
    fleet = Fleet(job)
    fleet.send([member.join() for member in fleet.members])
    fleet.send(fleet.hear(EVERYBODY))
    assert not any(budget["contributions"] for budget in store.budgets.values())
    fleet.send(fleet.hear(EVERYBODY))
    assert {budget["contributions"] for budget in store.budgets.values()} == {1}
    fleet.send([fleet.members[0].join()._replace(consent="none")])
    assert [letter.reason for letter in job.letters] == ["consent_missing"]


REFUSED: dict[str, tuple[Callable[[EdgeUpdate], EdgeUpdate], str]] = {
    "plain numbers": (lambda one: one._replace(secure=None, bits=32, payload=bytes(64)), "wrong_terms"),
    "no such message": (lambda one: one._replace(secure="hello"), "wrong_terms"),
    "half a key": (lambda one: one._replace(payload=one.payload[:100]), "wrong_shape"),
    "out of turn": (lambda one: one._replace(secure="shares", payload=bytes(148)), "cohort_closed"),
    "of an older version": (lambda one: one._replace(base_version=3), "stale_update"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_does_not_belong_into_a_cohort_is_refused_without_its_numbers(name: str) -> None:
    change, reason = REFUSED[name]
    job = opened(settings_of(SECURE))
    fleet = Fleet(job)
    fleet.send([change(fleet.members[0].join())])
    assert [letter.reason for letter in job.letters] == [reason]


def test_a_stranger_and_a_repeat_change_nothing() -> None:
    job = opened(settings_of(SECURE))
    fleet = Fleet(job, MEMBERS + 1)
    stranger = fleet.members.pop()
    fleet.units.pop()
    fleet.send([member.join() for member in fleet.members for _ in range(2)])
    fleet.send([*fleet.hear(EVERYBODY), stranger.join()])
    for _ in range(3):
        fleet.send([one for one in fleet.hear(EVERYBODY) for _ in range(2)])
    made = version(job)
    assert made.cohort_size == MEMBERS
    assert made.weights == (np.sum(fleet.units, axis=0) * UNIT / MEMBERS).astype("<f8").tobytes()
    assert {letter.reason for letter in job.letters} <= {"cohort_closed", "stale_update"}


def test_a_sum_that_is_out_of_reach_is_not_released() -> None:
    job = opened(settings_of(SECURE))
    fleet = Fleet(job)
    fleet.members[0].units = np.full(16, 1 << 50)
    run(fleet, EVERYBODY, EVERYBODY, EVERYBODY)
    assert version(job).version == 0
    assert job.told[-1].phase == "over"


def test_a_job_that_tells_two_stories_of_who_is_gone_gets_nothing_opened() -> None:
    job = opened(settings_of(SECURE))
    fleet = Fleet(job)
    fleet.send([member.join() for member in fleet.members])
    fleet.send(fleet.hear(EVERYBODY))
    fleet.send(fleet.hear(EVERYBODY))
    (told,) = [one for one in job.told if one.phase == "open"]
    fleet.heard = len(job.told)
    stories = [told if n < 3 else told._replace(members=told.members[:5]) for n in EVERYBODY]
    fleet.send([fleet.members[n].on_told(stories[n]) for n in range(5)])
    fleet.wait()
    (agreed,) = job.told[fleet.heard :]
    assert (agreed.phase, len(agreed.members)) == ("agreed", 5)
    for n in range(5):
        with pytest.raises(SecureSumError, match="told the same"):
            fleet.members[n].on_told(agreed)
    with pytest.raises(SecureSumError, match="told before"):
        fleet.members[0].on_told(told._replace(members=told.members[:5]))


def test_a_device_asks_whose_keys_it_is_given_and_wants_a_threshold_that_protects() -> None:
    job = opened(settings_of(SECURE))
    fleet = Fleet(job, knows=lambda name, keys: name != user_key("default", "user-3"))
    fleet.send([member.join() for member in fleet.members])
    with pytest.raises(SecureSumError, match="user-3"):
        fleet.hear([0])
    trusting = Fleet(opened(settings_of(SECURE)))
    trusting.send([member.join() for member in trusting.members])
    (roster,) = trusting.job.told
    with pytest.raises(SecureSumError, match="threshold"):
        trusting.members[0].on_told(roster._replace(threshold=3))


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "central"}, {"cohort_size": 41}, {"dimension": 40_000}, {"cohort_min": 1},
        {"robust_rule": "trimmed_mean"},
    ],
)  # fmt: skip
def test_a_line_under_masks_that_breaks_a_promise_is_no_setting(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        settings_of({**SECURE, **wrong})


def test_masks_are_not_put_on_or_taken_off_a_line_that_has_begun() -> None:
    plain = settings_of({**SECURE, "secure": False})
    job = opened(plain)
    job.read(records([update(plain, "early")]))
    masked = Job(settings_of(SECURE), job.states)
    masked.models = list(job.models)
    fleet = Fleet(masked)
    with pytest.raises(ValueError, match="give the line another name"):
        run(fleet, EVERYBODY, EVERYBODY, EVERYBODY)
    begun = opened(settings_of(SECURE))
    Fleet(begun).send([Fleet(begun).members[0].join()])
    with pytest.raises(ValueError, match="was added under masks or encrypted before"):
        Job(plain, begun.states).read([], 0)


def test_messages_for_a_line_that_is_learnt_no_more_are_counted(store: Store) -> None:
    lines = Task(LineShell(settings_of(SECURE)))
    packets = [SecurePacket("gone", 5, 0, place, b"").encode() for place in range(3)]
    shard = shard_of("head", SHARDS)
    list(lines.run(shard, (packets, len(packets)), 100))
    assert store.counts[f"lines-{shard}"] == {"unknown_line": 3}
