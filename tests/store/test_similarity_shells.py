"""Both steps of the similarity job without Flink: states in dictionaries, a real store, a batch reference."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest

from flink_jobs.settings import Settings, load
from flink_jobs.shards import shard_keys, shard_of
from schemas.codec import decode, encode
from schemas.ids import user_key
from schemas.records import Control, SessionDelta
from schemas.redis_keys import item_bought_key, item_features_key, item_sim_key, stats_key, trending_key
from tailrace.job_counts import sum_counts
from tests.state_in_memory import MapState, ValueState
from udfs.similarity.count_kernel import HalfLives
from udfs.similarity.reference import ReferenceCounts
from udfs.similarity.scores import timeless
from udfs.similarity.session_step import item_key

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # PyFlink's own, while it is imported
    from flink_jobs.prefix import CONTROL, SESSIONS, SOURCE_STRIDE
    from flink_jobs.similarity_items import ItemShell
    from flink_jobs.similarity_sessions import DEAD_LETTER, KEEP_MS, PACKET, SOURCES, SessionShell

SHARDS = 4
HOUR_MS = 3_600_000
START_MS = 1_763_700_000_000
USERS, ITEMS = 40, 60


class _State:
    """The state of that name of the current key, as Flink gives it."""

    def __init__(self, task: Task, kind: type, name: str) -> None:
        self._task, self._kind, self._name = task, kind, name

    def __getattr__(self, method: str) -> Any:
        states = self._task.states.setdefault((self._task.key, self._name), self._kind())
        return getattr(states, method)


class Task:
    """A keyed function, all of its shards in one task."""

    def __init__(self, function: Any, states: dict[Any, Any] | None = None) -> None:
        self.states = {} if states is None else copy.deepcopy(states)
        self.key = 0
        self._function = function
        function.open(self)

    def run(self, shard: int, value: Any) -> list[Any]:
        self.key = shard_keys(SHARDS)[shard]
        return list(self._function.process_element(value, self))

    def tick(self, shard: int) -> None:
        self.key = shard_keys(SHARDS)[shard]
        assert list(self._function.on_timer(0, self)) == []

    def get_map_state(self, descriptor: Any) -> _State:
        return _State(self, MapState, descriptor.name)

    def get_state(self, descriptor: Any) -> _State:
        return _State(self, ValueState, descriptor.name)

    def get_current_key(self) -> int:
        return self.key

    def timer_service(self) -> Task:
        return self

    def current_processing_time(self) -> int:
        return 1_500

    def register_processing_time_timer(self, at_ms: int) -> None:
        assert at_ms == 2_000


class Job(NamedTuple):
    """Both steps."""

    sessions: Task
    items: Task
    letters: list[bytes]

    def read(self, records: Sequence[tuple[str, str, bytes, int]]) -> None:
        """Take (topic, key, value, offset) through both steps, a window each."""
        packets: dict[int, list[bytes]] = {}
        for shard in range(SHARDS):
            of_shard = [one for one in records if one[1].startswith("*") or shard_of(one[1], SHARDS) == shard]
            if not of_shard:
                continue
            columns = list(zip(*of_shard, strict=True))
            places = [SOURCES.index(topic) * SOURCE_STRIDE for topic in columns[0]]
            batch = (columns[1], columns[2], places, columns[3], (0,) * len(of_shard), 0)
            for kind, to_shard, _, payload in self.sessions.run(shard, batch):
                if kind == PACKET:
                    packets.setdefault(to_shard, []).append(payload)
                else:
                    assert kind == DEAD_LETTER
                    self.letters.append(payload)
        for shard, some in packets.items():
            self.items.run(shard, (some, len(some)))

    def tick(self, times: int = 3) -> None:
        for _ in range(times):
            for shard in range(SHARDS):
                self.items.tick(shard)


@pytest.fixture
def settings(store_client: Any, store_url: str) -> Settings:
    return load(
        environment={},
        job={"shards": SHARDS},
        redis={"url": store_url},
        similarity={
            "tick_ms": 1_000,
            "publish_interval_ms": 0,
            "publish_items_per_tick": 500,
            "sweep_items_per_tick": 1_000,
            "list_size": 50,
        },
    )


def start(settings: Settings, states: tuple[Any, Any] = (None, None)) -> Job:
    return Job(Task(SessionShell(settings), states[0]), Task(ItemShell(settings), states[1]), [])


def shopping(count: int, seed: int = 1) -> Iterator[SessionDelta]:
    rng = random.Random(seed)
    running: dict[int, tuple[int, int, int]] = {}
    for number in range(count):
        user, at_ms = rng.randrange(USERS), START_MS + number * 20_000
        ordinal, begun_ms, position = running.get(user, (1, at_ms, 0))
        if rng.random() < 0.15:
            ordinal, begun_ms, position = ordinal + 1, at_ms, 0
        running[user] = (ordinal, begun_ms, position + 1)
        kind = rng.choice(("view", "view", "view", "purchase"))
        item = f"i{int(ITEMS * rng.random() ** 2)}"
        yield SessionDelta(
            "default", f"u{user}", ordinal, begun_ms, position, item, kind, at_ms, b"", 0, number, 0,
            ("CH", "FR", "")[user % 3],
        )  # fmt: skip


def records(deltas: Sequence[SessionDelta]) -> list[tuple[str, str, bytes, int]]:
    return [(SESSIONS, user_key(one.tenant, one.user_id), encode(one), one.offset) for one in deltas]


def assert_equal(client: Any, settings: Settings, deltas: Sequence[SessionDelta]) -> None:
    half_lives = HalfLives(settings.similarity.half_life_ms, settings.similarity.trend_half_life_ms)
    now_ms = max(one.event_time for one in deltas)
    wanted = ReferenceCounts(deltas, now_ms, half_lives, settings.similarity.max_session_events)
    names = {item_key("default", one.item_id): one.item_id for one in deltas}
    for item, name in names.items():
        fields = client.hgetall(item_features_key("default", name))
        left = 0.5 ** ((now_ms - int(fields["_sim_wm"])) / half_lives.together_ms)
        assert float(fields["viewed"]) * left == pytest.approx(wanted.viewed[item], rel=1e-9)
        exact = {names[other]: wanted.cosine(item, other) for one, other in wanted.viewed_with if one == item}
        found = dict(client.zrange(item_sim_key("default", name), 0, -1, withscores=True))
        assert len(found) == min(len(exact), settings.similarity.list_size)
        assert found == pytest.approx({other: exact[other] for other in found}, rel=1e-9)
        exact = {
            names[other]: wanted.conditional(item, other) for one, other in wanted.bought_with if one == item
        }
        found = dict(client.zrange(item_bought_key("default", name), 0, -1, withscores=True))
        if len(exact) <= 32:
            assert found == pytest.approx(exact, rel=1e-9)
    for country in {one for _, one in wanted.trend_in}:
        weights = {names[item]: weight for (item, one), weight in wanted.trend_in.items() if one == country}
        places = {name: timeless(weight, now_ms, half_lives.trend_ms) for name, weight in weights.items()}
        found = dict(client.zrange(trending_key(country), 0, -1, withscores=True))
        assert found == pytest.approx(places, rel=1e-12)


def counts(client: Any) -> dict[str, int]:
    return sum_counts(client.hgetall(stats_key("similarity"))).total


def test_figures_are_those_of_the_batch_though_a_task_went_back_to_its_checkpoint(
    settings: Settings, store_client: Any
) -> None:
    deltas = list(shopping(900))
    job = start(settings)
    for first in range(0, 400, 50):
        job.read(records(deltas[first : first + 50]))
    job.tick(1)
    checkpoint = job.sessions.states, job.items.states
    lost = start(settings, checkpoint)
    lost.read(records(deltas[400:600]))
    lost.tick()  # Redis is ahead of the state
    job = start(settings, checkpoint)
    for first in range(400, 900, 125):  # cut otherwise
        job.read(records(deltas[first : first + 125]))
    job.tick()
    assert_equal(store_client, settings, deltas)
    totals = counts(store_client)
    assert totals["session_steps"] == 900
    assert totals["contributions"] == totals["applied"] > 4_000
    assert job.letters == []


def test_bad_records_are_dead_letters_and_the_good_ones_between_count(
    settings: Settings, store_client: Any
) -> None:
    deltas = list(shopping(200))
    good = records(deltas)
    bad = [
        (SESSIONS, "default/u1", b"\xc3\x01 no", 1_000),
        (SESSIONS, "default/u2", good[0][2], 1_001),
        (SESSIONS, "default/u1", encode(deltas[0]._replace(user_id="u1", event_type="search")), 1_002),
        (SESSIONS, "default/u1", b"", 1_003),
    ]
    job = start(settings)
    job.read([*good[:100], *bad, *good[100:]])
    job.tick()
    assert_equal(store_client, settings, deltas)
    letters = [decode("DeadLetter", one) for one in job.letters]
    assert sorted((one.offset, one.reason, one.topic, one.job) for one in letters) == [
        (1_000, "unknown_schema", SESSIONS, "similarity"),
        (1_001, "key_mismatch", SESSIONS, "similarity"),
        (1_002, "bad_value", SESSIONS, "similarity"),
        (1_003, "empty", SESSIONS, "similarity"),
    ]


@pytest.mark.parametrize(
    ("kind", "consent", "forgotten"),
    [
        ("erase_user", None, True),
        ("set_consent", "essential", True),
        ("set_consent", "personalization", False),
    ],
)
def test_a_user_who_may_not_be_profiled_has_no_basket(
    settings: Settings, kind: str, consent: str | None, forgotten: bool
) -> None:
    job = start(settings)
    job.read(records(list(shopping(100))))
    order = Control("c", kind, "default", "u3", None, consent, START_MS, "asked")
    job.read([(CONTROL, "default/u3", encode(order), 0)])
    left = {name for (_, state), found in job.sessions.states.items() if state == "baskets" for name in found}
    assert ("default/u3" in left) != forgotten
    assert len(left) > USERS // 2


def test_baskets_go_when_their_partition_is_days_ahead_and_others_stay(settings: Settings) -> None:
    job = start(settings)
    early = list(shopping(100))
    job.read(records(early))
    late_ms = START_MS + KEEP_MS + 2 * HOUR_MS
    for shard_user in (f"later-{number}" for number in range(20)):
        late = early[0]._replace(user_id=shard_user, event_time=late_ms, session_start=late_ms, offset=5_000)
        other = late._replace(user_id=f"{shard_user}-elsewhere", partition=1, event_time=START_MS)
        job.read(records([late, other]))
    left = {name for (_, state), found in job.sessions.states.items() if state == "baskets" for name in found}
    assert {name.split("-")[0] for name in left} == {"default/later"}
    assert len(left) == 40


def test_a_flushed_store_is_rebuilt_by_the_sweep_and_by_a_republish(
    settings: Settings, store_client: Any
) -> None:
    slow = settings.model_copy(
        update={"similarity": settings.similarity.model_copy(update={"sweep_items_per_tick": 1})}
    )
    deltas = list(shopping(300))
    job = start(slow)
    job.read(records(deltas))
    job.tick()
    store_client.flushall()
    job.tick()
    assert 0 < len(list(store_client.scan_iter("item_features:*"))) < len({one.item_id for one in deltas})
    republish = Control("c", "republish", None, None, None, None, START_MS, "asked")
    job.read([(CONTROL, "*republish", encode(republish), 0)])
    job.tick()
    assert_equal(store_client, settings, deltas)
    store_client.flushall()
    job.tick(2 * ITEMS)
    assert_equal(store_client, settings, deltas)


def test_an_item_that_no_session_holds_any_more_is_forgotten(settings: Settings, store_client: Any) -> None:
    deltas = list(shopping(100))
    job = start(settings)
    job.read(records(deltas))
    job.tick()
    years_ms = START_MS + settings.similarity.forget_after_ms + 30 * 24 * HOUR_MS
    news = [
        deltas[0]._replace(user_id=f"n{number}", item_id=f"new-{number}", event_time=years_ms,
                           session_start=years_ms, session_ordinal=1, position=0, offset=9_000 + number)
        for number in range(40)
    ]  # fmt: skip
    job.read(records(news))
    job.tick()
    kept = sum(len(found) for (_, state), found in job.items.states.items() if state == "items")
    assert kept == 40
    assert counts(store_client)["forgotten"] > 20
    assert store_client.hlen("similarity:items") == 40


def test_a_tick_writes_a_bounded_number_of_items_and_in_the_end_all_of_them(
    settings: Settings, store_client: Any
) -> None:
    few = {"publish_items_per_tick": 2, "sweep_items_per_tick": 1}
    slow = settings.model_copy(update={"similarity": settings.similarity.model_copy(update=few)})
    deltas = list(shopping(200))
    job = start(slow)
    job.read(records(deltas))
    written = [0]
    while written[-1] < len({one.item_id for one in deltas}):
        job.tick(1)
        written.append(store_client.hlen("similarity:items"))
        assert written[-2] < written[-1] <= written[-2] + 3 * SHARDS
    job.tick(60)
    assert_equal(store_client, settings, deltas)
