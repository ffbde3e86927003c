"""Pairs, counts and scores of the similarity job against the batch reference."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from schemas.records import SessionDelta
from udfs.similarity.basket import MAX_BASKET_BYTES, MAX_ITEMS, MAX_PARTNERS, Basket, add, partners
from udfs.similarity.contribution import CONTRIBUTION, pack_contribution, pack_packet, unpack_packets
from udfs.similarity.count_kernel import HalfLives, apply_contributions, in_order
from udfs.similarity.country_trends import (
    MAX_COUNTRIES,
    MAX_TRENDS_BYTES,
    add_trends,
    read_trends,
    trends_of,
)
from udfs.similarity.item_counts import MAX_BOUGHT, MAX_ITEM_BYTES, MAX_VIEWED, ItemCounts, empty_blob
from udfs.similarity.reference import ReferenceCounts
from udfs.similarity.scores import conditional, cosine, timeless
from udfs.similarity.session_step import item_key, step

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
START_MS = 1_700_000_000_000
HALF_LIVES = HalfLives(30 * DAY_MS, 7 * DAY_MS)
LIMIT = 200
COUNTRIES = ("CH", "United Kingdom", "", "no\ncountry")


def shopping(
    seed: int,
    users: int = 12,
    items: int = 40,
    sessions: int = 4,
    events: int = 14,
    kinds: Sequence[str] = ("view", "view", "click", "add_to_cart", "purchase"),
) -> list[SessionDelta]:
    """Sessions of many users, each user's in order, mixed with each other's; some begin earlier than they said."""
    rng = random.Random(seed)
    of_user: list[list[SessionDelta]] = []
    for user in range(users):
        made, at_ms, offset = [], START_MS + rng.randrange(DAY_MS), 0
        for ordinal in range(1, sessions + 1):
            at_ms += rng.randrange(2 * HOUR_MS, 40 * DAY_MS)
            start_ms = at_ms
            for position in range(rng.randrange(1, events)):
                at_ms += rng.randrange(0, 60_000)
                late_ms = start_ms - rng.randrange(60_000) if rng.random() < 0.1 else at_ms
                start_ms = min(start_ms, late_ms)
                for n in range(rng.choice((1, 1, 1, 3))):
                    kind = rng.choice(kinds)
                    item = f"i{int(items * rng.random() ** 2)}"
                    made.append(
                        SessionDelta(
                            "default", f"u{user}", ordinal, start_ms, position, item, kind, late_ms, b"",
                            user % 3, 1_000 * user + offset, n, COUNTRIES[user % len(COUNTRIES)],
                        )
                    )  # fmt: skip
                offset += 1
        of_user.append(made)
    mixed = []
    while any(of_user):
        mixed.append(rng.choice([queue for queue in of_user if queue]).pop(0))
    return mixed


def run(
    deltas: Iterable[SessionDelta], batches: Sequence[int] = (1_000_000,), limit: int = LIMIT
) -> dict[int, ItemCounts]:
    """What the job does: baskets, packets, item counts, in batches of the sizes given, over and over."""
    return job(deltas, batches, limit)[0]


def job(
    deltas: Iterable[SessionDelta], batches: Sequence[int] = (1_000_000,), limit: int = LIMIT
) -> tuple[dict[int, ItemCounts], dict[int, dict[bytes, float]]]:
    """Give what `run` does, and each item's weight by country."""
    baskets: dict[str, bytes] = {}
    blobs: dict[int, bytes] = {}
    trends: dict[int, bytes] = {}
    left, sizes = iter(deltas), itertools.cycle(batches)
    while batch := list(itertools.islice(left, next(sizes))):
        made: list[bytes] = []
        names: dict[int, bytes] = {}
        for delta in batch:
            key = f"{delta.tenant}/{delta.user_id}"
            known = baskets.get(key)
            done = step(None if known is None else Basket.decode(known), delta, limit)
            if done.basket is not None:
                baskets[key] = done.basket.encode()
            names[done.item] = delta.item_id.encode()
            names[done.country] = delta.country.encode()
            made += [packed for _, packed in done.contributions]
        contributions, named = unpack_packets([pack_packet(b"".join(made), names)])
        ordered = in_order(contributions)
        items = np.unique(ordered["item"]).tolist()
        given = [blobs.get(item) or empty_blob(named[item]) for item in items]
        blobs.update(zip(items, apply_contributions(given, ordered, HALF_LIVES), strict=True))
        assert max(map(len, blobs.values())) <= MAX_ITEM_BYTES
        for item, added in trends_of(ordered, named, HALF_LIVES.trend_ms).items():
            trends[item] = add_trends(trends.get(item), added)
    counts = {item: ItemCounts.decode(blob) for item, blob in blobs.items()}
    return counts, {item: read_trends(blob) for item, blob in trends.items()}


