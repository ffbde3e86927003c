"""Both steps of the federate job without Flink: states in dictionaries, the plain run of the same logic beside it."""

from __future__ import annotations

import copy
import warnings
from math import inf
from typing import Any

import numpy as np
import pytest
from federate_examples import KEY

from flink_jobs.settings import SettingsError, load
from flink_jobs.shards import shard_keys, shard_of
from schemas.codec import decode, encode
from schemas.records import Control
from tests.state_in_memory import MapState, ValueState
from udfs.federate.audit import device_update, model_after
from udfs.federate.ledger import BudgetLogic
from udfs.federate.release import Seed

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # PyFlink's own, while it is imported
    from flink_jobs import federate_ledgers, federate_lines
    from flink_jobs.federate_ledgers import PACKET, SOURCES, LedgerShell
    from flink_jobs.federate_lines import COHORT, MODEL, LineShell
    from flink_jobs.federate_numbers import BLOCK_NUMBERS
    from flink_jobs.federate_settings import model_lines
    from flink_jobs.prefix import CONTROL, EDGE_UPDATES, SOURCE_STRIDE
    from flink_jobs.submit import shipped_settings

SHARDS, DAY_MS = 4, 86_400_000
NOISE = bytes(range(40, 72))
HEAD = {
    "dimension": 16, "mode": "central", "noise_multiplier": 4.0, "cohort_size": 12, "cohort_min": 3,
    "timeout_ms": 60_000,
}  # fmt: skip
WIDE = {**HEAD, "dimension": BLOCK_NUMBERS + 7, "mode": "local", "noise_multiplier": 8.0}
DELTA = np.linspace(-1.0, 1.0, 16)


class Store:
    """Takes what the job tells of itself."""

    def __init__(self) -> None:
        self.budgets: dict[str, Any] = {}
        self.counts: dict[str, Any] = {}

    def put_budgets(self, budgets: Any) -> None:
        self.budgets.update(budgets)

    def put_shard_counts(self, job: str, name: str, counts: Any) -> None:
        self.counts[name] = dict(counts)


class Task:
    """A keyed function, all of its shards in one task."""

    def __init__(self, function: Any, states: Any = None) -> None:
        self.states: dict[Any, Any] = {} if states is None else copy.deepcopy(states)
        self.key, self.now_ms = 0, 0
        self._function = function
        function.open(self)

    def run(self, shard: int, value: Any, now_ms: int) -> list[Any]:
        self.key, self.now_ms = shard_keys(SHARDS)[shard], now_ms
        return list(self._function.process_element(value, self))

    def of(self, name: str) -> list[Any]:
        return [state for (_, named), state in self.states.items() if named == name]

    def get_map_state(self, descriptor: Any) -> Any:
        return _State(self, MapState, descriptor.name)

    def get_state(self, descriptor: Any) -> Any:
        return _State(self, ValueState, descriptor.name)

    def get_current_key(self) -> int:
        return self.key

    def timer_service(self) -> Task:
        return self

    def current_processing_time(self) -> int:
        return self.now_ms


class _State:
    def __init__(self, task: Task, kind: type, name: str) -> None:
        self._task, self._kind, self._name = task, kind, name

    def __getattr__(self, method: str) -> Any:
        return getattr(self._task.states.setdefault((self._task.key, self._name), self._kind()), method)


