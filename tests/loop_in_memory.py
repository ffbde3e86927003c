"""The simulated shop without a stack: the jobs' parts called directly, one minute after the other.

Users' states, ranking, the join of feedback and credits are those of the jobs; nothing waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from schemas.ids import split_user_key, user_key
from schemas.records import Credit, Event, Example, ServedItem, ServedList
from schemas.redis_keys import format_version
from tailrace.hidden_tastes import MINUTE_MS, HiddenTastes, Visit
from tailrace.loop_stack import FEEDBACK
from udfs.experiments.holdout import UNTIL, cut_off
from udfs.experiments.running import RunningExperiments
from udfs.feedback.feedback_logic import FeedbackLogic, FeedbackStep
from udfs.feedback.feedback_state import FeedbackState
from udfs.feedback.rules import FeedbackRules
from udfs.model.bundle import Bundle
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.rank import RankSettings, rank_batch
from udfs.ranking.snapshot import Snapshot
from udfs.user_logic import LogicSettings, Position, UserLogic
from udfs.user_state import UserState

RULES = FeedbackRules(**{name: value for name, value in FEEDBACK.items() if name in FeedbackRules._fields})


class ShopInMemory:
    """The shop, and its examples and credits so far."""

    def __init__(self, bundle: Bundle, tastes: HiddenTastes, running: RunningExperiments) -> None:
        self.running, self.examples, self.credits = running, list[Example](), list[Credit]()
        self.visits = 0
        self.tastes, self._bundle, self._tastes = tastes, bundle, tastes
        self._view = CatalogueView(bundle)
        self._users = UserLogic(LogicSettings(), {bundle.epoch: bundle.items.factors})
        self._feedback = FeedbackLogic(RULES)
        self._states: dict[str, UserState | None] = {}
        self._kept: dict[str, FeedbackState | None] = {}
        self._offset = 0
        for user in tastes.users:
            for event in tastes.browsed_before(user):
                self._apply(event)

    def minute(self, minute: int) -> None:
        """Let a minute pass: credits arrive, users come, see their list and click."""
        now_ms = self._tastes.start_ms + minute * MINUTE_MS
        for key, kept in list(self._kept.items()):
            self._settle(key, self._feedback.on_wake(kept, now_ms))
        visits = self._tastes.visits(minute)
        self.visits += len(visits)
        for visit, served in zip(visits, self._lists(visits), strict=True):
            key = user_key("default", visit.user.user_id)
            self._settle(key, self._feedback.on_list(self._kept.get(key), served, now_ms))
            for event in self._tastes.answer(visit, served.rec_id, [item.item_id for item in served.items]):
                self._settle(
                    key, self._feedback.on_event(self._kept.get(key), event, event.event_time, now_ms)
                )
                self._apply(event)

    def _lists(self, visits: list[Visit]) -> list[ServedList]:
        alike: dict[str, tuple[Mapping[str, Any], list[Snapshot]]] = {}
        labels = {}
        for visit in visits:
            key = user_key("default", visit.user.user_id)
            labels[key], changes = self.running.of_user(key)
            alike.setdefault(repr(sorted(changes.items())), (changes, []))[1].append(
                self._snapshot(key, visit.at_ms)
            )
        made = {}
        for changes, snapshots in alike.values():
            how = dict(changes)
            until_s = how.pop(UNTIL, None)
            if until_s is not None:
                snapshots = cut_off(snapshots, until_s, self._bundle.items, self._bundle.epoch)
            ranked = rank_batch(self._bundle, snapshots, self._view, replace(RankSettings(), **how))
            for snapshot, one in zip(snapshots, ranked, strict=True):
                made[snapshot.key] = ServedList(
                    f"{one.rec_id}-{one.at_ms}", one.tenant, one.user_id, one.version, one.at_ms, one.at_ms,
                    one.epoch, one.model_version, labels[snapshot.key], 0,
                    tuple(ServedItem(*item) for item in one.items), b"",
                )  # fmt: skip
        return [made[user_key("default", visit.user.user_id)] for visit in visits]

    def _snapshot(self, key: str, at_ms: int) -> Snapshot:
        state = self._states[key]
        assert state is not None
        data = self._users.refresh_embedding(state, self._bundle.epoch).encode()
        version = format_version(0, self._offset, 0)
        return Snapshot(key, *split_user_key(key), version, at_ms, self._bundle.epoch, data)

    def _settle(self, key: str, step: FeedbackStep) -> None:
        self._kept[key] = step.state
        self.examples += step.examples
        self.credits += step.credits
        for credit in step.credits:
            self._offset += 1
            place = Position(0, self._offset)
            self._states[key] = self._users.on_credit(self._states.get(key), credit, place).state

    def _apply(self, event: Event) -> None:
        key = user_key(event.tenant, event.user_id)
        self._offset += 1
        place = Position(0, self._offset)
        step = self._users.on_event(self._states.get(key), event, event.event_time, place, self._bundle.epoch)
        self._states[key] = step.state


def play(
    bundle: Bundle, tastes: HiddenTastes, minutes: int, running: RunningExperiments | None = None
) -> ShopInMemory:
    """Let some minutes pass."""
    shop = ShopInMemory(bundle, tastes, RunningExperiments() if running is None else running)
    for minute in range(minutes):
        shop.minute(minute)
    return shop
