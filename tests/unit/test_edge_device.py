"""A device: nothing leaves without consent and budget, and what left once leaves again bit for bit."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from federate_examples import SEED
from test_producer import FakeProducer

from clients.edge import device as device_module
from clients.edge.ckks import HeadEncryption, SumOpening, make_keys
from clients.edge.device import Device, Policy
from clients.edge.device_state import DeviceState, read_state, write_state
from clients.edge.examples import ExampleLog, Examples
from clients.edge.logistic_head import LogisticHead
from clients.edge.outbox import Outbox
from clients.edge.sender import EdgeSender
from schemas.codec import decode
from schemas.refusal import Refused
from udfs.federate.audit import model_after
from udfs.federate.line_settings import LineSettings
from udfs.federate.line_state import first_state
from udfs.federate.release import first_record
from udfs.federate.update_check import check_update
from udfs.privacy.fixed_point import UNIT
from udfs.privacy.gaussian import epsilon_of
from udfs.privacy.terms import Mode

D = 4
LINE = LineSettings("head", D, Mode.LOCAL, 8.0, 1e-5, 10, 5)
MODEL = first_record(first_state(np.zeros(D), 1.0), LINE, 10.0, 0)
DAY_MS = 86_400_000


def examples(count, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((count, D)).astype(np.float32)
    return Examples(features, (features[:, 0] > 0).astype(np.float32))


class Owner:
    """A device with its owner, who can change their mind and their clock."""

    def __init__(self, folder, name="u1", policy=None, seed=0, count=20):
        self.consent, self.now_ms, self.folder = "personalization", 0, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.log = ExampleLog(folder / "examples", D)
        self.log.append(*examples(count, seed))
        self.policy = policy or Policy(budget_epsilon=2.0)
        self.name = name
        self.device = self.start()

    def start(self):
        """The device after a restart: all that it knows is on disk."""
        numbers = itertools.count()
        return Device(
            self.folder, self.name, "phone", LogisticHead(), self.log, self.policy, lambda: self.consent,
            clock_ms=lambda: self.now_ms, new_id=lambda: f"id-{next(numbers)}",
        )  # fmt: skip


@pytest.fixture
def owner(tmp_path):
    return Owner(tmp_path / "device")


def version(number):
    return MODEL._replace(version=number)


def sent_by(device):
    sent = []
    device.send(lambda key, value: sent.append((key, value)))
    return sent


def test_a_device_sends_what_the_job_takes(owner):
    owner.device.contribute(MODEL)
    ((key, value),) = sent_by(owner.device)
    update = decode("EdgeUpdate", value)
    assert len(check_update(update, key, {"head": LINE})) == D
    assert (update.mode, update.base_version, update.consent) == ("local", 0, "personalization")
    assert owner.device.outbox.waiting() == []


def test_the_same_bytes_are_sent_until_they_arrive_also_after_a_restart(owner):
    owner.device.contribute(MODEL)
    tried = []

    def fails(key, value):
        tried.append(value)
        raise ConnectionError("no network")

    for device in (owner.device, owner.device, owner.start()):
        with pytest.raises(ConnectionError):
            device.send(fails)
        assert device.contribute(MODEL) is None, "nothing is computed again"
    ((_, arrived),) = sent_by(owner.start())
    assert {*tried, arrived} == {arrived}
    assert len(tried) == 3


def test_two_devices_with_the_same_data_send_different_noise(tmp_path):
    values = []
    for name in ("a", "b"):
        one = Owner(tmp_path / name)
        one.device.contribute(MODEL)
        values.append(decode("EdgeUpdate", sent_by(one.device)[0][1]).payload)
    assert values[0] != values[1]


@pytest.mark.parametrize("crash_in", ["write_state", "put"])
def test_a_crash_wastes_budget_at_most_and_never_makes_a_second_noise(owner, monkeypatch, crash_in):
    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        if crash_in == "write_state":
            broken.setattr(device_module, "write_state", crash)
        else:
            broken.setattr(Outbox, "put", crash)
        with pytest.raises(KeyboardInterrupt):
            owner.device.contribute(MODEL)
    again = owner.start()
    spent = read_state(owner.folder / "device.json").spent
    if crash_in == "write_state":
        assert (spent, again.outbox.waiting()) == (0, [])
        assert again.contribute(MODEL) is not None
    else:
        assert spent > 0
        assert again.contribute(MODEL) is None


def test_without_consent_nothing_is_made_and_what_waits_is_destroyed(owner):
    owner.device.contribute(MODEL)
    owner.consent = "essential"
    for call in (lambda: owner.device.contribute(version(1)), lambda: sent_by(owner.device)):
        with pytest.raises(Refused, match="consent_missing"):
            call()
    owner.consent = "personalization"
    assert sent_by(owner.device) == []


def test_consent_is_asked_before_every_send(owner):
    owner.device.contribute(MODEL)
    owner.log.append(*examples(5, 1))
    owner.device.contribute(version(1))
    sent = []

    def takes_back(key, value):
        sent.append(value)
        owner.consent = "none"

    with pytest.raises(Refused, match="consent_missing"):
        owner.device.send(takes_back)
    assert [decode("EdgeUpdate", value).base_version for value in sent] == [0], "the older version first"
    assert owner.device.outbox.waiting() == []


def test_a_device_goes_on_from_its_new_examples(owner):
    assert owner.device.contribute(MODEL) is not None
    assert owner.device.contribute(version(1)) is None, "nothing new to learn from"
    owner.log.append(*examples(3, 1))
    restarted = owner.start()
    assert restarted.contribute(version(1)) is not None
    assert restarted.contribute(version(1)) is None
    assert restarted.contribute(MODEL) is None, "an older version"
    assert read_state(owner.folder / "device.json").trained_until == {"head": 23}


def contribute_until_refused(owner, first_version=0):
    count = 0
    while True:
        owner.log.append(*examples(1, count))
        try:
            owner.start().contribute(version(first_version + count))
        except Refused as refused:
            assert refused.reason == "budget_spent"
            return count
        count += 1


def test_the_budget_ends_and_a_new_epoch_has_a_new_one(owner):
    count = contribute_until_refused(owner)
    mu = LINE.mu
    assert epsilon_of(mu * count**0.5, 1e-5) <= 2.0 < epsilon_of(mu * (count + 1) ** 0.5, 1e-5)
    owner.now_ms = 31 * DAY_MS
    assert contribute_until_refused(owner, 1000) == count
    owner.now_ms = 0
    assert contribute_until_refused(owner, 2000) == 0, "a clock that was turned back has no second budget"


def test_a_state_that_cannot_be_read_is_no_new_budget(owner):
    owner.device.contribute(MODEL)
    for content in ("", "{}", '{"format": 2}', "[]", '{"format": 1, "other": 3}'):
        (owner.folder / "device.json").write_text(content)
        with pytest.raises(ValueError, match="wanted the state of a device"):
            owner.start().contribute(version(1))


def test_the_state_survives_the_disk(tmp_path):
    state = DeviceState().in_epoch(3).charged(0.25, "head", 7, 40)
    write_state(tmp_path / "state", state)
    assert read_state(tmp_path / "state") == state
    assert json.loads((tmp_path / "state").read_text())["format"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"mode": "central"}, "wrong_terms"),
        ({"mode": "unknown"}, "wrong_terms"),
        ({"noise_multiplier": 0.0}, "budget_spent"),
        ({"noise_multiplier": 0.1}, "budget_spent"),
        ({"next_clip_norm": 1e9}, "wrong_terms"),
        ({"next_clip_norm": float("nan")}, "wrong_terms"),
        ({"weights": b"\0" * 8}, "wrong_shape"),
        ({"weights": np.full(D, np.nan).tobytes()}, "wrong_shape"),
    ],
)
def test_a_model_that_asks_for_more_than_the_owner_agreed_to_gets_nothing(owner, changed, reason):
    with pytest.raises(Refused) as caught:
        owner.device.contribute(MODEL._replace(**changed))
    assert caught.value.reason == reason
    assert owner.device.outbox.waiting() == []
    assert not (owner.folder / "device.json").exists()


def test_an_update_is_stored_once(tmp_path):
    outbox = Outbox(tmp_path)
    outbox.put("a", b"1")
    with pytest.raises(FileExistsError, match="stored once"):
        outbox.put("a", b"2")
    assert outbox.waiting() == [("a", b"1")]


def test_the_sender_puts_the_stored_bytes_under_the_user_s_key(owner):
    owner.device.contribute(MODEL)
    ((_, stored),) = owner.device.outbox.waiting()
    made = []

    def make(config):
        made.append(FakeProducer(config))
        return made[0]

    with EdgeSender("broker:9092", topic_prefix="x-", make_producer=make, clock_ms=lambda: 5) as sender:
        assert owner.device.send(sender.deliver) == 1
    assert made[0].records == [("x-edge.updates.v1", "default/u1", stored, 5)]


def test_an_update_that_the_brokers_do_not_take_stays(owner):
    owner.device.contribute(MODEL)
    made = []

    def make(config):
        made.append(FakeProducer(config))
        made[0].stuck = True
        return made[0]

    sender = EdgeSender("broker:9092", make_producer=make, delivery_wait_s=0.0)
    with pytest.raises(ConnectionError, match="was not taken"):
        owner.device.send(sender.deliver)
    assert len(owner.device.outbox.waiting()) == 1


@pytest.mark.parametrize(("mode", "noise"), [(Mode.LOCAL, 1.2), (Mode.CENTRAL, 8.0)])
def test_devices_together_learn_what_they_know(tmp_path, mode, noise):
    """All know that the first feature decides; the model that they make together knows it as well."""
    # Keys are random: the gate refuses one honest device in a thousand, so the cohort is full without the last few.
    # In local mode the right answers vary by .045 around .90 (25 repeats), with noise 2 by .07 around .83.
    line = LINE._replace(mode=mode, noise_multiplier=noise, cohort_size=75, cohort_min=75)
    model = first_record(first_state(np.zeros(D), 1.0), line, 10.0, 0)
    policy = Policy((mode,), budget_epsilon=10.0)
    arrivals = []
    for number in range(80):
        one = Owner(tmp_path / f"{number}", f"u{number}", policy, seed=number)
        one.device.contribute(model)
        arrivals += [decode("EdgeUpdate", value) for _, value in sent_by(one.device)]
    state = model_after(line, arrivals, SEED)
    assert state.head.version == 1
    unseen = examples(2000, 12_345)
    assert np.mean((unseen.features @ state.weights > 0) == unseen.labels) > 0.7


def test_a_device_with_a_public_key_sends_nothing_in_the_clear_and_one_without_joins_no_encrypted_line(
    tmp_path,
):
    pytest.importorskip("tenseal", reason="TenSEAL is not installed: the extra `encryption`")
    keys = make_keys()
    line = LINE._replace(encryption_key=keys.name).checked()
    model = first_record(first_state(np.zeros(D), 1.0), line, 10.0, 0)
    owner = Owner(tmp_path / "one")
    with pytest.raises(Refused, match="encryption"):
        owner.device.contribute(model)
    with_key = Device(
        tmp_path / "two", "u2", "phone", LogisticHead(), owner.log, owner.policy, lambda: "personalization",
        encryption=HeadEncryption(keys.public), clock_ms=lambda: 0,
    )  # fmt: skip
    for other in (MODEL, model._replace(encryption="0" * 64)):
        with pytest.raises(Refused, match="encryption"):
            with_key.contribute(other)
    assert sent_by(with_key) == [], "nothing was charged or stored"
    with_key.contribute(model)
    ((key, value),) = sent_by(with_key)
    update = decode("EdgeUpdate", value)
    assert check_update(update, key, {"head": line}).size == 0
    opened = SumOpening(keys.secret).open(update.payload, D)
    assert opened[-1] == 1
    noise_clips = np.abs(opened[:-1] * update.step * UNIT)
    assert 0.0 < noise_clips.max() < 8.0 * 6
    assert read_state(tmp_path / "two" / "device.json").epsilon(1e-5) > 0.0
