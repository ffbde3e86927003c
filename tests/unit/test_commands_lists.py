"""What people see of lists, models and counts, and whom the demo shows."""

import json
from collections.abc import Sequence

import pytest

from clients.producer import new_event
from clients.reader import Recommendations, Recommended
from schemas.records import Event, ModelPointer
from tailrace.commands.models import headline as metrics_headline
from tailrace.commands.recs import headline
from tailrace.demo_choice import CLICKS, choose_clicks, choose_customer
from tailrace.errors import UserError
from tailrace.job_counts import sum_counts
from tailrace.list_view import compare, mark
from tailrace.model_epochs import activations
from tailrace.model_switch import former_epoch


def pointer(epoch: int, action: str = "activate") -> ModelPointer:
    return ModelPointer(f"m{epoch}", epoch, f"/models/{epoch}", "00", 1_000, action)


def bought(user: str, visit: int, items: Sequence[str]) -> list[Event]:
    return [
        new_event(
            "purchase",
            user,
            item,
            event_id=f"{user}/{visit}/{item}",
            session_id=f"{user}/{visit}",
            event_time=1,
        )
        for item in items
    ]


def test_a_change_tells_what_came_what_went_and_how_far_the_others_moved() -> None:
    change = compare(["a", "b", "c"], ["c", "a", "d"])
    assert (change.came, change.left, change.moved) == (("d",), ("b",), {"c": 2, "a": -1})
    assert [mark(change, item) for item in "cad"] == ["+2", "-1", "new"]
    assert compare(["a"], ["a"]) == ((), (), {})


def test_a_popular_list_is_not_called_personal() -> None:
    items = (Recommended("i1", 1.0, "popular", None),)
    text = headline("u1", Recommendations("popular-3", items, "m3", "", None, None, "popular"))
    assert "no personal list" in text and "m3" in text


def test_the_epoch_before_is_the_one_that_served_and_not_the_one_published() -> None:
    history = [pointer(1), pointer(2, "publish"), pointer(2), pointer(2), pointer(3, "publish")]
    assert [found.epoch for found in activations(history)] == [1, 2]
    assert former_epoch(history) == 1
    assert former_epoch([*history, pointer(1)]) == 2


def test_any_epoch_that_served_can_be_gone_back_to_and_no_other() -> None:
    history = [pointer(1), pointer(2), pointer(3), pointer(4, "publish")]
    assert [former_epoch(history, wanted) for wanted in (1, 2, 3, None)] == [1, 2, 3, 2]
    with pytest.raises(UserError, match="epoch 4 never served") as refused:
        former_epoch(history, 4)
    assert refused.value.number == "TR-355"


def test_without_an_earlier_activation_there_is_nothing_to_go_back_to() -> None:
    with pytest.raises(UserError, match="no earlier epoch"):
        former_epoch([pointer(1), pointer(1), pointer(2, "publish")])


def test_counts_of_shards_are_summed_and_refusals_are_told_by_reason() -> None:
    shards = [
        {"_v": "0", "counts": {"events": 3, "accepted": 2, "refused_empty": 1}},
        {"_v": "1", "counts": {"events": 1, "duplicate": 1}},
    ]
    found = sum_counts({str(index): json.dumps(shard) for index, shard in enumerate(shards)})
    assert (found.events, found.shards, found.refused) == (4, 2, {"empty": 1})
    assert found.total["accepted"] + found.total["duplicate"] + found.refused["empty"] == found.events


def test_metrics_that_are_missing_leave_the_line_empty() -> None:
    metrics = {"held_out": {"model": {"all": {"hit_rate": 0.61, "lists": 9}}}}
    assert metrics_headline(metrics) == "hit rate 0.610"
    assert metrics_headline({}) == ""


def test_the_demo_shows_the_customer_who_came_most_often_among_those_with_a_list_to_look_over() -> None:
    many = [f"i{number}" for number in range(30)]
    events = [
        *bought("often", 1, many[:10]), *bought("often", 2, many[10:20]),
        *bought("often", 3, many[20:]), *bought("often", 4, many[:1]),
        *bought("trice", 1, many[:15]), *bought("trice", 2, many[15:]), *bought("trice", 3, many[:2]),
        *bought("seldom", 1, many),
        *[event for visit in range(9) for event in bought("few", visit, many[:2])],
    ]  # fmt: skip
    chosen = choose_customer(events)
    assert (chosen.user_id, chosen.visits) == ("often", 4)
    assert chosen.items[-1] == "i0", "an item bought again counts as the latest"
    assert choose_customer(reversed(events)).user_id == "often"


def test_the_demo_shows_somebody_even_where_nobody_has_much_of_a_history() -> None:
    assert choose_customer([*bought("a", 1, ["x"]), *bought("b", 1, ["x", "y"])]).user_id == "b"
    with pytest.raises(ValueError, match="no events"):
        choose_customer([])


def test_the_clicks_are_on_popular_items_of_one_category_that_the_customer_does_not_know() -> None:
    categories = {f"{kind}{number}": kind for kind in ("mug", "bag", "hat") for number in range(10)}
    categories |= {"odd": "other", "none": ""}
    popularity = {
        item: float(item[-1] in "357") + (item[:3] == "mug") for item in categories if item[-1].isdigit()
    }
    category, items = choose_clicks(["bag1"], categories, popularity, listed=["mug3"])
    assert category == "mug"
    assert list(items) == ["mug5", "mug7", "mug0"][:CLICKS]
    assert choose_clicks(["bag1"], categories, popularity, turn=1)[0] == "hat"
    assert choose_clicks(["bag1"], categories, popularity, turn=2)[0] == "bag"
    assert choose_clicks(["bag1"], categories, popularity, turn=3)[0] == "mug"
