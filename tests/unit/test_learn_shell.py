"""The learn job's state: whenever it is opened again it goes on as if it had never stopped."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from test_session_learner import QUICK, pairs_log

from flink_jobs.learner_state import KeptLearner, LearnerMismatchError
from flink_jobs.settings import load
from schemas.codec import decode, encode
from schemas.ids import item_hash, user_key
from schemas.records import LearntPart, SessionDelta
from tests.state_in_memory import MapState, ValueState
from udfs.online.session_learner import SessionLearner
from udfs.ranking.click_records import session_key

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # PyFlink's own, while it is imported
    from flink_jobs.learn_shell import LearnShell, in_order, learner_settings


class States:
    """What Flink keeps of the step."""

    def __init__(self) -> None:
        self.head, self.blocks, self.log = ValueState(), MapState(), MapState()

    def open(self, copy_clicks: int, settings=QUICK) -> KeptLearner:
        return KeptLearner(settings, copy_clicks, self.head, self.blocks, self.log)


@pytest.mark.parametrize("copy_clicks", [1, 500, 10**9])
def test_a_learner_opened_again_and_again_publishes_what_a_plain_one_does(copy_clicks: int) -> None:
    keys, hashes = pairs_log(7, 900)
    plain = SessionLearner(QUICK)
    wanted, found = plain.learn(keys, hashes), list[LearntPart]()
    states = States()
    kept = states.open(copy_clicks)
    for number, at in enumerate(range(0, len(keys), 150)):
        found += kept.learn(keys[at : at + 150], hashes[at : at + 150])
        if number % 4 == 3:
            kept = states.open(copy_clicks)
            assert kept.learner.counts()["versions"] == len({part.version for part in found})
    assert found == wanted
    theirs, ours = plain.state(), states.open(copy_clicks).learner.state()
    assert [name for name in theirs if theirs[name].tobytes() != ours[name].tobytes()] == []


def test_the_log_is_short_and_only_changed_blocks_are_written() -> None:
    states, (keys, hashes) = States(), pairs_log(8, 600)
    kept = states.open(400)
    for at in range(0, 1_200, 100):
        kept.learn(keys[at : at + 100], hashes[at : at + 100])
        assert sum(len(batch) for batch in states.log.values()) < 16 * 400
    written = []
    states.blocks.put = lambda key, block: written.append(key)  # type: ignore[method-assign]
    for at in range(1_200, 1_600, 100):
        kept.learn(keys[at : at + 100], hashes[at : at + 100])
    assert "embeddings.vectors/0" in written
    assert not [key for key in written if key.startswith("embeddings._past_sessions/") and key[-1] != "0"]


def test_a_state_of_another_learner_is_refused_and_the_message_names_both() -> None:
    states, (keys, hashes) = States(), pairs_log(9, 60)
    states.open(50).learn(keys, hashes)
    other = QUICK._replace(seed=1)
    with pytest.raises(LearnerMismatchError, match=rf"{QUICK.fingerprint()}.*{other.fingerprint()}"):
        states.open(50, other)
    head = json.loads(states.head.value())
    states.head.update(json.dumps([head[0] + 1, *head[1:]]).encode())
    with pytest.raises(LearnerMismatchError, match=r"format 2 .*format 1"):
        states.open(50)


def test_partitions_are_merged_by_time_and_each_keeps_its_order() -> None:
    rng = np.random.default_rng(0)
    partitions = rng.integers(0, 3, 60).tolist()
    offsets = rng.permutation(60).tolist()
    times = rng.integers(0, 1_000, 60).tolist()
    order = in_order(partitions, offsets, times)
    for partition in range(3):
        of_it = [row for row in order if partitions[row] == partition]
        assert of_it == sorted(of_it, key=offsets.__getitem__)
    alone = in_order([0] * 60, offsets, times)
    assert [offsets[row] for row in alone] == sorted(offsets)
    even = in_order(partitions, sorted(offsets), sorted(times))
    assert even == sorted(even, key=lambda row: (sorted(times)[row], partitions[row], row))


class Context:
    """What Flink gives the step when it opens."""

    def __init__(self) -> None:
        self.states: dict[str, MapState | ValueState] = {}

    def get_map_state(self, descriptor) -> MapState | ValueState:
        return self.states.setdefault(descriptor.name, MapState())

    def get_state(self, descriptor) -> MapState | ValueState:
        return self.states.setdefault(descriptor.name, ValueState())


def test_the_step_learns_records_skips_what_it_cannot_read_and_does_not_wait_for_the_store() -> None:
    settings = load(
        environment={},
        learn={"publish_clicks": 128, "copy_clicks": 200},
        redis={"url": "redis://127.0.0.1:1/0"},
        job={"shards": 1},
    )
    deltas = [
        SessionDelta("default", f"u{n // 4}", 1, 0, 1, f"i{n % 7}", "view", 1_000 + n, b"", 0, n, 0)
        for n in range(300)
    ]
    keys = [session_key(user_key("default", delta.user_id), 1) for delta in deltas]
    hashes = [item_hash(delta.item_id) for delta in deltas]
    plain = SessionLearner(learner_settings(settings.learn))
    wanted = plain.learn(np.array(keys, np.uint64), np.array(hashes, np.uint64))
    context, rows = Context(), []
    for start in range(0, 300, 50):  # opened anew for every batch
        shell = LearnShell(settings)
        shell.open(context)  # type: ignore[arg-type]
        some = deltas[start : start + 50]
        payloads = [b"no record", *(encode(delta) for delta in reversed(some))]
        offsets = [start - 1, *range(start + 49, start - 1, -1)]
        times = [0, *(delta.event_time for delta in reversed(some))]
        batch = ([""] * 51, payloads, [0] * 51, offsets, times, 0)
        rows += list(shell.process_element(batch, None))  # type: ignore[arg-type]
        assert shell._refused == 1
        shell.close()
    parts = [decode("LearntPart", row[1]) for row in rows]
    assert parts == wanted and [row[0] for row in rows] == [part.part for part in wanted]
    assert len({part.version for part in wanted}) == 2
