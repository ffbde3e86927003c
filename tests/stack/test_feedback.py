"""The feedback job behind the recommend job, killed twice: what a join of the whole log says, each record once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from flink_jobs.settings import load
from schemas.codec import decode, encode
from schemas.ids import user_key
from schemas.records import Credit, DeadLetter, Example, Posterior, ServedList
from schemas.redis_keys import stats_key
from tailrace import flink_client
from tailrace.job_counts import sum_counts
from tests.stack.conftest import SharedStack
from tests.stack.deployment import QUIET, Deployment, until
from tests.stack.feedback_log import (
    DAY_MS,
    EVENTS,
    SERVED,
    Sent,
    clean_log,
    closing,
    odd_log,
    orders_after_the_cut,
    send,
    sent_list,
    visits,
    wanted,
)
from tests.stack.plain_run import Row
from tests.stack.running_shop import RunningShop
from udfs.bandits.credit_sums import CreditSums
from udfs.bandits.shared_posterior import SharedPosterior
from udfs.experiments.experiment import BUCKETS, Experiment, Variant
from udfs.experiments.running import RunningExperiments
from udfs.feedback.join_rate import join_rate
from udfs.ranking.rank import Ranked, rank_batch
from udfs.ranking.snapshot import Snapshot
from udfs.user_state import LIST_POLICY, SOURCES

pytestmark = pytest.mark.stack
CREDITS, EXAMPLES, DEAD_LETTERS = "recs.credits.v1", "recs.examples.v1", "recs.dead-letters.v1"
POSTERIORS = "recs.posteriors.v1"
TRAFFIC, ORDERS, LISTS, ODD, PER_S = 3_000, 60_000, 900, 20, 450
BOTH_ALIKE = RunningExperiments(
    (Experiment("alike", "list", 0, BUCKETS, (Variant("a", 1, {}), Variant("b", 1, {}))),)
)


@pytest.fixture(scope="module")
def earned() -> list[Row]:
    """The credits that the first test saw, and behind them the posterior, for the second."""
    return []


@pytest.fixture
def joining(stack: SharedStack, tmp_path: Path) -> Iterator[Deployment]:
    """A deployment whose job is to be the feedback job; the shop's has to stop for it."""
    given = stack.deployment("joining").settings.model_dump(exclude_unset=True)
    quick = {"batch_ms": 200, "posterior_ms": 1_000, "parallelism": 2}
    deployment = Deployment(stack.stack, load(environment={}, **given, feedback=quick), tmp_path)
    yield deployment
    deployment.cancel()