def assert_equal(found: dict[int, ItemCounts], wanted: ReferenceCounts, as_of_ms: int) -> None:
    """Compare decayed to one moment."""
    assert found.keys() == wanted.viewed.keys()
    for item, counts in found.items():
        left = 0.5 ** ((as_of_ms - counts.as_of_ms) / HALF_LIVES.together_ms)
        left_trend = 0.5 ** ((as_of_ms - counts.as_of_ms) / HALF_LIVES.trend_ms)
        assert counts.viewed * left == pytest.approx(wanted.viewed[item], rel=1e-9)
        assert counts.bought * left == pytest.approx(wanted.bought.get(item, 0.0), rel=1e-9)
        assert counts.trend * left_trend == pytest.approx(wanted.trend[item], rel=1e-9)
        for neighbours, pairs in (
            (counts.viewed_with, wanted.viewed_with),
            (counts.bought_with, wanted.bought_with),
        ):
            of_item = {other: weight for (one, other), weight in pairs.items() if one == item and weight > 0}
            weights = dict(zip(neighbours.hashes.tolist(), (neighbours.weights * left).tolist(), strict=True))
            assert weights == pytest.approx(of_item, rel=1e-9)
            assert not neighbours.errors.any()


def test_what_is_popular_in_a_country_equals_the_batch_reference_however_the_records_are_cut() -> None:
    deltas = shopping(9)
    wanted = ReferenceCounts(deltas, newest_ms(deltas), HALF_LIVES, LIMIT).trend_in
    for batches in ((1_000_000,), (1,), (7, 1, 50)):
        _, found = job(sorted(deltas, key=lambda delta: delta.user_id), batches)
        places = {(item, name.decode()): place for item, one in found.items() for name, place in one.items()}
        exact = {
            at: timeless(weight, newest_ms(deltas), HALF_LIVES.trend_ms) for at, weight in wanted.items()
        }
        assert places == pytest.approx(exact, abs=1e-9)
    assert {name for _, name in wanted} == {"CH", "United Kingdom"}  # and not what names no country


def test_an_item_keeps_the_countries_where_it_weighs_most() -> None:
    blob = None
    for number in range(3 * MAX_COUNTRIES):
        blob = add_trends(blob, {f"c{number}".encode(): float(number % 40)})
    assert sorted(read_trends(blob).values()) == [float(at) for at in range(40 - MAX_COUNTRIES, 40)]
    assert len(add_trends(blob, {b"x" * 255: 50.0})) <= MAX_TRENDS_BYTES


def newest_ms(deltas: Iterable[SessionDelta]) -> int:
    return max(delta.event_time for delta in deltas)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("batches", [(1_000_000,), (1,), (7, 1, 50)])
def test_counts_equal_the_batch_reference_however_the_records_are_cut(
    seed: int, batches: tuple[int, ...]
) -> None:
    deltas = shopping(seed)
    wanted = ReferenceCounts(deltas, newest_ms(deltas), HALF_LIVES, LIMIT)
    assert_equal(run(deltas, batches), wanted, newest_ms(deltas))


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_users_and_of_time_changes_nothing(seed: int) -> None:
    deltas = shopping(seed)
    by_user = sorted(deltas, key=lambda delta: delta.user_id)  # the newest of one before the oldest of others
    wanted = ReferenceCounts(deltas, newest_ms(deltas), HALF_LIVES, LIMIT)
    assert_equal(run(by_user, (23,)), wanted, newest_ms(deltas))


def test_records_that_come_again_count_once() -> None:
    deltas = shopping(3)
    of_one = [delta for delta in deltas if delta.user_id == "u1"]
    again = [*deltas, *of_one[-5:], of_one[-1], of_one[-2]]
    wanted = ReferenceCounts(deltas, newest_ms(deltas), HALF_LIVES, LIMIT)
    assert_equal(run(again, (11,)), wanted, newest_ms(deltas))


