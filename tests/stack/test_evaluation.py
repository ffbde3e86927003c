"""What evaluation judges is what the job serves: one log through both, list by list."""

from __future__ import annotations

import numpy as np
import pytest

from model_export.dataset import snapshots
from model_export.moments import MomentSettings, collect_moments
from model_export.sources.event_log import EventLog, columns_of
from schemas.records import Event
from tests.stack.running_shop import SERVED, RunningShop
from udfs.ranking.rank import rank_batch
from udfs.user_logic import LogicSettings
from udfs.user_state import UserState

pytestmark = pytest.mark.stack
USERS, ROUNDS = 60, 6
OF_THE_LOG = {"newest_offset", "newest_partition"}
"""Where an event stood: in the topic for the job, in the file for evaluation."""


def test_the_lists_that_evaluation_makes_of_a_log_are_those_that_the_job_served(shop: RunningShop) -> None:
    before, rng = shop.catch_up_with_log(), np.random.default_rng(0)
    items, events = shop.known_items(400), list[Event]()
    for _ in range(ROUNDS):  # each is ranked before the next comes, so that every click has a list
        clicks = [shop.event("click", f"judged-{user}", str(rng.choice(items))) for user in range(USERS)]
        shop.deployment.produce(clicks)
        shop.catch_up()
        events += clicks
    shop.catch_up_with_log()
    served = {
        (one.user_id, one.event_time): one
        for one in shop.deployment.records(SERVED, "ServedList", before)
        if one.user_id.startswith("judged-")
    }
    assert len(served) == USERS * ROUNDS

    columns = {name: [getattr(event, name) for event in events] for name in Event._fields}
    log = EventLog("clicks", np.array(columns["event_time"], np.int64), columns_of(len(events), **columns))
    bundle, job = shop.bundles[1], shop.deployment.settings.job
    logic = LogicSettings(job.session_gap_ms, job.forget_after_ms, job.shards)
    factors, stretch = bundle.items.factors, (int(log.times_ms[0]), int(log.times_ms[-1]) + 1)
    (moments,), _ = collect_moments(log, [stretch], [MomentSettings()], factors, logic, rng)
    assert len(moments) == USERS and {moment.kind for moment in moments} == {"within"}
    judged = snapshots(moments, factors, bundle.epoch)
    of_job = [served[moment.user_id, moment.at_ms] for moment in moments]
    for mine, theirs in zip(judged, of_job, strict=True):
        left, right = UserState.decode(mine.state)._asdict(), UserState.decode(theirs.snapshot)._asdict()
        assert {name for name in left if left[name] != right[name]} <= OF_THE_LOG
    # The version is the seed of what is explored.
    asked = [mine._replace(version=theirs.version) for mine, theirs in zip(judged, of_job, strict=True)]
    ranked = rank_batch(bundle, asked, shop.plain.view(shop.items, shop.mark), shop.rank_settings)
    for mine, theirs in zip(ranked, of_job, strict=True):
        assert list(mine.items) == list(theirs.items), theirs.user_id