class Job:
    """Both steps, and all that left them."""

    def __init__(self, settings: Any, states: Any = (None, None)) -> None:
        self.settings = settings
        self.ledgers = Task(LedgerShell(settings), states[0])
        self.lines = Task(LineShell(settings), states[1])
        self.letters: list[Any] = []
        self.models: list[Any] = []
        self.told: list[Any] = []

    @property
    def states(self) -> Any:
        return self.ledgers.states, self.lines.states

    def read(self, records: Any, tick_ms: int | None = None) -> None:
        """Take (topic, key, value, partition, offset, at_ms) through both steps, a window each."""
        packets: dict[int, list[bytes]] = {}
        for shard in range(SHARDS):
            some = [one for one in records if shard_of(one[1], SHARDS) == shard]
            if some:
                topics, keys, values, partitions, offsets, times = zip(*some, strict=True)
                places = [
                    SOURCES.index(topic) * SOURCE_STRIDE + partition
                    for topic, partition in zip(topics, partitions, strict=True)
                ]
                rows = self.ledgers.run(shard, (keys, values, places, offsets, times, 0), 0)
                for kind, to_shard, key, payload in rows:
                    if kind == PACKET:
                        packets.setdefault(to_shard, []).append(payload)
                    else:
                        self._letter(key, payload)
        now_ms = max((one[5] for one in records), default=0) if tick_ms is None else tick_ms
        for shard in {shard_of(name, SHARDS) for name in self.settings.federate.lines}:
            some = [*packets.get(shard, []), b""]
            for kind, key, payload in self.lines.run(shard, (some, len(some)), now_ms):
                if kind == COHORT:
                    self.told.append(decode("EdgeCohort", payload))
                elif kind == MODEL:
                    self.models.append(decode("EdgeModel", payload))
                    assert key == f"{self.models[-1].model_line}/{self.models[-1].version}"
                else:
                    self._letter(key, payload)

    def _letter(self, key: str, payload: bytes) -> None:
        letter = decode("DeadLetter", payload)
        assert letter.key.decode() == key
        self.letters.append(letter)


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store()
    for module in (federate_ledgers, federate_lines):
        monkeypatch.setattr(module, "open_store", lambda settings: store)
    monkeypatch.setenv("TAILRACE_FEDERATE__NOISE_KEY", NOISE.hex())
    return store


def settings_of(line: dict[str, Any] = HEAD, **federate: Any) -> Any:
    return load(environment={}, job={"shards": SHARDS}, federate={"lines": {"head": line}, **federate})


def update(settings: Any, name: str, base: int = 0, delta: Any = DELTA) -> Any:
    line = model_lines(settings.federate)["head"]
    return device_update(line, name, base, delta, KEY)._replace(update_id=f"{name}-{base}")


def records(updates: Any, first: int = 0, at_ms: int = 1_000) -> list[Any]:
    return [
        (EDGE_UPDATES, f"default/{one.user_id}", encode(one), place % 3, first + place, at_ms + place)
        for place, one in enumerate(updates)
    ]


def reasons(job: Job) -> list[str]:
    return [letter.reason for letter in job.letters]


@pytest.mark.parametrize("line", [HEAD, WIDE], ids=["central", "wide"])
def test_versions_are_those_of_the_plain_run_though_the_job_went_back_to_a_checkpoint(line: Any) -> None:
    settings = settings_of(line, budget_epsilon=None)
    rng = np.random.default_rng(1)
    waves = [
        [update(settings, f"{n}", base, rng.standard_normal(line["dimension"])) for n in range(12)]
        for base in range(3)
    ]
    job = Job(settings)
    job.read(records(waves[0]))
    job.read(records(waves[1][:5], 12))
    checkpoint = copy.deepcopy(job.states)
    published = list(job.models)
    lost = Job(settings, checkpoint)
    lost.read(records(waves[1][5:], 17))  # released, and never committed
    job = Job(settings, checkpoint)
    again = [*waves[1][7:], *waves[1][5:7], *waves[1][:3]]  # another order, and some once more
    for place, one in enumerate(again):
        job.read(records([one], 40 + place))
    job.read(records(waves[2], 60))
    wanted = model_after(
        model_lines(settings.federate)["head"],
        [one for wave in waves for one in wave],
        Seed("key-1", NOISE),
        BudgetLogic(model_lines(settings.federate), inf, 1e-5, 1 << 40),
    )
    found = [*published, *job.models]
    assert [model.version for model in found] == [0, 1, 2, 3]
    assert found[-1].weights == wanted.weights.tobytes()
    assert lost.models[0].cohort_digest == found[2].cohort_digest
    assert lost.models[0]._replace(released_time=0) == found[2]._replace(released_time=0)
    assert reasons(job) == []


def test_many_large_updates_leave_the_first_step_in_packets_of_bounded_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_of(WIDE, budget_epsilon=None)
    monkeypatch.setattr("udfs.federate.contribution.MAX_PACKET_BYTES", 200_000)
    rng = np.random.default_rng(2)
    updates = [update(settings, f"{n}", 0, rng.standard_normal(WIDE["dimension"])) for n in range(12)]
    job = Job(settings)
    packets: list[int] = []
    run = job.lines.run
    monkeypatch.setattr(
        job.lines,
        "run",
        lambda shard, value, now: packets.extend(map(len, value[0])) or run(shard, value, now),
    )
    job.read(records(updates))
    assert len(packets) > 4
    assert max(packets) < 300_000
    line = model_lines(settings.federate)["head"]
    logic = BudgetLogic({"head": line}, inf, 1e-5, 1 << 40)
    wanted = model_after(line, updates, Seed("", b""), logic)
    assert job.models[-1].weights == wanted.weights.tobytes()