def test_sessions_longer_than_what_is_remembered_equal_the_reference_too() -> None:
    deltas = shopping(5, users=3, items=60, sessions=2, events=150, kinds=("view",) * 29 + ("purchase",))
    assert max(delta.position for delta in deltas) > 2 * MAX_ITEMS
    wanted = ReferenceCounts(deltas, newest_ms(deltas), HALF_LIVES, LIMIT)
    assert_equal(run(deltas, (40,)), wanted, newest_ms(deltas))


def test_a_crawlers_session_counts_up_to_the_limit_only() -> None:
    deltas = shopping(6, users=2, events=60)
    assert max(delta.position for delta in deltas) >= 30
    wanted = ReferenceCounts(deltas, newest_ms(deltas), HALF_LIVES, 20)
    assert_equal(run(deltas, (9,), limit=20), wanted, newest_ms(deltas))
    assert sum(wanted.viewed.values()) < sum(
        ReferenceCounts(deltas, newest_ms(deltas), HALF_LIVES, LIMIT).viewed.values()
    )


def test_the_scores_are_those_of_the_reference() -> None:
    deltas = shopping(8)
    wanted = ReferenceCounts(deltas, newest_ms(deltas), HALF_LIVES, LIMIT)
    found = run(deltas, (13,))
    compared = 0
    for item, counts in found.items():
        others = [found[other] for other in counts.viewed_with.hashes.tolist()]
        alone = [timeless(other.viewed, other.as_of_ms, HALF_LIVES.together_ms) for other in others]
        scores = cosine(
            counts.viewed_with.certain,
            counts.viewed,
            counts.as_of_ms,
            np.array(alone),
            HALF_LIVES.together_ms,
        )
        exact = [wanted.cosine(item, other) for other in counts.viewed_with.hashes.tolist()]
        np.testing.assert_allclose(scores, exact, rtol=1e-9)
        shares = conditional(counts.bought_with.certain, counts.bought)
        exact = [wanted.conditional(item, other) for other in counts.bought_with.hashes.tolist()]
        np.testing.assert_allclose(shares, exact, rtol=1e-9)
        assert (scores <= 1 + 1e-9).all()
        assert (shares <= 1 + 1e-9).all()
        compared += len(scores) + len(shares)
    assert compared > 300


def test_two_items_always_seen_together_have_cosine_one_and_a_ubiquitous_one_less() -> None:
    deltas = [
        SessionDelta("default", f"u{n}", 1, START_MS, place, item, "view", START_MS + place, b"", 0, n, place)
        for n in range(20)
        for place, item in enumerate(("milk", *(("nut", "bolt") if n < 4 else ())))
    ]
    found = run(deltas)
    nut, bolt, milk = (found[item_key("default", name)] for name in ("nut", "bolt", "milk"))
    alone = np.array([timeless(one.viewed, one.as_of_ms, HALF_LIVES.together_ms) for one in (bolt, milk)])
    scores = cosine(
        nut.viewed_with.certain[[nut.viewed_with.hashes.tolist().index(item_key("default", name))
                                 for name in ("bolt", "milk")]],
        nut.viewed, nut.as_of_ms, alone, HALF_LIVES.together_ms,
    )  # fmt: skip
    np.testing.assert_allclose(scores, [1.0, np.sqrt(4 / 20)], rtol=1e-9)


def test_tenants_items_of_one_name_are_two() -> None:
    deltas = [
        delta._replace(tenant=tenant) for delta in shopping(1, users=2) for tenant in ("default", "acme")
    ]
    found = run(deltas)
    assert len(found) == 2 * len({delta.item_id for delta in deltas})


# --- bounds -----------------------------------------------------------------------------------------------


def test_a_session_costs_an_event_no_more_however_long_it_is() -> None:
    basket, most = None, 0
    for number in range(300):
        delta = SessionDelta(
            "default",
            "u",
            1,
            START_MS,
            number,
            f"i{number}",
            "purchase",
            START_MS + number,
            b"",
            0,
            number,
            0,
        )
        done = step(basket, delta, 10_000)
        basket, most = done.basket, max(most, len(done.contributions))
        assert basket is not None
        assert len(basket.encode()) <= MAX_BASKET_BYTES
    assert most == 1 + 4 * MAX_PARTNERS
    assert basket is not None
    assert len(basket.flags) == MAX_ITEMS


