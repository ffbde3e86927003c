"""The feedback job's keyed step in days of event time a second, killed and started again: what a batch join says."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from user_examples import DAY, HOUR, MINUTE, SECOND, T0, event, impression

from flink_jobs.settings import Settings, load
from schemas.codec import decode, encode
from schemas.ids import user_key
from schemas.records import Control, Credit, DeadLetter, Event, Example, ServedItem, ServedList
from schemas.validation import effective_time
from tests.feedback_task import FeedbackTask, Sent
from udfs.bandits.credit_sums import CreditSums
from udfs.feedback.join_rate import join_rate
from udfs.feedback.reference import join
from udfs.feedback.rules import FeedbackRules

from flink_jobs.feedback_shell import CREDIT, DEAD_LETTER, EXAMPLE, SOURCES, SUMS  # isort: skip

EVENTS, CONTROL, SERVED = SOURCES
WALL_MS = 1_900_000_000_000
USERS, LISTS = 12, 300
SPEED = 20_000
"""Event time over wall time: the log's thirty days take two minutes."""


@pytest.fixture
def settings() -> Settings:
    return load(environment={}, job={"shards": 4}, redis={"url": "redis://127.0.0.1:1/0"})


def sent(record: ServedList | Event | Control, at_ms: int) -> Sent:
    topic = {ServedList: SERVED, Event: EVENTS, Control: CONTROL}[type(record)]
    key = user_key(record.tenant or "default", record.user_id or "")
    return Sent(WALL_MS + (at_ms - T0) // SPEED, topic, key, encode(record), at_ms)


def shop(seed: int = 0) -> list[Sent]:
    """Lists, each shown seconds later, and what users did: named or not, twice, in time; then a quiet user."""
    rng = np.random.default_rng(seed)
    records: list[tuple[int, ServedList | Event]] = []
    for number in range(LISTS):
        user, at_ms = f"u{rng.integers(USERS)}", T0 + int(rng.integers(30 * DAY))
        items = [f"item-{item}" for item in rng.permutation(20)[:5]]
        slots = tuple(
            ServedItem(item, 1.0 - n, ("ranker", "popular")[n % 2], 0.5) for n, item in enumerate(items)
        )
        served = ServedList(
            f"r{number}", "default", user, "v", at_ms, at_ms, 3, "m", "", 1, slots, b"snapshot"
        )
        records.append((at_ms, served))
        shown_ms = at_ms + 5 * SECOND
        records.append(
            (shown_ms, impression(f"i{number}", items, f"r{number}", shown_ms)._replace(user_id=user))
        )
        for place, kind in enumerate(("click", "add_to_cart", "purchase")):
            if rng.random() < 0.5:
                after_ms = shown_ms + (place + 1) * int(rng.integers(1, 15 * MINUTE))
                did = event(
                    f"{kind}{number}", kind, items[int(rng.integers(5))], after_ms, user_id=user,
                    rec_id=f"r{number}" if rng.random() < 0.5 else None, value=9.5 if place == 2 else None,
                )  # fmt: skip
                records.append((after_ms, did))
                if rng.random() < 0.2:
                    records.append((after_ms, did))
    end_ms = max(at_ms for at_ms, _ in records)
    records += [
        (end_ms + 40 * DAY + number, event(f"end{number}", "view", user_id=f"end{number}"))
        for number in range(30)
    ]
    return [sent(record, at_ms) for at_ms, record in sorted(records, key=lambda pair: pair[0])]


def reference(records: list[Sent]) -> tuple[set[Example], set[tuple[str, str, float, int]]]:
    """Join the log user by user at once."""
    examples, credits = set(), set()
    for key in {one.key for one in records}:
        own = [one for one in records if one.key == key]
        lists = [decode("ServedList", one.value) for one in own if one.topic == SERVED]
        events = [decode("Event", one.value) for one in own if one.topic == EVENTS]
        made = join(lists, [(one, effective_time(one)[0]) for one in events], FeedbackRules())
        examples |= made[0]
        credits |= made[1]
    return examples, credits


def made(task: FeedbackTask) -> tuple[list[Example], list[Credit]]:
    examples = [decode("Example", row[2]) for row in task.rows if row[0] == EXAMPLE]
    credits = [decode("Credit", row[2]) for row in task.rows if row[0] == CREDIT]
    return examples, credits


def run_out(task: FeedbackTask, records: list[Sent]) -> None:
    """Send the end of the log, and again, so that the clock gets there."""
    for repeat in range(4):
        task.send([one._replace(arrival_ms=task.now_ms + 1_000 + n) for n, one in enumerate(records[-30:])])
        task.rest(4_000 if repeat else 1_000)


@pytest.mark.parametrize("kills", [0, 2])
def test_a_log_in_order_at_any_speed_and_over_kills_is_joined_as_a_whole(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    records = shop()
    task = FeedbackTask(settings, monkeypatch, WALL_MS)
    body = records[:-30]
    if kills:
        for start in range(0, len(body), len(body) // 3 + 1):
            part = body[start : start + len(body) // 3 + 1]
            checkpoint = task.checkpoint()
            task.send(part[: len(part) // 2])  # lost with the process
            task.restore(checkpoint)
            wait_ms = task.now_ms + 10_000 - part[0].arrival_ms
            task.send([one._replace(arrival_ms=one.arrival_ms + wait_ms) for one in part])
    else:
        task.send(body)
    run_out(task, records)
    examples, credits = made(task)
    wanted, wanted_credits = reference(records)
    assert len(wanted) == LISTS
    assert set(examples) == wanted and len(examples) == len(wanted)
    assert {(one.rec_id, one.arm, one.reward, one.event_time) for one in credits} == wanted_credits
    assert len(credits) == len(wanted_credits) == len({one.credit_id for one in credits})
    packets = [CreditSums.decode(row[2]) for row in task.rows if row[0] == SUMS]
    assert reduce(CreditSums.merge, packets) == CreditSums().add(credits), "what goes to the second step"
    counts = task.counts()
    assert join_rate(counts) == 1.0
    assert counts["examples"] == LISTS and counts["impression_joined"] == LISTS
    assert task.users() == 0, "all is settled, and forgotten"


def test_records_leave_with_the_time_at_which_they_were_settled(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = shop()
    task = FeedbackTask(settings, monkeypatch, WALL_MS)
    task.send(records[:-30])
    run_out(task, records)
    assert all(decode("Credit", row[2]).event_time == row[3] for row in task.rows if row[0] == CREDIT)
    assert all(decode("Example", row[2]).settled_time == row[3] for row in task.rows if row[0] == EXAMPLE)


def test_bad_lists_go_to_the_dead_letters_and_bad_events_are_counted(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = FeedbackTask(settings, monkeypatch, WALL_MS)
    good = decode("ServedList", next(one for one in shop() if one.topic == SERVED).value)
    assert isinstance(good, ServedList)
    slot = good.items[0]
    bad = [
        b"",
        b"\x01\x02\x03",
        encode(good)[:-4],
        encode(good._replace(user_id="other")),
        encode(good._replace(rec_id="")),
        encode(good._replace(event_time=0)),
        encode(good._replace(items=(slot._replace(score=float("nan")),))),
        encode(good._replace(items=(slot._replace(propensity=0.0),))),
    ]
    key = user_key("default", good.user_id)
    task.send([Sent(WALL_MS + n, SERVED, key, value, T0) for n, value in enumerate(bad)])
    task.send([Sent(WALL_MS + 2_000, EVENTS, key, b"junk", T0), Sent(WALL_MS + 2_001, CONTROL, key, b"", T0)])
    letters = [decode("DeadLetter", row[2]) for row in task.rows if row[0] == DEAD_LETTER]
    assert [one.value for one in letters if isinstance(one, DeadLetter)] == bad
    assert {(one.topic, one.job) for one in letters if isinstance(one, DeadLetter)} == {(SERVED, "feedback")}
    counts = task.counts()
    assert sum(count for name, count in counts.items() if name.startswith("list_refused_")) == len(bad)
    assert counts["event_refused_wrong_magic"] == 1 and counts["order_refused_empty"] == 1
    assert task.users() == 0


def test_what_finds_no_partner_is_counted_with_a_reason(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = shop()
    late_ms = T0 + 29 * DAY
    odd = [
        sent(impression("odd1", ["item-1"], "nobody's", late_ms), late_ms),
        sent(event("odd2", "click", "item-1", late_ms, rec_id="nobody's"), late_ms + 1),
        sent(event("odd3", "click", "item-1", late_ms, user_id="stranger"), late_ms + 2),
        sent(impression("odd4", ["item-1"], None, late_ms), late_ms + 3),
    ]
    task = FeedbackTask(settings, monkeypatch, WALL_MS)
    task.send(sorted([*records[:-30], *odd], key=lambda one: one.arrival_ms))
    long_ago = event("odd5", "click", "item-1", T0 - HOUR)
    task.send([sent(long_ago, T0)._replace(arrival_ms=task.now_ms + 2_000)])
    run_out(task, records)
    counts = task.counts()
    names = ("impression_unknown_rec_id", "click_unknown_rec_id", "impression_without_rec_id", "click_late")
    assert [counts.get(name) for name in names] == [1, 1, 1, 1]
    assert counts["click_organic"] >= 1
    assert join_rate(counts) == LISTS / (LISTS + 2)


def test_an_erased_user_leaves_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    records = shop()
    body = [one for one in records[:-30] if one.key == user_key("default", "u3")]
    task = FeedbackTask(settings, monkeypatch, WALL_MS)
    task.send(body[:1])
    assert task.users() == 1
    order = Control("c", "erase_user", "default", "u3", None, None, T0, "")
    task.send([sent(order, T0)._replace(arrival_ms=task.now_ms + 5_000)])
    assert task.users() == 0 and task.counts()["erased"] == 1
