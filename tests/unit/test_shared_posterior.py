"""Credits of everybody to a posterior: by what a plain sum says, each once, from any shards in any order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.records import ArmPosterior, Credit, Posterior
from udfs.bandits.credit_sums import DAY_MS, KEPT_DAYS, MAX_BYTES, CreditSums
from udfs.bandits.shared_posterior import SharedPosterior
from udfs.bandits.thompson_beta import ThompsonBeta
from udfs.bandits.user_context import UNITS, context_units
from udfs.user_state import NEW, SLOT_SOURCES, SOURCES

HALF_LIFE_DAYS = 10.0
made = st.builds(
    Credit, st.just("default"), st.just("u"), st.just("r"), st.sampled_from(SLOT_SOURCES), st.floats(0, 1),
    st.integers(0, 200 * DAY_MS), st.just("c"),
    st.one_of(st.just(()), st.tuples(st.just(UNITS), st.integers(0, UNITS), st.integers(0, UNITS))),
)  # fmt: skip


def plainly(credits: list[Credit], half_life_days: float) -> dict[str, tuple[Any, Any]]:
    """Sum contexts and rewards of each arm, one credit after the other, as the docstrings say."""
    newest = max((credit.event_time // DAY_MS for credit in credits), default=0)
    sums: dict[str, tuple[Any, Any]] = {}
    for credit in credits:
        age = newest - credit.event_time // DAY_MS
        if age >= KEPT_DAYS:
            continue
        x = np.array(credit.context or (UNITS, 0, 0)) / UNITS
        weight = 0.5 ** (age / half_life_days)
        squares, rewards = sums.get(credit.arm, (np.zeros((3, 3)), np.zeros(3)))
        sums[credit.arm] = squares + weight * np.outer(x, x), rewards + weight * credit.reward * x
    return sums


def published(sums: CreditSums) -> SharedPosterior:
    record = Posterior("default", 1, sums.credits, sums.newest_day, sums.posterior(HALF_LIFE_DAYS))
    return SharedPosterior.of(record, SLOT_SOURCES)


@settings(max_examples=80, deadline=None)
@given(credits=st.lists(made, max_size=60))
def test_the_posterior_is_what_a_plain_sum_of_the_credits_says(credits):
    found, wanted = published(CreditSums().add(credits)), plainly(credits, HALF_LIFE_DAYS)
    for arm, name in enumerate(SLOT_SOURCES):
        squares, rewards = wanted.get(name, (np.zeros((3, 3)), np.zeros(3)))
        np.testing.assert_allclose(found.squares[arm], squares, atol=1e-9)
        np.testing.assert_allclose(found.rewards[arm], rewards, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(credits=st.lists(made, max_size=40), seed=st.integers(0, 99))
def test_it_is_the_same_from_any_shards_in_any_order_bit_for_bit(credits, seed):
    order = np.random.default_rng(seed).permutation(len(credits)).tolist()
    parts = [CreditSums().add([credits[place] for place in order[start::3]]) for start in range(3)]
    merged = CreditSums()
    for part in parts:
        merged = CreditSums.decode(merged.encode()).merge(CreditSums.decode(part.encode()))
    whole = CreditSums().add(credits)
    assert merged == whole and merged.encode() == whole.encode()
    assert merged.posterior(HALF_LIFE_DAYS) == whole.posterior(HALF_LIFE_DAYS)


def test_one_that_was_shown_and_not_answered_counts_against_its_arm():
    shown = Credit("default", "u", "r", "popular", 0.0, 9, "c")
    sums = CreditSums().add([shown, shown._replace(reward=1.0), shown, shown])
    assert published(sums).evidence(100.0).won[SOURCES.index("popular")] == 1.0
    assert published(sums).evidence(100.0).lost[SOURCES.index("popular")] == 3.0


def test_an_arm_that_nobody_knows_is_left_out_and_not_counted():
    credit = Credit("default", "u", "r", "made up", 1.0, 9, "c")
    assert CreditSums().add([credit]) == CreditSums()


def test_what_is_kept_of_a_tenant_is_bounded_and_its_bytes_are_those_of_version_1():
    sums = CreditSums()
    for day in range(2 * KEPT_DAYS):
        sums = sums.add([Credit("t", "u", "r", arm, 1.0, day * DAY_MS, "c") for arm in SLOT_SOURCES])
    assert len(sums.of_days) == KEPT_DAYS * len(SLOT_SOURCES)
    assert len(sums.encode()) < MAX_BYTES
    one = CreditSums().add([Credit("default", "u", "r", NEW, 0.25, 9, "c")])
    assert one.encode().hex() == (
        "0101000000000000000100" + "0000000000000000" + "036e6577"
        + "0000010000000000" + "0000000000000000" * 5 + "0000000400000000" + "0000000000000000" * 2
    )  # fmt: skip


@pytest.mark.parametrize(
    "data", [b"", b"\x02" + bytes(10), b"\x01" + bytes(8) + b"\x01\x00", CreditSums().encode() + b"\0"]
)
def test_bytes_that_are_no_sums_are_refused(data):
    with pytest.raises(ValueError, match="credit sums"):
        CreditSums.decode(data)


@pytest.mark.parametrize(
    "arm",
    [
        ArmPosterior("ranker", (1.0,) * 5, (0.0,) * 3),
        ArmPosterior("ranker", (1.0,) * 6, (0.0,) * 2),
        ArmPosterior("ranker", (1.0,) * 5 + (float("nan"),), (0.0,) * 3),
        ArmPosterior("ranker", (1.0,) * 6, (1.5, 0.0, 0.0)),
        ArmPosterior("ranker", (1.0,) * 6, (-0.5, 0.0, 0.0)),
    ],
)
def test_a_record_that_is_no_posterior_is_refused(arm):
    with pytest.raises(ValueError, match="arm ranker"):
        SharedPosterior.of(Posterior("default", 1, 1, 1, (arm,)), SOURCES)


def test_what_all_users_taught_is_a_prior_with_a_cap():
    credits = [
        Credit("t", f"u{n}", "r", ("ranker", "popular")[n % 2], (n % 7) / 10, 9, "c") for n in range(500)
    ]
    shared = SharedPosterior.of(
        Posterior("t", 1, 500, 0, CreditSums().add(credits).posterior(HALF_LIFE_DAYS)),
        ("popular", "ranker", "unheard of"),
    )
    evidence = shared.evidence(most=100.0)
    assert evidence.plays.tolist() == pytest.approx([100.0, 100.0, 0.0])
    mean = np.mean([credit.reward for credit in credits if credit.arm == "popular"])
    assert evidence.won[0] / 100 == pytest.approx(mean, abs=1e-6)
    assert ThompsonBeta(3).probabilities(evidence, np.empty(0))[2] > 0.5, "what was never tried may be best"


def test_a_context_is_the_same_for_one_user_and_in_a_batch():
    counts = np.array([[0, 0], [1, 0], [50, 2], [10**9, 10**9]])
    batch = context_units(counts[:, 0], counts[:, 1])
    assert [context_units(*pair).tolist() for pair in counts.tolist()] == batch.tolist()
    assert batch.min() >= 0 and batch.max() == UNITS
