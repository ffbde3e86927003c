"""What variants earned: sums that are the same from any shards in any order, and errors by users."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.records import Example, ExampleItem
from udfs.experiments.experiment import METRICS
from udfs.experiments.ratio import Ratio, difference
from udfs.experiments.variant_sums import Label, UserTotals, VariantSums, count, gains_of

T0 = 1_763_700_000_000


def example(
    user: str, variant: str, clicked: bool = False, revenue: float = 0.0, number: int = 0, items: str = "ab"
) -> Example:
    slots = tuple(
        ExampleItem(
            item,
            n,
            n,
            "ranker",
            1.0,
            0.9,
            "none",
            0.0,
            clicked and not n,
            False,
            revenue > 0,
            0.0,
            revenue / len(items),
        )
        for n, item in enumerate(items)
    )
    at_ms = T0 + 1_000 * number
    return Example(f"r{number}", "default", user, "v", at_ms, at_ms, at_ms, 3, "m", variant, 0, slots, b"")


@st.composite
def logs(draw: st.DrawFn) -> list[Example]:
    result = []
    for number in range(draw(st.integers(0, 30))):
        user = draw(st.integers(0, 4))
        result.append(
            example(
                f"u{user}",
                f"spread={'ab'[user % 2]},rules=x",
                draw(st.booleans()),
                draw(st.sampled_from([0.0, 0.0, 9.99, 120.5])),
                number,
                draw(st.sampled_from(["a", "bcd", "xyz"])),
            )
        )
    return result


def summed(log: list[Example]) -> dict[Label, VariantSums]:
    """Sums as a keyed step makes them: totals by user, changes added up."""
    users: dict[str, dict[Label, UserTotals]] = {}
    sums: dict[Label, VariantSums] = {}
    for one in log:
        users[one.user_id], changes = count(one, users.get(one.user_id, {}))
        for label, change in changes.items():
            sums[label] = sums.get(label, VariantSums()).merge(change)
    return sums


@settings(max_examples=60, deadline=None)
@given(log=logs(), data=st.data())
def test_changes_add_up_to_the_sums_over_users_in_any_order(log, data):
    sums = summed(log)
    assert summed(data.draw(st.permutations(log))) == sums
    for label, found in sums.items():
        mine = [one for one in log if f"{label[0]}={label[1]}" in one.variant]
        gains = {user: np.zeros(len(METRICS)) for user in {one.user_id for one in mine}}
        lists = dict.fromkeys(gains, 0)
        for one in mine:
            gains[one.user_id] += gains_of(one)
            lists[one.user_id] += 1
        table, counts = np.array(list(gains.values())), np.array(list(lists.values()))
        assert (found.users, found.lists, found.lists_squared) == (
            len(lists), len(mine), (counts**2).sum(),
        )  # fmt: skip
        assert found.slots == sum(len(one.items) for one in mine)
        assert list(found.gains) == table.sum(axis=0).tolist()
        assert list(found.gains_squared) == (table**2).sum(axis=0).tolist()
        assert list(found.gains_lists) == (table * counts[:, None]).sum(axis=0).tolist()
        assert (found.first_ms, found.last_ms) == (mine[0].shown_time, mine[-1].shown_time)
        assert found.items_shown() == pytest.approx(
            len({i.item_id for one in mine for i in one.items}), rel=0.01
        )
        assert VariantSums.decode(found.encode()) == found


def test_metrics_are_per_list_shown():
    log = [example("u1", "spread=a", True), example("u1", "spread=a", True, 30.0), example("u2", "spread=a")]
    sums = summed([*log, example("u3", "spread=a", revenue=10.0)])["spread", "a"]
    assert [sums.value(metric) for metric in METRICS] == [0.5, 0.0, 0.5, 10.0]
    assert sums.events == (2, 0, 2, 2)
    assert VariantSums().value("ctr") is None


def test_a_list_of_no_experiment_counts_for_none():
    assert summed([example("u1", ""), example("u1", "b")]) == {}


def test_coverage_is_within_one_percent_of_thirty_thousand_items():
    sums = VariantSums()
    for start in range(0, 30_000, 50):
        items = tuple(f"item-{number}" for number in range(start, start + 50))
        one = example("u", "spread=a", items="a" * 50)
        one = one._replace(
            items=tuple(slot._replace(item_id=i) for slot, i in zip(one.items, items, strict=True))
        )
        sums = sums.merge(count(one, {})[1]["spread", "a"])
    assert sums.items_shown() == pytest.approx(30_000, rel=0.01)


def test_the_error_is_that_of_users_not_of_lists():
    # Two kinds of users with ten lists each, all clicked or none: ten users tell as much as ten lists.
    rng = np.random.default_rng(0)
    sides = rng.random((4_000, 10)) < 0.5
    rates = sides.mean(axis=1)
    x = sides * 10.0
    ratio = Ratio(10.0, 100.0, 1_000.0, x.sum(1), (x**2).sum(1), (10 * x).sum(1), x.sum(1))
    assert ratio.value == pytest.approx(rates)
    assert np.mean(ratio.variance) == pytest.approx(rates.var(), rel=0.05)
    assert np.median(ratio.design_effect) == pytest.approx(11.1, rel=0.05)


def test_with_one_list_a_user_the_error_is_the_binomial_one():
    ratio = Ratio(100.0, 100.0, 100.0, 20.0, 20.0, 20.0, 20.0)
    assert float(ratio.variance) == pytest.approx(0.2 * 0.8 / 99)
    assert float(difference(ratio, ratio)[1]) == pytest.approx(2 * 0.2 * 0.8 / 99)
    assert float(Ratio(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0).variance) == np.inf


@pytest.mark.parametrize("data", [b"", b"\x02", VariantSums().encode()[:-1], VariantSums().encode() + b"\0"])
def test_bytes_that_are_no_sums_are_refused(data):
    with pytest.raises(ValueError, match="variant sums: wanted version 1"):
        VariantSums.decode(data)


def test_bytes_of_version_1_are_those_of_the_first_release():
    data = count(example("u1", "spread=a", True, 1.5), {})[1]["spread", "a"].encode()
    head = "010045b6a49a0100000045b6a49a010000"
    numbers = [1, 1, 2, 1, *(1, 0, 1, 150), *(1, 0, 1, 22_500), *(1, 0, 1, 150), *(1, 0, 1, 1)]
    assert data[:17].hex() == head
    assert [int.from_bytes(data[17 + 16 * n : 33 + 16 * n], "little") for n in range(20)] == numbers
    assert np.flatnonzero(np.unpackbits(np.frombuffer(data[337:], np.uint8))).tolist() == [1087, 19999]
