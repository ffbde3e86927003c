"""The rules of attribution, one by one: which list an outcome is credited to, and why it is not."""

from __future__ import annotations

import pytest
from test_feedback_laws import LOGIC, RULES, served
from user_examples import DAY, HOUR, MINUTE, SECOND, T0, event, impression

from schemas.ids import item_hash
from schemas.records import Event, EventItem, Example, ExampleItem, ServedList
from udfs.feedback.feedback_logic import FeedbackLogic
from udfs.feedback.rules import FeedbackRules
from udfs.user_state import EMPTY


def outcome(kind: str, item: str, after_ms: int, name: str = "o", **fields: object) -> Event:
    return event(name, kind, item, T0 + after_ms, **fields)


class Told:
    """What came of some records: examples by list, credits by list and source, counters."""

    def __init__(self, *records: ServedList | Event, clock_ms: int = 0, rules: FeedbackRules = RULES) -> None:
        logic = FeedbackLogic(rules)
        state, steps = None, []
        for record in records:
            if isinstance(record, ServedList):
                steps.append(logic.on_list(state, record, clock_ms))
            else:
                steps.append(logic.on_event(state, record, record.event_time, clock_ms))
            state = steps[-1].state
        steps.append(logic.on_wake(state, T0 + 99 * DAY))
        assert steps[-1].state is None
        self.examples: dict[str, Example] = {one.rec_id: one for step in steps for one in step.examples}
        self.credits = {(one.rec_id, one.arm): one.reward for step in steps for one in step.credits}
        self.contexts: dict[str, set[tuple[int, ...]]] = {}
        for credit in (credit for step in steps for credit in step.credits):
            self.contexts.setdefault(credit.rec_id, set()).add(tuple(credit.context))
        self.counts = [name for step in steps for name in step.counts]

    def slot(self, rec_id: str, item: str) -> ExampleItem:
        return next(slot for slot in self.examples[rec_id].items if slot.item_id == item)


OLD = served("old", ("a", "b"), T0 - MINUTE)
NEW = served("new", ("b", "c"), T0)
OLD_SHOWN = impression("i1", ["a", "b"], "old", T0 - MINUTE + SECOND)
NEW_SHOWN = impression("i2", ["b", "c"], "new", T0 + SECOND)
BOTH = (OLD, NEW, OLD_SHOWN, NEW_SHOWN)


def test_a_list_that_nobody_answered_makes_an_example_of_nothing_and_a_credit_of_zero() -> None:
    told = Told(OLD, OLD_SHOWN)
    example = told.examples["old"]
    assert (example.version, example.epoch, example.variant) == ("v1", 3, "exp=b")
    assert (example.index_mark, example.snapshot) == (17, b"state")
    assert (example.list_time, example.shown_time) == (T0 - MINUTE, T0 - MINUTE + SECOND)
    assert example.items[1] == ExampleItem(
        "b", 1, 1, "popular", 0.0, 0.8, "none", 0.0, False, False, False, 0.0, 0.0
    )
    assert told.credits == {("old", "ranker"): 0.0, ("old", "popular"): 0.0}


def test_a_list_policy_earns_the_sum_of_its_lists_slots_and_one_at_most() -> None:
    drawn = NEW._replace(list_policy="spread")
    clicked = [drawn, NEW_SHOWN, outcome("click", "b", MINUTE, "o1"), outcome("click", "c", MINUTE, "o2")]
    assert Told(*clicked).credits["new", "list:spread"] == pytest.approx(2 * RULES.click_reward)
    bought = [outcome("purchase", item, 2 * MINUTE, f"o-{item}") for item in "bc"]
    assert Told(*clicked, *bought).credits["new", "list:spread"] == 1.0
    assert Told(drawn, NEW_SHOWN).credits["new", "list:spread"] == 0.0
    assert not [arm for _, arm in Told(NEW, NEW_SHOWN).credits if arm.startswith("list:")]


def test_of_a_list_that_was_written_twice_the_record_that_tells_more_is_kept() -> None:
    drawn = NEW._replace(list_policy="spread", source_probabilities=(0.2,) * 5)
    for order in ((NEW, drawn), (drawn, NEW)):
        told = Told(*order, NEW_SHOWN)
        assert told.examples["new"].list_policy == "spread" and ("new", "list:spread") in told.credits


def test_a_credit_says_what_was_known_of_the_user_when_the_list_was_made() -> None:
    known = EMPTY._replace(n_events=50, n_purchases=2).encode()
    told = Told(OLD._replace(snapshot=known), NEW, OLD_SHOWN, NEW_SHOWN)
    assert told.contexts["old"] == {(256, 126, 35)}
    assert told.contexts["new"] == {()}, "of a snapshot that nobody can read"


def test_last_touch_takes_the_outcome_and_it_counts_once() -> None:
    told = Told(*BOTH, outcome("click", "b", MINUTE))
    assert told.slot("new", "b").label == "click"
    assert told.slot("old", "b").label == "none"
    assert told.counts.count("click_joined") == 1
    assert told.credits["new", "ranker"] == RULES.click_reward
    assert sum(told.credits.values()) == RULES.click_reward


