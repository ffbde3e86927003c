"""An hour of a simulated shop under several policies: what the loop of feedback brings, in click rates.

The parts are those of the jobs, called directly: users' states, ranking, the join of feedback, credits. Time is
simulated; nothing waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from schemas.ids import split_user_key, user_key
from schemas.records import Credit, Event, EventItem, Example, ServedItem, ServedList
from schemas.redis_keys import format_version
from tailrace.hidden_tastes import HiddenTastes, Taste
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

START_MS: Final = 1_700_000_000_000
MINUTE_MS: Final = 60_000
SECOND_MS: Final = 1_000
VISITS: Final = 0.2
"""Share of the users that come in a minute."""
RULES: Final = FeedbackRules(
    click_ms=2 * MINUTE_MS, dwell_ms=2 * MINUTE_MS, add_to_cart_ms=2 * MINUTE_MS, purchase_ms=3 * MINUTE_MS,
    credit_ms=2 * MINUTE_MS, skew_ms=0, lateness_ms=30 * SECOND_MS,
)  # fmt: skip
"""Windows of minutes, so that an hour has many turns of the loop."""


class Policy(NamedTuple):
    """How lists are made: from what users do or from how they came, with credits or without, or for all alike."""

    name: str
    learns: bool = True
    credited: bool = True
    popular: bool = False


POLICIES: Final = (
    Policy("the loop"),
    Policy("no credits", credited=False),
    Policy("frozen", learns=False),
    Policy("popular", popular=True),
)


@dataclass
class Hour:
    """What a policy earned.

    Attributes
    ----------
    shown, clicked
        By minute: lists, and lists with a click.
    examples, credits
        What the join gave within the hour.
    """

    shown: list[int] = field(default_factory=list)
    clicked: list[int] = field(default_factory=list)
    examples: int = 0
    credits: int = 0

    def rate(self, first: int, last: int) -> float:
        """Return the click rate of the minutes from `first` to before `last`."""
        return sum(self.clicked[first:last]) / max(sum(self.shown[first:last]), 1)


class Shop:
    """One policy's shop.

    Parameters
    ----------
    bundle, tastes, policy, settings
        What ranks, who comes, how lists are made.

    Attributes
    ----------
    hour
        What it earned.
    running
        Experiments in it; `examples` are those of while one ran.
    """

    def __init__(self, bundle: Bundle, tastes: HiddenTastes, policy: Policy, settings: RankSettings) -> None:
        self.hour = Hour()
        self.running = RunningExperiments()
        self.examples: list[Example] = []
        self._bundle, self._tastes, self._policy, self._settings = bundle, tastes, policy, settings
        self._view = CatalogueView(bundle)
        self._users = UserLogic(LogicSettings(), {bundle.epoch: bundle.items.factors})
        self._feedback = FeedbackLogic(RULES)
        self._states: dict[str, UserState | None] = {}
        self._kept: dict[str, FeedbackState | None] = {}
        self._offset = 0
        for user in tastes.users:
            for number, item in enumerate(tastes.browsed_before(user)):
                at_ms = START_MS - (10 - number) * MINUTE_MS
                self._apply(self._event(user, f"before-{number}", "view", at_ms, item))

    def minute(self, minute: int) -> None:
        """Let a minute pass: credits arrive, users come, see their list and click."""
        now_ms = START_MS + minute * MINUTE_MS
        for key, kept in list(self._kept.items()):
            self._settle(key, self._feedback.on_wake(kept, now_ms))
        come = [user for user in self._tastes.users if self._tastes.comes(user, minute, VISITS)]
        clicked = 0
        for user, served in zip(come, self._lists(come, now_ms), strict=True):
            items = [item.item_id for item in served.items]
            places = self._tastes.clicks(user, minute, items)
            clicked += bool(places)
            key = user_key("default", user.user_id)
            self._settle(key, self._feedback.on_list(self._kept.get(key), served, now_ms))
            shown = tuple(EventItem(item, place) for place, item in enumerate(items))
            events = [self._event(user, f"{minute}-shown", "impression", now_ms, None, served.rec_id, shown)]
            for place in places:
                at_ms = now_ms + (place + 1) * SECOND_MS
                events.append(
                    self._event(user, f"{minute}-{place}", "click", at_ms, items[place], served.rec_id)
                )
            for event in events:
                step = self._feedback.on_event(self._kept.get(key), event, event.event_time, now_ms)
                self._settle(key, step)
                if self._policy.learns:
                    self._apply(event)
        self.hour.shown.append(len(come))
        self.hour.clicked.append(clicked)

    def _lists(self, come: list[Taste], now_ms: int) -> list[ServedList]:
        alike: dict[str, tuple[RankSettings, list[Snapshot]]] = {}
        labels: dict[str, str] = {}
        for user in come:
            key = user_key("default", user.user_id)
            label, changes = self.running.of_user(key)
            labels[key] = label
            ranking = replace(self._settings, **changes)
            alike.setdefault(repr(sorted(changes.items())), (ranking, []))[1].append(
                self._snapshot(key, now_ms)
            )
        made = {}
        for ranking, snapshots in alike.values():
            for snapshot, one in zip(
                snapshots, rank_batch(self._bundle, snapshots, self._view, ranking), strict=True
            ):
                made[snapshot.key] = ServedList(
                    f"{one.rec_id}-{now_ms}", one.tenant, one.user_id, one.version, now_ms, now_ms, one.epoch,
                    one.model_version, labels[snapshot.key], 0, tuple(ServedItem(*item) for item in one.items), b"",
                )  # fmt: skip
        return [made[user_key("default", user.user_id)] for user in come]

    def _snapshot(self, key: str, now_ms: int) -> Snapshot:
        state = None if self._policy.popular else self._states.get(key)
        data = b"" if state is None else self._users.refresh_embedding(state, self._bundle.epoch).encode()
        version = format_version(0, now_ms // MINUTE_MS, 0)
        return Snapshot(key, *split_user_key(key), version, now_ms, self._bundle.epoch, data)

    def _settle(self, key: str, step: FeedbackStep) -> None:
        self._kept[key] = step.state
        self.hour.examples += len(step.examples)
        if self.running.experiments:
            self.examples += step.examples
        self.hour.credits += len(step.credits)
        if self._policy.learns and self._policy.credited:
            self._credit(key, step.credits)

    def _credit(self, key: str, credits: Iterable[Credit]) -> None:
        for credit in credits:
            self._offset += 1
            self._states[key] = self._users.on_credit(
                self._states.get(key), credit, Position(0, self._offset)
            ).state

    def _apply(self, event: Event) -> None:
        key = user_key(event.tenant, event.user_id)
        self._offset += 1
        place = Position(0, self._offset)
        step = self._users.on_event(self._states.get(key), event, event.event_time, place, self._bundle.epoch)
        self._states[key] = step.state

    def _event(
        self,
        user: Taste,
        name: str,
        kind: str,
        at_ms: int,
        item: str | None,
        rec_id: str | None = None,
        items: tuple[EventItem, ...] = (),
    ) -> Event:
        return Event(
            f"{user.user_id}-{name}", kind, "default", user.user_id, None, item, at_ms, at_ms, rec_id, items, None,
            None, {}, "personalization",
        )  # fmt: skip


def play(
    bundle: Bundle,
    users: int,
    minutes: int,
    seed: int,
    settings: RankSettings,
    tell: Callable[[str, float], None] | None = None,
) -> dict[str, Hour]:
    """Let the same users come under each policy, and return what each earned."""
    tastes = HiddenTastes(bundle, users, seed)
    hours = {}
    for policy in POLICIES:
        shop = Shop(bundle, tastes, policy, settings)
        for minute in range(minutes):
            shop.minute(minute)
            if tell is not None:
                tell(policy.name, (minute + 1) / minutes)
        hours[policy.name] = shop.hour
    return hours
