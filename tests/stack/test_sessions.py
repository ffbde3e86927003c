"""Lists that are made with everybody's sessions, as the job itself publishes them."""

from __future__ import annotations

import numpy as np
import pytest

from flink_jobs.list_entry import marks_text
from schemas.ids import item_hash, user_key
from tests.stack.deployment import Deployment, until
from tests.stack.running_shop import SESSIONS, RunningShop
from udfs.ranking.live_sessions import LiveSessions, session_key
from udfs.ranking.rank import RankSettings

pytestmark = pytest.mark.stack
EVENTS = 8_000


def published(deployment: Deployment) -> LiveSessions:
    """Read the topic's one partition into a session source, record by record."""
    live = LiveSessions()
    for delta in deployment.records(SESSIONS, "SessionDelta"):
        name = session_key(user_key(delta.tenant, delta.user_id), delta.session_ordinal)
        live.observe(np.array([name], np.uint64), np.array([item_hash(delta.item_id)], np.uint64))
    live.mark = deployment.ends(SESSIONS)
    return live


def republish_until_learnt(shop: RunningShop, mark: int) -> None:
    """Have all lists written anew until every worker has read the sessions to their end: it reads before it ranks."""

    def learnt() -> bool:
        shop.republish()
        lists = shop.deployment.lists(shop.plain.ranked)
        return {list_["_mark"] for list_ in lists.values()} == {marks_text(shop.mark, mark)}

    until(learnt, 60, f"lists made with session mark {mark}")


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
    deployment.stop()
    shop.ready()
    republish_until_learnt(shop, sessions.mark)
    assert shop.check_lists(sessions=sessions) > 100
