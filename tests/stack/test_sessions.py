"""Lists that are made with everybody's sessions, as the job itself publishes them, and what is learnt of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from flink_jobs.learn_shell import learner_settings
from flink_jobs.list_entry import marks_text
from flink_jobs.settings import load
from schemas.ids import item_hash, user_key
from schemas.records import LearntPart
from schemas.redis_keys import stats_key
from schemas.topics import WEIGHTS
from tailrace import flink_client
from tailrace.job_counts import sum_counts
from tests.stack.conftest import SharedStack
from tests.stack.deployment import Deployment, until
from tests.stack.running_shop import SESSIONS, RunningShop
from udfs.model.bundle import Bundle
from udfs.online.session_learner import SessionLearner
from udfs.ranking.click_records import session_key
from udfs.ranking.live_sessions import LiveSessions
from udfs.ranking.rank import RankSettings

pytestmark = pytest.mark.stack
EVENTS, MORE, AFTER, PER_S = 8_000, 6_000, 500, 800
LEARNT = 3
"""An epoch whose bundle wants the learnt order."""


def clicks(deployment: Deployment) -> tuple[np.ndarray, np.ndarray]:
    """Read the topic's one partition: names of sessions and hashes of items."""
    names, items = [], []
    for delta in deployment.records(SESSIONS, "SessionDelta"):
        names.append(session_key(user_key(delta.tenant, delta.user_id), delta.session_ordinal))
        items.append(item_hash(delta.item_id))
    return np.array(names, np.uint64), np.array(items, np.uint64)


def published(deployment: Deployment) -> LiveSessions:
    """Read the topic into a session source, record by record."""
    live = LiveSessions()
    names, items = clicks(deployment)
    for at in range(len(names)):
        live.observe(names[at : at + 1], items[at : at + 1])
    live.mark = deployment.ends(SESSIONS)
    return live


def republish_until_learnt(shop: RunningShop, mark: int, version: int = 0) -> None:
    """Have all lists written anew until every worker has read the sessions to their end: it reads before it ranks."""

    def learnt() -> bool:
        shop.republish()
        lists = shop.deployment.lists(shop.plain.ranked)
        return {list_["_mark"] for list_ in lists.values()} == {marks_text(shop.mark, mark, version)}

    until(learnt, 60, f"lists made with session mark {mark} and version {version}")


def start_in_one_slot(shop: RunningShop) -> None:
    """Let the job go on in one slot, so that another job has room beside it."""
    deployment = shop.deployment
    deployment.stop()
    job = deployment.settings.job.model_copy(update={"parallelism": 1})
    deployment.settings = deployment.settings.model_copy(update={"job": job})
    deployment.config = deployment.write_config("one-slot.toml", deployment.settings)
    shop.ready()


def test_lists_are_those_of_a_plain_run_that_knows_the_same_sessions(session_shop: RunningShop) -> None:
    shop, deployment = session_shop, session_shop.deployment
    deployment.produce(shop.next_traffic(EVENTS))
    shop.catch_up()
    shop.check_deltas()
    sessions = published(deployment)
    republish_until_learnt(shop, sessions.mark)
    assert shop.check_lists(sessions=sessions) > 100
    # They matter: without them many lists would be others.
    how: RankSettings = shop.rank_settings
    with_, without = (shop.plain.lists(shop.items, shop.mark, how, None, one) for one in (sessions, None))
    changed = sum(with_[key].items != without[key].items for key in with_)
    assert changed > len(with_) // 4

    # Workers that start anew have read the same before they rank.
    start_in_one_slot(shop)
    republish_until_learnt(shop, sessions.mark)
    assert shop.check_lists(sessions=sessions) > 100


