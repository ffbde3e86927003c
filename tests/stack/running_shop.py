"""A deployment that many tests share, in step with the plain run of all that was ever sent to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from flink_jobs.list_entry import marks_text
from flink_jobs.rank_settings import rank_settings
from flink_jobs.shards import shard_of
from flink_jobs.user_view import recent_items, user_features
from schemas.codec import encode
from schemas.ids import item_hash, split_user_key, user_key
from schemas.records import Event, Item, ServedList, SessionDelta
from schemas.redis_keys import user_keys
from tests.stack.deployment import Deployment, until
from tests.stack.plain_run import PlainRun, Row
from tests.stack.shop import CUT_MS, catalogue, traffic
from udfs.model.bundle import Bundle
from udfs.ranking.live_sessions import LiveSessions
from udfs.user_logic import LogicSettings
from udfs.user_state import UserState

EVENTS, SESSIONS, SERVED = "recs.events.v1", "recs.sessions.v1", "recs.served.v1"
ORDER_DIGITS = 12
"""At the end of a version: the order under which a list was made. In front of them: what it was made of."""


class RunningShop:
    """The job, what was sent to it, and what must have come of that.

    Attributes
    ----------
    plain
        The plain run up to the last `catch_up`.
    now_ms
        Event time behind everything sent so far; tests that make events of their own take later ones.
    """

    def __init__(
        self, deployment: Deployment, bundles: dict[int, Bundle], use: Callable[[Deployment], object]
    ) -> None:
        self.deployment = deployment
        self.bundles = bundles
        self.items: list[Item] = []
        self.mark = 0
        self.now_ms = CUT_MS
        self._use = use
        self._sent = 0
        self._seen = 0
        self._made = 0
        self._failed_ms = 0
        self._compared = 0
        self._logged: dict[str, str] = {}
        self._logged_rows = 0
        settings = deployment.settings
        job = settings.job
        logic = LogicSettings(job.session_gap_ms, job.forget_after_ms, job.shards)
        self.plain = PlainRun(bundles[1], logic, max_event_bytes=job.max_event_bytes)
        self.rank_settings = rank_settings(settings)

    def ready(self) -> None:
        """Let the job run; the first time with the catalogue, and epoch 1 active in every shard."""
        if not self.items:
            self.items = catalogue()
            self.mark = self.deployment.publish_items(self.items)
        self._use(self.deployment)
        if not self.plain.control_seq:
            self.deployment.produce(self.probes("first"))
            self.deployment.wait_until_read()
            self.plain.control_seq = 1 + self.deployment.activate(1)
            # Each shard owes its probe a list as soon as it knows the epoch.
            self.catch_up()
        elif self.deployment.ends(EVENTS) > self._seen:  # a test failed before it looked
            self.deployment.order("republish")
            self._read()
            self.republish()

    def publish(self, items: Sequence[Item]) -> None:
        """Change the catalogue, and wait until every worker has read it, which it does before it ranks."""
        self.mark = self.deployment.publish_items(items)
        self.items += items
        turn = 0

        def known_to_all() -> bool:
            nonlocal turn
            turn += 1
            probes = self.probes(f"catalogue-{self.mark}-{turn}")
            self.deployment.produce(probes)
            self.skip_to(self.deployment.rows(EVENTS))
            versions, keys = self.plain.versions(), [user_key(one.tenant, one.user_id) for one in probes]
            self.deployment.wait_for_versions({key: versions[key] for key in keys})
            return {int(list_["_mark"]) for list_ in self.deployment.lists(keys).values()} == {self.mark}

        until(known_to_all, 60, f"lists of every shard with catalogue mark {self.mark}")

    def probes(self, name: str) -> list[Event]:
        """Give a search in every shard: what is ranked at once and depends on no model."""
        shards = self.deployment.settings.job.shards
        users: dict[int, str] = {}
        number = 0
        while len(users) < shards:
            user = f"probe-{number}"
            users.setdefault(shard_of(user_key("default", user), shards), user)
            number += 1
        return [self.event("search", user, event_id=f"{name}-{user}") for user in users.values()]

    def event(self, event_type: str, user_id: str, item_id: str | None = None, **fields: object) -> Event:
        """Give an event a second after the one before."""
        self._made += 1
        self.now_ms += 1_000
        made = Event(
            f"made-{self._made}", event_type, "default", user_id, None, item_id, self.now_ms, self.now_ms,
            None, (), None, None, {}, "personalization",
        )  # fmt: skip
        return made._replace(**fields)  # type: ignore[arg-type]

    def next_traffic(self, count: int) -> list[Event]:
        """Take the shop's next events."""
        events = traffic(count, self._sent)
        self._sent += count
        self.now_ms = max(self.now_ms, *(event.event_time for event in events))
        return events

    def known_items(self, count: int) -> list[str]:
        """Give items that the bundles know, the most popular ones."""
        items = self.bundles[1].items
        best = np.argsort(-items.columns.popularity, kind="stable")
        return [items.item_ids[row] for row in best[:count]]

    # --- comparing ----------------------------------------------------------------------------------------

    def catch_up(self, timeout_s: float = 240.0) -> None:
        """Run what was sent since through the plain run, and wait until the job has written those lists."""
        self._read(timeout_s)
        self.deployment.wait_for_versions(self.plain.versions(), timeout_s)

    def catch_up_with_log(self, timeout_s: float = 240.0) -> int:
        """Wait until the log of lists has everyone's newest, whatever order stood; give how many records it has.

        A list is in the store some time before it is there.
        """
        self._read(timeout_s)
        wanted = {key: version[:-ORDER_DIGITS] for key, version in self.plain.versions().items()}

        def missing() -> list[str]:
            for list_ in self.deployment.records(SERVED, "ServedList", self._logged_rows):
                key, made_of = user_key(list_.tenant, list_.user_id), list_.version[:-ORDER_DIGITS]
                self._logged[key] = max(made_of, self._logged.get(key, ""))
                self._logged_rows += 1
            return [key for key in wanted if self._logged.get(key, "") < wanted[key]]

        until(lambda: not missing(), timeout_s, lambda: f"lists in the log: {missing()[:5]}", 0.2)
        return self._logged_rows

    def _read(self, timeout_s: float = 240.0) -> None:
        """Wait until the job has read all events, and run them through the plain run."""
        failed_ms = self.deployment.last_failure_ms()
        if failed_ms > self._failed_ms:
            # The counts in the store may be ahead of the state that the job went back to: each shard tells its again.
            self._failed_ms = failed_ms
            self.deployment.produce(self.probes(f"failed-{failed_ms}"))
        self.deployment.wait_until_read(timeout_s)
        self.skip_to(self.deployment.rows(EVENTS))

    def catch_up_after_republish(self, timeout_s: float = 120.0) -> None:
        """Wait until everyone has the list that the newest order, a republish, gives them."""
        self._read(timeout_s)
        self.plain.republish(self.deployment.ends("recs.control.v1"))
        self.deployment.wait_for_versions(self.plain.versions(), timeout_s)

    def skip_to(self, rows: Sequence[Row]) -> None:
        """Run what was sent since through the plain run, without a look at the lists."""
        self.plain.run(rows[self._seen :])
        self._seen = len(rows)

    def check_lists(self, keys: Sequence[str] | None = None, sessions: LiveSessions | None = None) -> int:
        """Compare every list in the store, item by item; give how many there are."""
        wanted = self.plain.lists(self.items, self.mark, self.rank_settings, keys, sessions)
        found = self.deployment.lists(wanted)
        for key, ranked in wanted.items():
            list_ = found[key]
            assert list_, f"{key}: no list"
            assert (
                list_["rec_id"], list_["_v"], int(list_["_wm"]), int(list_["_epoch"]), list_["_model"],
                list_["_mark"], list_["items"],
            ) == (
                ranked.rec_id, ranked.version, ranked.at_ms, ranked.epoch, ranked.model_version,
                marks_text(ranked.index_mark, ranked.session_mark, ranked.weights_version), ranked.items,
            ), key  # fmt: skip
        return len(wanted)

    def check_views(self, keys: Iterable[str]) -> None:
        """Compare the last items and the features beside the lists of some users."""
        items = self.plain.view(self.items, self.mark).index
        item_of = {item_hash(item): item for item in items.item_ids}
        for key in keys:
            state, names = self.plain.ranked[key], user_keys(*split_user_key(key))
            assert self.deployment.redis.lrange(names.session, 0, -1) == recent_items(state, item_of)
            features = user_features(state, items.category_names)
            served = self.deployment.redis.hgetall(names.features)
            assert {name: served.get(name, "") for name in features} == {
                name: str(value) for name, value in features.items()
            }

    def republish(self, timeout_s: float = 120.0) -> dict[str, ServedList]:
        """Have everyone's list written anew; give what the job served: each user's, with the state."""
        before = len(self.deployment.rows(SERVED))
        control_seq = 1 + self.deployment.order("republish")
        self.plain.republish(control_seq)
        versions = self.plain.versions()
        self.deployment.wait_for_versions(versions, timeout_s)
        served: dict[str, ServedList] = {}

        def all_there() -> bool:
            for list_ in self.deployment.records(SERVED, "ServedList", before):
                if int(list_.version[-ORDER_DIGITS:], 16) == control_seq:
                    served[user_key(list_.tenant, list_.user_id)] = list_
            return set(versions) <= set(served)

        until(all_there, 60, lambda: f"{len(versions)} served lists, there are {len(served)}", 0.5)
        return served

    def check_states(self, timeout_s: float = 120.0) -> int:
        """Republish, and compare the bytes of every user's state; give the number of users."""
        served = self.republish(timeout_s)
        wanted = self.plain.state_bytes()
        assert set(served) == set(wanted)
        for key, state in wanted.items():
            if served[key].snapshot != state:
                assert UserState.decode(served[key].snapshot)._asdict() == UserState.decode(state)._asdict()
            assert served[key].snapshot == state, key
        return len(wanted)

    def check_deltas(self, timeout_s: float = 60.0) -> int:
        """Compare what sessions have gained since the last call, each exactly once; give how many there ever were."""
        total = len(self.plain.deltas)
        until(
            lambda: len(self.deployment.rows(SESSIONS)) >= total,
            timeout_s,
            lambda: f"{total} deltas, there are {len(self.deployment.rows(SESSIONS))}",
            0.5,
        )
        wanted = sorted(self.plain.deltas[self._compared :], key=_place)
        found = sorted(self.deployment.records(SESSIONS, "SessionDelta", self._compared), key=_place)
        assert [_place(delta) for delta in found] == [_place(delta) for delta in wanted]
        assert [encode(delta) for delta in found] == [encode(delta) for delta in wanted]
        self._compared = total
        return total

    def check_counts(self) -> dict[str, int]:
        """Compare the totals of events."""
        self.deployment.wait_until_read()
        found = self.deployment.counts()
        assert {name: found.get(name, 0) for name in self.plain.counts} == dict(self.plain.counts)
        return found


def _place(delta: SessionDelta) -> tuple[int, int, int]:
    return delta.partition, delta.offset, delta.n