def test_two_kills_cost_no_example_and_no_credit_and_double_none(
    _shop: RunningShop, joining: Deployment, earned: list[Row]
) -> None:
    shop = _shop  # it need not run, if it has made lists
    if not shop.plain.states or shop.deployment.ends(SERVED) < TRAFFIC // 10:
        shop.ready()
        shop.deployment.produce(shop.next_traffic(TRAFFIC))
        shop.catch_up()
    served = shop.deployment.records(SERVED, "ServedList")
    times = [row.timestamp for row in shop.deployment.rows(SERVED)]
    assert [one.event_time for one in served] == times, "a list's record has event time"
    drawn = [one for one in served if one.list_policy]  # one that another stood in for does not say its own
    assert len(drawn) > 0.9 * len(served)
    assert {one.list_policy for one in drawn} == {"plain", "spread"}
    first = next(iter(shop.plain.ranked))
    (untaught,) = shop.plain.lists(shop.items, shop.mark, shop.rank_settings, [first]).values()
    assert {one.list_shares for one in drawn} == {untaught.list_shares}
    orders = orders_after_the_cut(ORDERS)
    lists = visits(served, orders, LISTS)
    if shop.deployment.job_id is not None:
        shop.deployment.stop()
    odd = odd_log(lists[LISTS // 2 :: LISTS // 2 // ODD][:ODD])
    clean = clean_log(lists, orders)
    log = sorted([*clean, *odd.records])
    poison = [Sent(log[9].at_ms, topic, b"default/poison", b"\x01junk", 0) for topic in (SERVED, EVENTS)]
    cut_off = sent_list(lists[3])._replace(value=encode(lists[3])[:-9])
    log = [*log[:10], *poison, cut_off, *log[10:]]

    joining.job_id = flink_client.submit(joining.settings, "feedback", joining.jobmanager, joining.config)
    joining.wait_until_running()
    sending = threading.Thread(target=send, args=(joining, log, PER_S))
    sending.start()
    for kills, name in enumerate(("taskmanager-1", "taskmanager-2")):
        before = counts(joining).get("examples", 0)  # some have left, and their transaction is open
        until(
            lambda before=before: counts(joining).get("examples", 0) > before + 30,
            60,
            "examples to leave",
            0.02,
        )  # type: ignore[misc]
        os.kill(joining.stack.pids()[name], signal.SIGKILL)
        until(lambda kills=kills: failures(joining) > kills, 60, "the job to fail")  # type: ignore[misc]
    sending.join()
    after_ms = log[-1].at_ms + 3 * DAY_MS
    send(joining, closing(joining.settings.kafka.partitions, after_ms, lists[0]), PER_S)

    examples, credits = wanted([*clean, *odd.records], joining.settings.feedback.rules)
    assert len(examples) == LISTS + ODD and len(credits) > LISTS
    until(
        lambda: counts(joining).get("examples", 0) >= len(examples), 90,
        lambda: f"{len(examples)} examples in the counts, there are {counts(joining)}",
    )  # fmt: skip
    until(lambda: len(joining.rows(EXAMPLES)) >= len(examples), 30, "the last transaction", 0.5)
    until(lambda: len(joining.rows(CREDITS)) >= len(credits), 30, "the last transaction of credits", 0.5)
    found: list[Example] = joining.records(EXAMPLES, "Example")
    assert {one.rec_id: one for one in found} == examples
    assert len(found) == len(examples), "each once"
    given: list[Credit] = joining.records(CREDITS, "Credit")
    assert {(one.rec_id, one.arm): one.reward for one in given} == credits
    assert len({one.credit_id for one in given}) == len(given) == len(credits), "each once"
    assert all(row.timestamp == one.event_time for row, one in zip(joining.rows(CREDITS), given, strict=True))

    nothing = Posterior("", 0, 0, 0, ())

    def newest() -> Posterior:
        return [nothing, *joining.records(POSTERIORS, "Posterior")][-1]

    until(lambda: newest().credits == len(given), 30, lambda: f"{len(given)} credits, {newest()}", 0.5)
    sums, half_life_days = CreditSums().add(given), joining.settings.feedback.posterior_half_life_days
    assert newest()._replace(version=0) == Posterior(
        given[0].tenant, 0, len(given), sums.newest_day, sums.posterior(half_life_days)
    )
    made: list[Posterior] = joining.records(POSTERIORS, "Posterior")
    assert [one.version for one in made] == list(range(1, len(made) + 1)), "each once, over the kills"
    assert [one.credits for one in made] == sorted({one.credits for one in made})
    assert len({tuple(one.context) for one in given}) > 5
    of_lists = Counter(one.arm for one in given if one.arm.startswith(LIST_POLICY))
    assert set(of_lists) == {"list:plain", "list:spread"} and min(of_lists.values()) > LISTS // 5
    assert of_lists.keys() <= {one.arm for one in newest().arms}

    # Every impression of the clean log. After a kill a shard tells smaller counts again for a while.
    in_all = odd.counts | {"impression_joined": LISTS + ODD, "event_refused_wrong_magic": 1}
    until(lambda: in_all.items() <= counts(joining).items(), 30, lambda: f"{in_all}, got {counts(joining)}")
    total = counts(joining)
    assert join_rate(total) == (LISTS + ODD) / (LISTS + 2 * ODD)
    letters: list[DeadLetter] = joining.records(DEAD_LETTERS, "DeadLetter")
    assert {one.value for one in letters} == {b"\x01junk", cut_off.value}
    assert {one.topic for one in letters} == {SERVED}
    assert joining.state_of_job() == "RUNNING"
    earned.extend(joining.rows(CREDITS))
    earned.append(joining.rows(POSTERIORS)[-1])


def test_a_credit_counts_once_for_its_user_over_a_kill_and_one_of_an_aborted_transaction_never(
    shop: RunningShop, earned: list[Row]
) -> None:
    if not earned:
        pytest.skip("wants the credits of the test before")
    taught = decode("Posterior", earned.pop().value)
    rows = [row for row in earned if (row.key or b"").decode() in shop.plain.states]
    assert len(rows) > 100
    already = len(shop.deployment.rows(SERVED))
    teach(shop, taught)
    before, credited = (shop.deployment.counts().get(name, 0) for name in ("credits", "credited"))
    prefix = shop.deployment.settings.kafka.topic_prefix
    producer = Producer(
        {
            "bootstrap.servers": shop.deployment.settings.kafka.bootstrap_servers,
            "transactional.id": f"{prefix}a-test",
            **QUIET,
        }
    )
    producer.init_transactions(30)
    for start in range(0, len(rows), 50):
        for commits in (False, True):  # each once in vain, as by a job that is killed
            producer.begin_transaction()
            for row in rows[start : start + 50]:
                producer.produce(prefix + CREDITS, row.value, row.key, timestamp=row.timestamp)
            producer.commit_transaction(30) if commits else producer.abort_transaction(30)
        if start == 50:
            until(lambda: shop.deployment.counts().get("credits", 0) > before, 60, "credits to count", 0.02)
            shop.deployment.produce(shop.probes("killed"))
            shop.catch_up()  # lists that are made before the kill, and again after it
            os.kill(shop.deployment.stack.pids()["taskmanager-1"], signal.SIGKILL)
        time.sleep(0.2)
    for _ in range(2):
        until(
            lambda: shop.deployment.counts().get("credits", 0) == before + len(rows), 120,
            lambda: f"{before + len(rows)} credits in the counts, there are {shop.deployment.counts()}",
        )  # fmt: skip
        shop.catch_up()  # the second time each shard has told its counts since the kill
    shop.plain.earn(shop.deployment.rows(CREDITS))
    shop.deployment.order("set_experiments", experiments=BOTH_ALIKE.to_json())
    shop.check_states()
    newest = {(one.tenant, one.user_id): one for one in shop.deployment.records(SERVED, "ServedList")}
    labels = {user_key(*name): newest[name].variant for name in newest}
    assert {key: labels[key] for key in shop.plain.states} == {
        key: BOTH_ALIKE.of_user(key)[0] for key in shop.plain.states
    }
    shop.deployment.order("set_experiments", experiments=RunningExperiments().to_json())
    assert taught.version > 3
    logged = {one.posterior_version for name, one in newest.items() if user_key(*name) in shop.plain.states}
    assert logged == {taught.version}, "which each list logs"
    shared = {taught.tenant: SharedPosterior.of(taught, SOURCES)}
    lists = shop.plain.lists(shop.items, shop.mark, shop.rank_settings, posteriors=shared)
    assert {key: made_of(one) for key, one in lists.items()} == {
        user_key(*name): made_of(one) for name, one in newest.items() if user_key(*name) in lists
    }
    assert {one.list_policy for one in lists.values()} == {"plain", "spread"}
    since = [
        one
        for one in shop.deployment.records(SERVED, "ServedList")[already:]
        if one.posterior_version == taught.version
    ]
    check_explored_alike(shop, since, shared)
    shop.deployment.produce_raw(POSTERIORS, [(taught.tenant.encode(), None)], 0)
    # As it was before, for the tests that come.
    until(
        lambda: {one.posterior_version for one in shop.republish().values()} == {0},
        60,
        "it to be forgotten",
        0.5,
    )
    shop.check_lists()
    arms = Counter(bool(state.arm_alpha) for state in shop.plain.states.values())
    assert arms[True] > 20
    of_sources = [row for row in rows if not decode("Credit", row.value).arm.startswith(LIST_POLICY)]
    assert len(of_sources) < len(rows), "what list policies earned is no user's"
    assert shop.deployment.counts()["credited"] == credited + len(of_sources)


def teach(shop: RunningShop, taught: Posterior) -> None:
    """Publish what all users taught, and wait until the workers of every shard make their lists with it."""
    shop.deployment.produce_raw(POSTERIORS, [(taught.tenant.encode(), encode(taught))], 0)
    turn = 0

    def known_to_all() -> bool:
        nonlocal turn
        turn, before = turn + 1, len(shop.deployment.rows(SERVED))
        asking = shop.probes(f"taught-{turn}")
        shop.deployment.produce(asking)
        shop.catch_up()
        told = {
            one.user_id: one.posterior_version
            for one in shop.deployment.records(SERVED, "ServedList")[before:]
        }
        return all(told.get(event.user_id) == taught.version for event in asking)

    until(known_to_all, 120, "lists of every shard that know the posterior", 0.5)


def made_of(one: ServedList | Ranked) -> tuple[object, ...]:
    return one.rec_id, one.list_policy, one.list_shares, one.source_probabilities, list(one.items)


def check_explored_alike(
    shop: RunningShop, served: list[ServedList], shared: dict[str, SharedPosterior]
) -> None:
    """Each list, before the kill, after it or twice, is drawn with the shares of its posterior and its own seed."""
    view = shop.plain.view(shop.items, shop.mark)
    snapshots = [
        Snapshot(
            user_key(one.tenant, one.user_id), one.tenant, one.user_id, one.version, one.event_time, one.epoch,
            one.snapshot,
        )
        for one in served
    ]  # fmt: skip
    ranked = rank_batch(shop.plain.bundle, snapshots, view, shop.rank_settings, None, shared)
    assert len({(one.user_id, one.version) for one in served}) > 2 * shop.deployment.settings.job.shards
    for one, again in zip(served, ranked, strict=True):
        assert made_of(one) == made_of(again), one.user_id
    (untaught,) = rank_batch(shop.plain.bundle, snapshots[:1], view, shop.rank_settings)
    shares = {one.list_shares for one in served}
    assert len(shares) == 1 and untaught.list_shares not in shares, "what all users taught moves them"


def counts(joining: Deployment) -> dict[str, int]:
    return sum_counts(joining.redis.hgetall(stats_key("feedback", joining.settings.kafka.topic_prefix))).total


def failures(joining: Deployment) -> int:
    return len(joining.flink(f"/jobs/{joining.job_id}/exceptions")["exceptionHistory"]["entries"])