def test_partners_of_a_long_session_are_the_newest_and_others_evenly_drawn() -> None:
    column = b"".join(number.to_bytes(8, "little") for number in range(1, MAX_ITEMS + 1))
    drawn = np.zeros(MAX_ITEMS + 1)
    for item in range(1_000, 5_500):
        chosen = np.frombuffer(partners(column, item, START_MS), np.uint64)
        assert len(set(chosen.tolist())) == MAX_PARTNERS
        drawn[chosen.astype(int)] += 1
    assert (drawn[-5:] == 4_500).all()
    np.testing.assert_allclose(drawn[1:-5], 4_500 * 5 / 45, rtol=0.2)
    assert partners(column, 7, START_MS) == partners(column, 7, START_MS)


def test_beyond_its_cap_an_item_keeps_its_best_neighbours_and_brackets_their_weights() -> None:
    rng = np.random.default_rng(4)
    weights = np.concatenate([np.full(20, 400), np.ones(3_000, int)])
    others = rng.permutation(np.repeat(np.arange(2, 2 + len(weights)), weights))
    blob, size = empty_blob(b"default/a"), 0
    for part in np.array_split(others, 150):
        made = [pack_contribution(1, int(other), START_MS, 1.0, 1.0, 0.0, 0) for other in part]
        ordered = in_order(np.frombuffer(b"".join(made), CONTRIBUTION))
        (blob,) = apply_contributions([blob], ordered, HALF_LIVES)
        size = max(size, len(blob))
    counts = ItemCounts.decode(blob)
    assert (len(counts.viewed_with.hashes), len(counts.bought_with.hashes)) == (MAX_VIEWED, MAX_BOUGHT)
    assert size <= MAX_ITEM_BYTES
    table = counts.viewed_with
    kept = dict(zip(table.hashes.tolist(), zip(table.certain, table.weights, strict=True), strict=True))
    for other, (low, high) in kept.items():
        assert low <= weights[other - 2] <= high
    assert min(kept[other][0] for other in range(2, 22)) > 300
    assert counts.updates == len(others)


def test_a_count_decays_by_half_in_a_half_life_whichever_comes_first() -> None:
    def counts(times_ms: Sequence[int], at_once: bool) -> ItemCounts:
        blob = empty_blob(b"default/a")
        made = [pack_contribution(1, 0, at_ms, 1.0, 0.0, 1.0, 0) for at_ms in times_ms]
        for part in [made] if at_once else [[one] for one in made]:
            (blob,) = apply_contributions([blob], np.frombuffer(b"".join(part), CONTRIBUTION), HALF_LIVES)
        return ItemCounts.decode(blob)

    early, late = START_MS, START_MS + 30 * DAY_MS
    for times in ((early, late), (late, early)):
        for at_once in (True, False):
            found = counts(times, at_once)
            assert found.as_of_ms == late
            assert found.viewed == pytest.approx(1.5, rel=1e-12)
            assert found.trend == pytest.approx(1 + 0.5 ** (30 / 7), rel=1e-12)
            assert found.name == b"default/a"


def test_baskets_of_a_forgotten_or_new_session_start_empty() -> None:
    first = add(None, 1, START_MS, START_MS, 5, False).basket
    assert Basket.decode(first.encode()) == first
    later = START_MS + DAY_MS
    assert add(first, 1, later, later, 6, False).viewed == b""  # sessions counted from 1 again
    assert add(first, 2, later, later, 6, False).viewed == b""
    assert add(first, 1, START_MS - 5, START_MS - 5, 6, False).viewed != b""  # a late event of the same one


def test_blobs_of_another_format_are_refused() -> None:
    with pytest.raises(ValueError, match="wanted format 1, got 9"):
        Basket.decode(b"\x09" + bytes(39))
    with pytest.raises(ValueError, match="wanted format 1, got 9"):
        ItemCounts.decode(b"\x09" + bytes(63))


def test_the_largest_states_are_those_that_architecture_md_names() -> None:
    text = (Path(__file__).parents[2] / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert f"at most {MAX_ITEM_BYTES:,} bytes" in text
    assert f"at most {MAX_BASKET_BYTES} bytes" in text
