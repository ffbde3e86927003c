"""What is kept of a user's purchases: how often, and which items stay when there are too many."""

import random
from struct import unpack

import pytest

from udfs.purchases import HALF_LIFE_DAYS, KEPT_S, insert_bought

DAY_S = 86_400


def item(number: int) -> bytes:
    return number.to_bytes(8, "little")


def buy(pairs: list[tuple[int, int]], cap: int = 64) -> dict[int, tuple[int, float]]:
    """Return item → second of its last purchase and count as of then."""
    bought = (b"", b"", b"")
    for number, second in pairs:
        bought = insert_bought(bought, item(number), second, cap)
    hashes, seconds, counts = bought
    size = len(seconds) // 4
    times = unpack(f"<{size}I", seconds)
    assert list(times) == sorted(times)
    columns = (unpack(f"<{size}Q", hashes), times, unpack(f"<{size}f", counts))
    return {number: (second, count) for number, second, count in zip(*columns, strict=True)}


def test_counts_are_those_of_all_purchases_in_whatever_order_they_come() -> None:
    random.seed(3)
    pairs = [(random.randrange(9), random.randrange(300 * DAY_S)) for _ in range(200)]
    found = buy(pairs)
    for number, (last, count) in found.items():
        times = [second for other, second in pairs if other == number]
        assert last == max(times)
        wanted = sum(0.5 ** ((last - second) / DAY_S / HALF_LIFE_DAYS) for second in times)
        assert count == pytest.approx(wanted, rel=1e-5)
    shuffled = buy(random.sample(pairs, len(pairs)))
    assert {number: last for number, (last, _) in shuffled.items()} == {
        number: last for number, (last, _) in found.items()
    }
    assert all(shuffled[number][1] == pytest.approx(count, rel=1e-5) for number, (_, count) in found.items())


def test_the_least_frequent_item_leaves_and_not_the_one_bought_first() -> None:
    weekly = [(1, week * 7 * DAY_S) for week in range(8)]
    others = [(10 + week, week * 7 * DAY_S + 5) for week in range(8)]
    kept = buy([*sorted([*weekly, *others], key=lambda pair: pair[1])[:-1], (99, 60 * DAY_S)], cap=3)
    assert {1, 99} < kept.keys()
    assert kept[1][1] > 5


def test_what_was_bought_within_a_day_stays_though_it_was_bought_but_once() -> None:
    often = [(number, day * DAY_S) for day in range(30) for number in (1, 2)]
    order = [(50 + line, 40 * DAY_S + line) for line in range(4)]
    kept = buy([*often, *order], cap=4)
    assert kept.keys() == {50, 51, 52, 53}
    later = buy([*often, *order, (60, 40 * DAY_S + KEPT_S + 60)], cap=4)
    assert later.keys() == {51, 52, 53, 60}


def test_a_full_order_of_one_moment_makes_room_for_each_of_its_lines() -> None:
    kept = buy([(number, 1_000) for number in range(10)], cap=4)
    assert len(kept) == 4 and 9 in kept
