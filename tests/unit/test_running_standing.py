"""Looks at experiments: what each adds to the last is what a read of the whole topic says, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from flink_jobs.settings import Settings, load
from schemas.codec import encode
from schemas.ids import user_key
from schemas.records import Example, ExampleItem
from schemas.topics import EXAMPLES
from tailrace.counted_examples import sum_variants
from tailrace.errors import UserError
from tailrace.experiment_orders import Standing, standing
from tailrace.running_standing import RunningStanding
from tailrace.topic_scan import Record
from udfs.experiments.canary import CANDIDATE, SERVING, CanaryPlan, canary_experiment
from udfs.experiments.experiment import Experiment, Variant
from udfs.experiments.running import RunningExperiments

NOW_MS, PARTITIONS = 1_760_000_000_000, 3
OTHER = Experiment("spread", "order", 0, 10_000, (Variant("a", 1, {}), Variant("b", 1, {"diversity": 0.3})))
CANARY = canary_experiment(CanaryPlan(3, 0.4), RunningExperiments((OTHER,)), 1_800_000_000, "list")
RUNNING = RunningExperiments((OTHER, CANARY))


class Topic:
    """A topic in memory: what is committed of each partition, and how many records have been read."""

    def __init__(self) -> None:
        self.records: list[list[bytes | None]] = [[] for _ in range(PARTITIONS)]
        self.low, self.open, self.reads, self.fails_at = 0, 0, 0, -1

    def __call__(self, settings: Settings, topic: str) -> Topic:
        assert topic == EXAMPLES.name
        return self

    def __enter__(self) -> Topic:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def partitions(self) -> list[int]:
        return list(range(PARTITIONS))

    def bounds(self, partition: int) -> tuple[int, int]:
        return self.low, len(self.records[partition])

    def read(self, partition: int, start: int, end: int) -> Iterator[Record]:
        """The newest `open` records are of a transaction that is not committed yet."""
        for offset in range(start, min(end, len(self.records[partition]) - self.open)):
            if self.reads == self.fails_at:
                raise UserError("TR-300", "no broker")
            self.reads += 1
            yield Record(EXAMPLES.name, partition, offset, 0, b"", self.records[partition][offset], ())


def examples(count: int, seed: int = 0) -> list[Example]:
    rng, made = np.random.default_rng(seed), []
    for number in range(count):
        user = f"u{int(rng.integers(count // 3))}"
        label, settings = RUNNING.of_user(user_key("default", user))
        clicked = bool(rng.random() < (0.2 if settings.get("epoch") else 0.4))
        slot = ExampleItem(f"i{number % 50}", 0, 0, "ranker", 1.0, 0.9, "click", float(clicked), clicked,
                           False, clicked and number % 5 == 0, 0.0, 3.5 * clicked)  # fmt: skip
        made.append(Example(f"r{seed}-{number}", "default", user, "0", NOW_MS, NOW_MS + number, NOW_MS, 1, "m",
                            label, 0, (slot,), b""))  # fmt: skip
    return made


def in_full(topic: Topic, made: dict[bytes, Example]) -> Standing:
    committed = [part[: len(part) - topic.open] for part in topic.records]
    return standing(CANARY, sum_variants(made[one] for part in committed for one in part if one in made))


@pytest.fixture
def settings() -> Settings:
    return load(environment={})


def test_every_look_says_what_a_read_of_the_whole_topic_says_and_reads_only_what_is_new(
    settings: Settings,
) -> None:
    topic, rng = Topic(), np.random.default_rng(1)
    found = RunningStanding(settings, (CANARY,), reader=topic)  # type: ignore[arg-type]
    made = {encode(one): one for one in examples(3_000)}
    values, sent, words = list(made), 0, []
    for number in range(12):
        batch = values[sent : sent + 250]
        sent += 250
        again = [values[k] for k in rng.integers(sent, size=20)]  # by a feedback job that was taken back
        for value in [*batch, *again, b"\x01junk", None]:
            topic.records[int(rng.integers(PARTITIONS))].append(value)
        topic.open = int(rng.integers(4))
        told = found.look()[0]
        assert told == in_full(topic, made), f"look {number}"
        words.append(told.verdict.word)
    assert words[0] == "running" and words[-1] in ("harmful", "better")
    assert {name: sums.lists > 300 for name, sums in told.sums.items()} == {SERVING: True, CANDIDATE: True}
    topic.open = 0
    assert found.look()[0] == in_full(topic, made)
    assert topic.reads == sum(map(len, topic.records)), "each record was read once"


def test_several_experiments_stand_after_one_read_as_each_does_by_itself(settings: Settings) -> None:
    topic = Topic()
    made = {encode(one): one for one in examples(900)}
    topic.records[0] = list(made)
    together = RunningStanding(settings, (CANARY, OTHER), reader=topic, most_users=None, most_ids=None)  # type: ignore[arg-type]
    sums = sum_variants(made.values())
    assert together.look() == [standing(CANARY, sums), standing(OTHER, sums)]
    assert topic.reads == len(made)
    assert min(one.lists for one in together.look()[1].sums.values()) > 300


def test_what_was_read_before_the_broker_went_away_is_counted_once(settings: Settings) -> None:
    topic = Topic()
    found = RunningStanding(settings, (CANARY,), reader=topic)  # type: ignore[arg-type]
    made = {encode(one): one for one in examples(600)}
    for number, value in enumerate(made):
        topic.records[number % PARTITIONS].append(value)
    topic.fails_at = 250
    with pytest.raises(UserError, match="no broker"):
        found.look()[0]
    topic.fails_at = -1
    assert found.look()[0] == in_full(topic, made)
    assert topic.reads == 600


def test_records_that_the_topic_has_forgotten_stay_counted(settings: Settings) -> None:
    topic = Topic()
    found = RunningStanding(settings, (CANARY,), reader=topic)  # type: ignore[arg-type]
    made = {encode(one): one for one in examples(600)}
    for number, value in enumerate(made):
        topic.records[number % PARTITIONS].append(value)
    before = found.look()[0]
    topic.low = 200
    assert found.look()[0] == before == in_full(topic, made)


def test_users_and_ids_are_held_up_to_a_number(settings: Settings) -> None:
    topic = Topic()
    found = RunningStanding(settings, (CANARY,), reader=topic, most_users=50, most_ids=30)  # type: ignore[arg-type]
    made = {encode(one): one for one in examples(900)}
    topic.records[0] = list(made)
    told = found.look()[0]
    users = {one.user_id: None for one in made.values() if CANARY.name in one.variant}
    first = [one for one in made.values() if one.user_id in list(users)[:50]]
    assert len(users) > 100 and told == standing(CANARY, sum_variants(first))
    topic.records[1] = topic.records[0][-20:]
    assert found.look()[0] == told, "repeats of the newest are known"
    counted = found._counted
    assert (len(counted._users), len(counted._seen), len(counted._order)) == (50, 30, 30)