@pytest.fixture
def learning(stack: SharedStack, session_shop: RunningShop, tmp_path: Path) -> Iterator[Deployment]:
    """The learn job beside the shop's, which is to run in one slot."""
    if session_shop.deployment.config.name != "one-slot.toml":
        start_in_one_slot(session_shop)
    given = session_shop.deployment.settings.model_dump(exclude_unset=True)
    learn = {"batch_ms": 200, "publish_clicks": 512, "publish_blocks": 8, "copy_clicks": 6_000}
    deployment = Deployment(stack.stack, load(environment={}, **given, learn=learn), tmp_path)
    deployment.job_id = flink_client.submit(
        deployment.settings, "learn", deployment.jobmanager, deployment.config
    )
    deployment.wait_until_running()
    yield deployment
    deployment.cancel()


def newest_clicks(deployment: Deployment) -> int:
    parts: list[LearntPart] = deployment.records(WEIGHTS.name, "LearntPart")
    return max((part.clicks for part in parts), default=0)


def learnt_bundle(bundles: dict[int, Bundle]) -> Bundle:
    """Give the first bundle as another epoch, which takes session candidates in the learnt order."""
    root = bundles[1].path.parent
    shutil.copytree(bundles[1].path, root / str(LEARNT), dirs_exist_ok=True)
    path = root / str(LEARNT) / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["epoch"] = LEARNT
    manifest["settings"]["learnt_sessions"] = 1
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return Bundle.open(path.parent)


def test_a_killed_learn_job_publishes_what_a_plain_run_does_and_lists_are_made_with_it(
    learning: Deployment, session_shop: RunningShop, bundles: dict[int, Bundle]
) -> None:
    shop, deployment = session_shop, session_shop.deployment
    counts_key = stats_key("learn", deployment.settings.kafka.topic_prefix)

    def counts() -> dict[str, int]:
        return sum_counts(deployment.redis.hgetall(counts_key)).total

    sending = threading.Thread(target=deployment.produce, args=(shop.next_traffic(MORE), PER_S))
    known = len(clicks(deployment)[0])
    sending.start()
    # Published, so in a checkpoint.
    until(lambda: newest_clicks(deployment) > known, 60, "a version of new clicks", 0.2)
    for name in ("taskmanager-1", "taskmanager-2"):  # one of them learns
        os.kill(learning.stack.pids()[name], signal.SIGKILL)
    sending.join()
    deployment.produce(shop.next_traffic(AFTER))  # whatever was learnt before: this comes after the kill
    # Of its copy and its log; which of them has what depends on where the checkpoint lies.
    until(lambda: counts().get("restored", 0) > known, 120, "its clicks to come back from the state", 0.1)
    shop.catch_up()
    shop.check_deltas()
    names, items = clicks(deployment)
    plain = SessionLearner(learner_settings(learning.settings.learn))
    with threadpool_limits(
        limits=1, user_api="blas"
    ):  # as in a worker: sums of several threads have another order
        wanted = plain.learn(names, items)
    until(
        lambda: len(deployment.rows(WEIGHTS.name)) >= len(wanted),
        90,
        lambda: f"{len(wanted)} parts of versions, there are {len(deployment.rows(WEIGHTS.name))}",
        0.5,
    )
    found: list[LearntPart] = deployment.records(WEIGHTS.name, "LearntPart")
    assert [(part.part, part.version) for part in found] == [(part.part, part.version) for part in wanted]
    assert found == wanted
    assert plain.publisher.version > 10

    # Lists of an epoch that wants the learnt order are those of a plain run with the newest version.
    bundle = learnt_bundle(bundles)
    shop.plain.republish(1 + deployment.activate(LEARNT), bundle)
    sessions = published(deployment)
    for part in found:
        sessions.learnt.take(part)
    version = plain.publisher.version
    republish_until_learnt(shop, sessions.mark, version)
    assert shop.check_lists(sessions=sessions) > 100
    assert {served.weights_version for served in shop.republish().values()} == {version}
    how: RankSettings = shop.rank_settings
    neighbours = published(deployment)
    with_, without = (
        shop.plain.lists(shop.items, shop.mark, how, None, one) for one in (sessions, neighbours)
    )
    changed = sum(with_[key].items != without[key].items for key in with_)
    assert changed > len(with_) // 10
