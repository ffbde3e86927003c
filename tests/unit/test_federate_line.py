"""A model line: what it adds up, when it releases, what its noise depends on."""

from __future__ import annotations

import numpy as np
import pytest
from federate_examples import (
    CENTRAL,
    DISTRIBUTED,
    KEY,
    LINES,
    LOCAL,
    SEED,
    drive,
    exact_mean,
    released,
    units_of,
    updates,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.federate.audit import device_update
from udfs.federate.line import LineLogic
from udfs.federate.line_settings import LineSettings
from udfs.federate.line_state import LineHead, LineState, decode_sum, encode_sum, first_state
from udfs.federate.release import Seed, first_record, largest_clip, noise_shares, staleness_weight
from udfs.privacy.fixed_point import MAX_COUNT, UNIT, FixedPointSum
from udfs.privacy.terms import Mode


def zero(line):
    return first_state(np.zeros(line.dimension), line.first_clip_norm)


def at_version(line, version):
    """A line that released `version` versions, all zeros."""
    clips = (line.first_clip_norm,) * (min(version, line.max_staleness) + 1)
    return LineState(LineHead(version, clips), np.zeros(line.dimension), {})


def weights(record):
    return np.frombuffer(record.weights)


# --- what is released ---


def test_a_version_is_the_weighted_mean_of_its_contributions():
    line = LOCAL._replace(cohort_size=8)
    arrivals = [
        update
        for base in (3, 5, 4, 1)
        for update in updates(line, 2, base_version=base, seed=base, prefix=f"{base}-")
    ]
    _, steps = drive(line, at_version(line, 5), arrivals)
    (record,) = released(steps)
    assert np.abs(weights(record) - exact_mean(line, arrivals, 5)).max() <= 3 * UNIT / 8
    assert (record.mean_staleness, record.max_staleness) == (1.75, 4)
    assert (record.version, record.parent, record.cohort_size, record.trigger) == (6, 5, 8, "full")


@pytest.mark.parametrize("mode", Mode)
@given(order=st.permutations(range(6)))
@settings(max_examples=15, deadline=None)
def test_the_order_of_contributions_changes_no_bit(mode, order):
    line = LINES[mode]
    arrivals = updates(line, 3) + updates(line, 3, base_version=1, prefix="v")
    _, steps = drive(line, at_version(line, 1), arrivals)
    _, shuffled = drive(line, at_version(line, 1), [arrivals[n] for n in order])
    assert released(steps) == released(shuffled)


@pytest.mark.parametrize("mode", Mode)
def test_every_version_says_its_privacy(mode):
    line = LINES[mode]
    _, steps = drive(line, zero(line), updates(line, 6))
    (record,) = released(steps)
    assert (record.mode, record.unit, record.adjacency) == (mode, "user", mode.adjacency)
    assert record.mu == mode.sensitivity_clips / 4.0
    assert record.epsilon == line.terms(1.0).epsilon
    assert (record.delta, record.noise_multiplier, record.clip_norm) == (1e-5, 4.0, 1.0)
    assert record.budget_epsilon == 10.0
    assert record.seed_key_id == ("k1" if mode is Mode.CENTRAL else "")
    assert len(record.cohort_digest) == 64


def test_the_first_version_cost_nobody_anything():
    record = first_record(zero(LOCAL), LOCAL, 10.0, 5)
    assert (record.version, record.parent, record.cohort_size, record.trigger) == (0, -1, 0, "first")


# --- noise ---


def test_the_same_cohort_has_the_same_bytes_and_another_key_others():
    arrivals = updates(CENTRAL, 6)
    (one,), (again,), (other,) = (
        released(drive(CENTRAL, zero(CENTRAL), arrivals, seed=seed)[1])
        for seed in (SEED, SEED, Seed("k2", b"another seed of the tests"))
    )
    assert one == again
    assert not (weights(one) == weights(other)).any()


def test_another_cohort_of_the_same_version_has_other_noise():
    """Else the difference of the two is what one client did."""
    arrivals = updates(CENTRAL, 7)
    (one,) = released(drive(CENTRAL, zero(CENTRAL), arrivals[:6])[1])
    (other,) = released(drive(CENTRAL, zero(CENTRAL), arrivals[1:])[1])
    plain = exact_mean(CENTRAL, arrivals[:6], 0) - exact_mean(CENTRAL, arrivals[1:], 0)
    noise = (weights(one) - weights(other) - plain) * 6
    assert noise.std() == pytest.approx(np.sqrt(2) * 4.0, rel=0.6)
    assert one.cohort_digest != other.cohort_digest


def test_the_same_names_with_other_content_have_other_noise():
    zeros = [device_update(CENTRAL, f"{n}", 0, np.zeros(16), KEY) for n in range(6)]
    changed = [*zeros[:5], device_update(CENTRAL, "5", 0, np.eye(16)[0], KEY)]
    (one,), (other,) = (released(drive(CENTRAL, zero(CENTRAL), arrivals)[1]) for arrivals in (zeros, changed))
    assert np.abs(weights(one) - weights(other))[1:].min() > UNIT


def test_local_and_distributed_lines_add_no_noise_of_their_own():
    for line in (LOCAL, DISTRIBUTED):
        arrivals = updates(line, 6)
        (record,) = released(drive(line, zero(line), arrivals)[1])
        assert weights(record) == pytest.approx(exact_mean(line, arrivals, 0), abs=UNIT)


def test_the_noise_covers_the_largest_clip_among_the_versions_kept():
    head = LineHead(2, (8.0, 1.0, 1.0))
    assert largest_clip(head, 16) == pytest.approx(8.0 / np.sqrt(3.0) + 4 * UNIT)
    assert largest_clip(LineHead(1, (1.0, 1.0)), 16) == 1.0


def test_a_distributed_cohort_waits_for_its_noise():
    """Four fresh shares make the noise; stale ones are weighted down, so more of them are needed."""
    line = DISTRIBUTED._replace(cohort_size=4, cohort_min=4)
    stale = updates(line, 4, base_version=0, prefix="s")
    fresh = updates(line, 4, base_version=3, prefix="f")
    state, steps = drive(line, at_version(line, 3), [fresh[0], *stale])
    assert released(steps) == []
    assert noise_shares(state.head) == pytest.approx(1.0 + 4 * 0.25)
    state, steps = drive(line, state, fresh[1:3])
    (record,) = released(steps)
    assert record.cohort_size == 7


def test_the_signal_is_told_from_the_noised_sum():
    line = CENTRAL._replace(noise_multiplier=0.05, cohort_size=40, cohort_min=40)
    arrivals = [device_update(line, f"{n}", 0, np.ones(16), KEY) for n in range(40)]
    (record,) = released(drive(line, zero(line), arrivals)[1])
    assert record.signal_to_noise == pytest.approx(40 / (0.05 * 4), rel=0.05)
    silent = [device_update(CENTRAL, f"{n}", 0, np.zeros(16), KEY) for n in range(6)]
    assert released(drive(CENTRAL, zero(CENTRAL), silent)[1])[0].signal_to_noise < 1.0
    without = CENTRAL._replace(noise_multiplier=0.0)
    assert released(drive(without, zero(without), updates(without, 6))[1])[0].signal_to_noise is None


# --- the clip ---


ADAPTS = CENTRAL._replace(cohort_size=60, cohort_min=60, adapt_clip=True, dimension=4)


def test_the_clip_follows_the_norms_and_is_frozen_with_each_version():
    state, clips = zero(ADAPTS), []
    for version in range(12):
        line = ADAPTS._replace(first_clip_norm=state.head.clips[-1])
        arrivals = [device_update(line, f"{n}", version, np.full(4, 0.005), KEY) for n in range(60)]
        state, steps = drive(ADAPTS, state, arrivals)
        (record,) = released(steps)
        clips.append(record.next_clip_norm)
        assert state.head.clip_of(version + 1) == record.next_clip_norm
    assert clips[0] < 1.0
    assert clips[-1] < 0.5, "all norms are far below it"
    assert state.head.clip_of(0) == 1.0


def test_the_count_of_the_clip_is_paid_for():
    assert ADAPTS.sum_noise_multiplier == pytest.approx((4.0**-2 - 6.0**-2) ** -0.5)
    assert ADAPTS.mu == 0.25
    with pytest.raises(ValueError, match="above 10 noise_multiplier"):
        ADAPTS._replace(cohort_min=40).checked()


def test_a_contribution_under_another_clip_is_refused():
    update = updates(LOCAL._replace(first_clip_norm=0.5), 1)[0]
    _, (step,) = drive(LOCAL, zero(LOCAL), [update])
    assert step.refused.reason == "wrong_terms"


# --- what is taken ---


def test_the_same_update_and_the_same_user_count_once():
    one, other = updates(CENTRAL, 2)
    second_device = device_update(CENTRAL, "u0", 0, np.ones(16), KEY)._replace(
        client_id="tablet", update_id="t"
    )
    state, steps = drive(CENTRAL, zero(CENTRAL), [one, one, second_device, other])
    assert [step.counts for step in steps] == [
        ("contributed",), ("duplicate",), ("already_contributed",), ("contributed",),
    ]  # fmt: skip
    assert state.head.contributions == 2


def test_a_user_of_two_versions_counts_once_a_cohort():
    state, steps = drive(CENTRAL, at_version(CENTRAL, 1), [*updates(CENTRAL, 1), *updates(CENTRAL, 1, 1)])
    assert steps[1].refused.reason == "already_contributed"
    assert state.head.contributions == 1


@pytest.mark.parametrize(
    ("version", "base", "reason"),
    [(3, 4, "unknown_base"), (30, 9, "stale_update"), (30, 10, None), (0, 1, "unknown_base")],
)
def test_versions_that_are_too_old_or_not_there_are_refused(version, base, reason):
    _, (step,) = drive(LOCAL, at_version(LOCAL, version), updates(LOCAL, 1, base_version=base))
    assert (step.refused.reason if step.refused else None) == reason


def test_a_cohort_that_could_overflow_takes_no_more():
    full = LineHead(0, (1.0,), 0, 0, ((0, MAX_COUNT),), b"u" * 16 * MAX_COUNT, b"d" * 32 * MAX_COUNT)
    state = LineState(full, np.zeros(16), {0: FixedPointSum(MAX_COUNT, np.zeros(16, np.int64))})
    (update,) = updates(LOCAL, 1)
    step = LineLogic(LOCAL, 10.0, SEED).on_contribution(state, update, units_of(LOCAL, update), 0)
    assert step.refused.reason == "bad_value"
    assert step.state is state


def test_staleness_weighs_as_in_fedbuff():
    assert [staleness_weight(s) for s in (0, 3, 8)] == [1.0, 0.5, pytest.approx(1 / 3)]


# --- when ---


def test_a_timeout_releases_what_is_enough_and_no_less():
    line = LOCAL._replace(timeout_ms=100)
    logic = LineLogic(line, 10.0, SEED)
    state, steps = drive(line, zero(line), updates(line, 2), [10, 20])
    assert steps[0].wake_at_ms == 110
    assert steps[1].wake_at_ms is None
    assert logic.on_wake(state, 500).released == (), "two are too few"
    state, (step,) = drive(line, state, updates(line, 1, prefix="w"), [600])
    (record,) = step.released
    assert (record.trigger, record.cohort_size, record.released_time) == ("timeout", 3, 600)
    assert state.head.contributions == 0


@pytest.mark.parametrize("wakes", [[], [115], [110, 111, 112], [90, 110]])
def test_the_version_is_the_same_whether_timers_fire_early_on_time_or_late(wakes):
    line = CENTRAL._replace(timeout_ms=100)
    logic = LineLogic(line, 10.0, SEED)
    state, _ = drive(line, zero(line), updates(line, 4), [10, 20, 30, 40])
    records = []
    for clock_ms in wakes:
        step = logic.on_wake(state, clock_ms)
        state = step.state
        records += step.released
    assert bool(records) == any(clock_ms >= 110 for clock_ms in wakes)
    late = updates(line, 1, prefix="late")[0]
    step = logic.on_contribution(state, late, units_of(line, late), 120)
    (record,) = [*records, *step.released]
    assert (record.cohort_size, record.released_time, record.trigger) == (4, 40, "timeout")
    assert step.state.head.contributions == 1


def test_a_step_leaves_the_state_that_it_was_given():
    state, _ = drive(CENTRAL, zero(CENTRAL), updates(CENTRAL, 5))
    head, total, model = state.head.encode(), encode_sum(state.sums[0]), state.weights.tobytes()
    last = updates(CENTRAL, 6)[5]
    LineLogic(CENTRAL, 10.0, SEED).on_contribution(state, last, units_of(CENTRAL, last), 9)
    assert (state.head.encode(), encode_sum(state.sums[0]), state.weights.tobytes()) == (head, total, model)


# --- bytes ---

HEAD = LineHead(
    7,
    (1.0, 0.5),
    1_700_000_000_000,
    3,
    ((6, 1), (7, 1)),
    bytes(range(32)),
    bytes(range(64)),
    1_700_000_000_500,
)
HEAD_BYTES = bytes.fromhex(
    "020002000200000007000000000000000068e5cf8b010000f469e5cf8b0100000300000002000000000000000000f03f"
    "000000000000e03f06000000000000000100000000000000070000000000000001000000000000000001020304050607"
    "08090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f000102030405060708090a0b0c0d0e0f1011121314151617"
    "18191a1b1c1d1e1f"
    "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f"
)
SUM = FixedPointSum(2, np.array([1, -(1 << 40)]))
SUM_BYTES = bytes.fromhex("0100000002000000020000000000000001000000000000000000000000ffffff")


def test_bytes_written_before_are_read_and_written_the_same():
    assert HEAD.encode() == HEAD_BYTES
    assert LineHead.decode(HEAD_BYTES) == HEAD
    assert encode_sum(SUM) == SUM_BYTES
    assert decode_sum(SUM_BYTES).total.tolist() == SUM.total.tolist()


@pytest.mark.parametrize("read", [LineHead.decode, decode_sum])
@pytest.mark.parametrize("blob", [b"", b"\x02" + bytes(60), HEAD_BYTES[:-1] + b"", SUM_BYTES + b"\0"])
def test_bytes_of_another_format_or_length_are_an_error(read, blob):
    with pytest.raises(ValueError, match="wanted"):
        read(blob)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dimension": 0},
        {"cohort_min": 7},
        {"delta": 0.0},
        {"first_clip_norm": 1e-9},
        {"mode": Mode.LOCAL, "adapt_clip": True},
        {"noise_multiplier": 1e-6},
        {"timeout_ms": 0},
        {"step_size": float("inf")},
    ],
)
def test_settings_that_break_a_promise_are_an_error(wrong):
    with pytest.raises(ValueError, match="wanted"):
        LineSettings(**{**CENTRAL._asdict(), **wrong}).checked()