def test_an_outcome_goes_back_to_the_older_list_if_only_that_has_the_item() -> None:
    assert Told(*BOTH, outcome("click", "a", MINUTE)).slot("old", "a").clicked


def test_a_named_list_wins_over_the_last_touch() -> None:
    told = Told(*BOTH, outcome("click", "b", MINUTE, rec_id="old"))
    assert told.slot("old", "b").clicked and not told.slot("new", "b").clicked


def test_what_was_done_before_the_newer_list_was_seen_belongs_to_the_older_one() -> None:
    told = Told(*BOTH, outcome("click", "b", -MINUTE + 2 * SECOND), rules=RULES._replace(skew_ms=0))
    assert told.slot("old", "b").clicked and not told.slot("new", "b").clicked


@pytest.mark.parametrize(
    ("record", "counted"),
    [
        (outcome("click", "b", MINUTE, rec_id="unheard of"), "click_unknown_rec_id"),
        (outcome("click", "z", MINUTE, rec_id="new"), "click_item_not_in_list"),
        (outcome("click", "a", MINUTE, rec_id="unseen"), "click_never_shown"),
        (outcome("click", "c", MINUTE, rec_id="part"), "click_item_not_shown"),
        (outcome("click", "b", -2 * MINUTE, rec_id="new"), "click_before_shown"),
        (outcome("click", "b", HOUR, rec_id="new"), "click_outside_window"),
        (outcome("click", "b", 40 * HOUR, rec_id="new"), "click_outside_window"),
        (outcome("click", "z", MINUTE), "click_organic"),
        (outcome("add_to_cart", "b", 3 * HOUR), "add_to_cart_organic"),
        (outcome("purchase", "b", 3 * HOUR), "purchase_joined"),
        (outcome("purchase", "b", 25 * HOUR), "purchase_organic"),
        (outcome("purchase", "b", MINUTE, value=-5.0), "purchase_negative_value"),
        (event("o", "dwell", None, T0, value=9.0), "dwell_without_item"),
        (event("o", "impression", "b", T0), "impression_without_rec_id"),
        (impression("o", ["b"], "unheard of", T0), "impression_unknown_rec_id"),
        (impression("o", ["z"], "unseen", T0), "impression_of_other_items"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_joined_is_counted_with_its_reason(record: Event, counted: str) -> None:
    unseen, part = served("unseen", ("a",), T0), served("part", ("b", "c"), T0)
    told = Told(*BOTH, unseen, part, impression("i3", ["b"], "part", T0), record)
    assert told.counts.count(counted) == 1
    if not counted.endswith("joined"):
        assert all(slot.reward == 0.0 for one in told.examples.values() for slot in one.items)


def test_a_click_by_a_clock_that_runs_a_little_behind_counts() -> None:
    assert Told(NEW, NEW_SHOWN, outcome("click", "b", SECOND - RULES.skew_ms)).slot("new", "b").clicked
    told = Told(NEW, NEW_SHOWN, outcome("click", "b", SECOND - RULES.skew_ms - 1))
    assert not told.slot("new", "b").clicked


def test_an_impression_that_arrives_after_its_click_and_before_its_list_is_joined() -> None:
    told = Told(outcome("click", "b", MINUTE), NEW_SHOWN, NEW)
    assert told.slot("new", "b").clicked


def test_a_view_counts_as_a_click_only_if_it_names_the_list() -> None:
    assert Told(*BOTH, outcome("view", "b", MINUTE, rec_id="new")).slot("new", "b").clicked
    assert not Told(*BOTH, outcome("view", "b", MINUTE)).slot("new", "b").clicked


def test_the_greatest_outcome_labels_the_slot_and_all_are_noted() -> None:
    told = Told(
        *BOTH,
        outcome("click", "b", 1 * MINUTE, "o1"),
        outcome("dwell", "b", 2 * MINUTE, "o2", value=45.0),
        outcome("dwell", "b", 3 * MINUTE, "o3", value=12.0),
        outcome("add_to_cart", "b", 4 * MINUTE, "o4"),
        outcome("purchase", "b", 5 * MINUTE, "o5", value=20.0),
        outcome("purchase", "b", 6 * MINUTE, "o6", value=5.0),
    )
    assert told.slot("new", "b")[6:] == ("purchase", 1.0, True, True, True, 45.0, 25.0)


def test_a_short_stay_is_no_outcome() -> None:
    slot = Told(*BOTH, outcome("dwell", "b", MINUTE, value=29.0)).slot("new", "b")
    assert (slot.label, slot.reward, slot.dwell_s) == ("none", 0.0, 29.0)
    assert Told(*BOTH, outcome("dwell", "b", MINUTE, value=30.0)).slot("new", "b").label == "dwell"


def test_a_removal_undoes_the_cart_before_it_whichever_list_it_names() -> None:
    added = outcome("add_to_cart", "b", MINUTE, "o1", rec_id="old")
    removed = outcome("remove_from_cart", "b", 2 * MINUTE, "o2", rec_id="new")
    assert not Told(*BOTH, added, removed).slot("old", "b").carted
    assert not Told(*BOTH, removed, added).slot("old", "b").carted, "in either order of arrival"
    again = outcome("add_to_cart", "b", 3 * MINUTE, "o3", rec_id="old")
    assert Told(*BOTH, added, removed, again).slot("old", "b").carted
    too_late = outcome("remove_from_cart", "b", 3 * HOUR, "o2")
    assert Told(*BOTH, added, too_late).slot("old", "b").carted
    other = outcome("remove_from_cart", "a", 2 * MINUTE, "o2")
    assert Told(*BOTH, added, other).slot("old", "b").carted


def test_what_was_bought_stays_bought_when_the_cart_is_emptied() -> None:
    bought = outcome("purchase", "b", MINUTE, "o1", value=9.0)
    slot = Told(*BOTH, bought, outcome("remove_from_cart", "b", 2 * MINUTE, "o2")).slot("new", "b")
    assert (slot.label, slot.revenue) == ("purchase", 9.0)


def test_an_order_shares_its_value_among_its_items() -> None:
    lines = (EventItem("b"), EventItem("z"), EventItem("b"))
    told = Told(*BOTH, outcome("purchase", "c", MINUTE, items=lines, value=30.0))
    assert told.slot("new", "b").revenue == told.slot("new", "c").revenue == 10.0
    assert (told.counts.count("purchase_joined"), told.counts.count("purchase_organic")) == (2, 1)


def test_an_example_waits_for_the_purchase_and_the_credit_does_not() -> None:
    told = Told(*BOTH, outcome("click", "b", MINUTE, "o1"), outcome("purchase", "b", 20 * HOUR, "o2"))
    assert told.slot("new", "b").label == "purchase"
    assert told.credits["new", "ranker"] == RULES.click_reward


def test_only_what_was_shown_stands_in_the_example_at_the_place_where_it_was_shown() -> None:
    shown = event("i", "impression", None, T0, items=(EventItem("c", 4),), rec_id="new")
    assert [(slot.slot, slot.position) for slot in Told(NEW, shown).examples["new"].items] == [(1, 4)]
    bare = event("i", "impression", None, T0, rec_id="new")
    assert [slot.position for slot in Told(NEW, bare).examples["new"].items] == [0, 1]


def test_a_source_earns_the_mean_of_its_slots() -> None:
    three = served("three", ("a", "b", "c"), T0)  # ranker, popular, ranker
    shown = impression("i", ["a", "b", "c"], "three", T0)
    told = Told(three, shown, outcome("purchase", "a", MINUTE, value=1.0))
    assert told.credits == {("three", "ranker"): 0.5, ("three", "popular"): 0.0}


def test_a_list_shown_again_after_it_was_settled_makes_no_second_example() -> None:
    step = LOGIC.on_event(LOGIC.on_list(None, NEW, T0).state, NEW_SHOWN, NEW_SHOWN.event_time, T0)
    later = T0 + 3 * DAY
    again = LOGIC.on_event(step.state, impression("i9", ["b"], "new", later), later, later)
    assert len(again.examples) == 1
    assert again.counts[-1] == "impression_already_settled"
    resent = LOGIC.on_list(again.state, NEW, later)
    assert resent.counts == ("list_already_settled",)
    assert LOGIC.on_wake(resent.state, T0 + 99 * DAY).examples == ()


def test_records_behind_the_clock_are_counted_and_left_out() -> None:
    told = Told(NEW, NEW_SHOWN, clock_ms=T0 + SECOND + RULES.lateness_ms)
    assert told.examples == {}
    assert "impression_late" in told.counts
    assert Told(NEW, NEW_SHOWN, clock_ms=T0 + SECOND + RULES.lateness_ms - 1).examples


def test_a_list_served_twice_with_another_time_is_one_whichever_came_first() -> None:
    other = NEW._replace(served_time=NEW.served_time + 7)
    one, two = Told(NEW, other, NEW_SHOWN), Told(other, NEW, NEW_SHOWN)
    assert one.examples == two.examples and len(one.examples) == 1


def test_an_unseen_list_goes_some_time_after_a_newer_one_and_the_newest_stays() -> None:
    state = LOGIC.on_list(LOGIC.on_list(None, OLD, T0).state, NEW, T0).state
    step = LOGIC.on_wake(state, T0 + RULES.superseded_ms + RULES.lateness_ms)
    assert step.counts == ("list_never_shown",)
    assert [one.items for one in step.state.lists] == [(item_hash("b"), item_hash("c"))]
    assert LOGIC.on_wake(step.state, T0 + 30 * DAY + RULES.lateness_ms).state is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"click_reward": 1.5}, "click_reward: wanted 0 to 1"),
        ({"skew_ms": -1}, "skew_ms: wanted 0 or more"),
        ({"credit_ms": 2 * DAY}, "credit_ms: wanted 1 to the longest window"),
    ],
)
def test_rules_that_contradict_themselves_are_refused(change: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        FeedbackLogic(RULES._replace(**change))