def test_what_is_refused_is_a_dead_letter_with_a_reason_and_without_numbers(store: Store) -> None:
    settings = settings_of()
    good = update(settings, "a")
    job = Job(settings)
    bad = [
        ("wrong_magic", "default/user-a", b"nothing of the kind, and somebody's numbers"),
        ("key_mismatch", "default/user-b", encode(good)),
        ("wrong_shape", "default/user-a", encode(good._replace(payload=good.payload[:-4]))),
        ("norm_too_large", "default/user-a", encode(good._replace(payload=b"\xff\xff\xff\x0f" * 16))),
        ("unknown_line", "default/user-a", encode(good._replace(model_line="tail"))),
        ("consent_missing", "default/user-a", encode(good._replace(consent="none"))),
        ("wrong_terms", "default/user-a", encode(good._replace(noise_multiplier=1.0))),
        ("unknown_base", "default/user-d", encode(update(settings, "d", 7))),
    ]
    rows = [(EDGE_UPDATES, key, value, 0, place, 1_000) for place, (_, key, value) in enumerate(bad)]
    job.read([*rows, *records([good], 50)])
    assert sorted(reasons(job)) == sorted(reason for reason, _, _ in bad)
    for letter in job.letters:
        assert letter.job == "federate"
        if letter.value:
            assert decode("EdgeUpdate", letter.value).payload == b""
        assert good.payload not in letter.value
    assert len([letter for letter in job.letters if not letter.value]) == 1
    assert store.counts[f"lines-{shard_of('head', SHARDS)}"]["line_contributed"] == 1
    assert sum(shard.get("accepted", 0) for shard in store.counts.values()) == 2, "a stale one is charged"


def test_a_budget_ends_and_a_taken_back_consent_ends_it_at_once(store: Store) -> None:
    settings = settings_of(budget_epsilon=1.5)  # mu of one contribution is 1/4
    job = Job(settings)
    logic = BudgetLogic(model_lines(settings.federate), 1.5, 1e-5, settings.federate.epoch_ms)
    ledger, allowed = None, 0
    for base in range(9):
        step = logic.on_update(ledger, update(settings, "a", base), 0)
        ledger, allowed = step.ledger, allowed + step.accepted
    assert 1 < allowed < 9
    for base in range(9):
        job.read(records([update(settings, "a", base)], base))
    assert reasons(job).count("budget_spent") == 9 - allowed
    told = store.budgets["default/user-a"]
    assert told["contributions"] == allowed
    assert 0.0 < told["epsilon"] <= 1.5
    order = Control("", "set_consent", "default", "user-b", None, "none", 0, "a test")
    job.read([(CONTROL, "default/user-b", encode(order), 0, 0, 1_000)])
    job.read(records([update(settings, "b")], 20))
    assert reasons(job)[-1] == "revoked"
    assert store.budgets["default/user-b"]["revoked"] == 1
    again = order._replace(consent="personalization")
    job.read([(CONTROL, "default/user-b", encode(again), 0, 1, 1_000)])
    job.read(records([update(settings, "b")], 21))
    assert len(reasons(job)) == 9 - allowed + 1 + (allowed - 1)  # versions that were never released, too


def test_a_timeout_releases_without_another_update_and_only_what_is_enough() -> None:
    settings = settings_of(timeout_grace_ms=5_000)
    job = Job(settings)
    job.read(records([update(settings, name) for name in "ab"], 0, 1_000))
    job.read([], tick_ms=90_000)
    assert [model.version for model in job.models] == [0], "two are too few"
    job.read(records([update(settings, "c")], 9, 2_000))
    job.read([], tick_ms=1_000 + 60_000 + 4_999)
    assert [model.version for model in job.models] == [0]
    job.read([], tick_ms=1_000 + 60_000 + 5_000)
    assert [(model.version, model.trigger, model.cohort_size) for model in job.models[1:]] == [
        (1, "timeout", 3)
    ]


def test_a_ledger_is_forgotten_an_epoch_after_its_own_and_a_revoked_one_never() -> None:
    settings = settings_of(epoch_ms=10 * DAY_MS)
    job = Job(settings)
    order = Control("", "erase_user", "default", "user-b", None, None, 0, "a test")
    job.read(records([update(settings, "a")], 0, DAY_MS))
    job.read([(CONTROL, "default/user-b", encode(order), 0, 0, DAY_MS)])

    def kept() -> set[str]:
        return {key for state in job.ledgers.of("ledgers") for key in state}

    def day(number: int) -> None:  # every shard sees every partition
        for place, name in enumerate("cdefghijklmnopqrstuvwxyz"):
            for partition in range(3):
                one = update(settings, f"{name}{number}")
                row = (EDGE_UPDATES, f"default/{one.user_id}", encode(one), partition, 0, number * DAY_MS)
                job.read([(*row[:4], 1_000 * number + place, row[5])])

    day(18)
    assert {"default/user-a", "default/user-b"} <= kept()
    day(32)
    assert "default/user-a" not in kept()
    assert "default/user-b" in kept()


def test_an_order_begins_a_budget_epoch_where_epochs_have_no_length() -> None:
    settings = settings_of(epoch_ms=0, budget_epsilon=1.5)
    job = Job(settings)

    def begin(epoch: int, offset: int) -> None:
        order = Control("", "begin_budget_epoch", None, None, epoch, None, 0, "a test")
        value = encode(order)
        for shard in range(SHARDS):  # as the prefix gives it to every shard
            job.ledgers.run(
                shard,
                (
                    (f"*{order.kind}",),
                    (value,),
                    (SOURCES.index(CONTROL) * SOURCE_STRIDE,),
                    (offset,),
                    (0,),
                    0,
                ),
                0,
            )

    def contribute(base: int) -> bool:
        before = reasons(job).count("budget_spent")
        job.read(records([update(settings, "a", base)], base, at_ms=1_000 + base * 400 * DAY_MS))
        return reasons(job).count("budget_spent") == before

    assert [contribute(base) for base in range(6)][-1] is False, "time begins none"
    begin(1, 0)
    assert contribute(6)
    while contribute(len(reasons(job)) + 7):
        pass
    begin(1, 1)
    begin(0, 2)
    assert not contribute(40), "the same again begins none"
    begin(3, 3)
    job.read(records([update(settings, name) for name in "bcdefghijklmnop"], 60))
    assert "default/user-a" not in {key for state in job.ledgers.of("ledgers") for key in state}


def test_state_values_stay_small_whatever_the_models_size() -> None:
    settings = settings_of(WIDE)
    job = Job(settings)
    rng = np.random.default_rng(3)
    job.read(records([update(settings, f"{n}", 0, rng.standard_normal(WIDE["dimension"])) for n in range(5)]))
    sizes = [
        len(blob) for name in ("weights", "sums") for state in job.lines.of(name) for blob in state.values()
    ]
    assert len(sizes) == 4
    assert max(sizes) <= 8 * BLOCK_NUMBERS + 16
    smaller = settings_of({**WIDE, "dimension": BLOCK_NUMBERS})
    with pytest.raises(ValueError, match="give the line another name"):
        after = Job(smaller, job.states)
        after.read(records([update(smaller, f"m{n}", 0, np.zeros(BLOCK_NUMBERS)) for n in range(12)]))


def test_central_noise_wants_its_key_in_the_environment_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = load(
        environment={"TAILRACE_FEDERATE__NOISE_KEY": NOISE.hex()}, federate={"lines": {"head": HEAD}}
    )
    assert NOISE.hex() not in shipped_settings(settings).model_dump_json()
    monkeypatch.delenv("TAILRACE_FEDERATE__NOISE_KEY")
    with pytest.raises(RuntimeError, match="TAILRACE_FEDERATE__NOISE_KEY"):
        Job(settings_of())
    Job(settings_of(WIDE))
    monkeypatch.setenv("TAILRACE_FEDERATE__NOISE_KEY", "0102")
    with pytest.raises(RuntimeError, match="at least 16 bytes"):
        Job(settings_of())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"cohort_min": 40}, "cohort_min"),
        ({"mode": "trusted"}, "mode"),
        ({"dimensions": 3}, "dimensions"),
        ({"noise_multiplier": 1e-9}, "noise_multiplier"),
    ],
)
def test_a_line_that_breaks_a_promise_is_no_setting(wrong: Any, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        settings_of({**HEAD, **wrong})
