"""Clipping, keyed noise, exact sums, quantising and the gate."""

from __future__ import annotations

import hashlib
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from schemas.refusal import Refused
from udfs.privacy.client_update import device_quantiser, open_update, privatise
from udfs.privacy.clip import clip_delta, l2_norm
from udfs.privacy.fixed_point import (
    MAX_COUNT,
    MAX_UNITS,
    UNIT,
    FixedPointSum,
    empty_sum,
    from_units,
    noise_units,
    to_units,
    weigh,
)
from udfs.privacy.keyed_noise import keyed_below, keyed_bytes, keyed_gaussian, normal_quantiles
from udfs.privacy.noise_gate import chi_square_quantile, noise_band
from udfs.privacy.quantise import Quantiser, quantiser
from udfs.privacy.terms import Mode, Terms

KEY = bytes(range(32))
GOLDEN_NOISE = "4a20d76bc2cbcb5a19b4715aea5ec3d56c77c6b466d6a7fed8f020548c85627a"
LOCAL = Terms(Mode.LOCAL, 1.0, 8.0, 1e-5, 10)


# --- clip ---


@pytest.mark.parametrize("size", [1, 64, 100_000])
@pytest.mark.parametrize("times", [0.1, 1.0, 1.0 + 1e-9, 10.0, 1000.0, 1e200])
def test_no_delta_leaves_longer_than_the_clip(size, times):
    delta = np.random.default_rng(size).standard_normal(size)
    clipped = clip_delta(delta * (0.5 * times / l2_norm(delta)), 0.5)
    assert l2_norm(clipped.values) <= 0.5 * (1 + 1e-12)
    assert l2_norm(from_units(to_units(clipped.values))) <= 0.5
    assert np.dot(clipped.values, delta) > 0


def test_a_short_delta_is_left_as_it_is_and_minus_zero_is_zero():
    clipped = clip_delta([0.25, -0.0], 1.0)
    assert clipped.within
    assert not np.signbit(clipped.values).any()
    assert clipped.values.tolist() == [0.25, 0.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_delta_that_is_not_finite_is_refused(bad):
    with pytest.raises(Refused, match="bad_value"):
        clip_delta([1.0, bad], 1.0)


def test_the_norm_of_the_largest_numbers_is_clipped_too():
    clipped = clip_delta(np.full(8, 1.7e308), 1.0)
    assert l2_norm(clipped.values) == pytest.approx(1.0)


# --- keyed noise ---


def test_the_inverse_normal_is_the_one_of_the_standard_library():
    exponents = 10.0 ** -np.arange(1.0, 16.9, 0.1)
    p = np.concatenate([exponents, 1.0 - exponents[:140], np.linspace(1e-4, 1 - 1e-4, 4999), [2.0**-53]])
    wanted = np.array([NormalDist().inv_cdf(value) for value in p])
    assert np.abs(normal_quantiles(p) - wanted).max() < 1e-14


def test_noise_is_the_same_bits_on_every_machine():
    """Pinned: a release that is replayed elsewhere must not differ."""
    noise = keyed_gaussian(KEY, "test", b"content", 10_000)
    assert hashlib.sha256(noise.tobytes()).hexdigest() == GOLDEN_NOISE


def test_key_label_and_content_each_change_all_noise():
    one = keyed_gaussian(KEY, "a", b"bc", 1000)
    for other in (
        keyed_gaussian(KEY[::-1], "a", b"bc", 1000),
        keyed_gaussian(KEY, "ab", b"c", 1000),
        keyed_gaussian(KEY, "a", b"bd", 1000),
    ):
        assert not (one == other).any()
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.12
    assert (one == keyed_gaussian(KEY, "a", b"bc", 2000)[:1000]).all()


def test_noise_is_standard_normal():
    noise = keyed_gaussian(KEY, "shape", b"", 200_000)
    assert stats.kstest(noise, "norm").pvalue > 1e-3
    assert abs(stats.kurtosis(noise)) < 0.04


def test_a_short_key_is_refused():
    with pytest.raises(ValueError, match="key: wanted at least 16"):
        keyed_bytes(b"short", "a", b"", 8)


def test_whole_numbers_are_even():
    drawn = keyed_below(KEY, "even", b"", 16_000, 16)
    assert stats.chisquare(np.bincount(drawn, minlength=16)).pvalue > 1e-3


# --- sums ---


@given(
    st.lists(st.lists(st.integers(-MAX_UNITS, MAX_UNITS), min_size=3, max_size=3), max_size=12), st.randoms()
)
@settings(max_examples=60, deadline=None)
def test_sums_are_those_of_python_in_any_order(rows, shuffled):
    wanted = [sum(column) for column in zip(*rows, strict=True)] if rows else [0, 0, 0]
    shuffled.shuffle(rows)
    total = empty_sum(3)
    for row in rows:
        total = total.add(np.array(row))
    assert total.total.tolist() == wanted
    assert total.contributions == len(rows)


def test_the_fullest_sum_does_not_wrap_around():
    full = FixedPointSum(MAX_COUNT - 1, np.full(2, MAX_UNITS * (MAX_COUNT - 1)))
    last = full.add(np.full(2, MAX_UNITS))
    assert last.total.tolist() == [MAX_UNITS * MAX_COUNT] * 2
    with pytest.raises(Refused, match="contributions in one sum"):
        last.add(np.zeros(2, np.int64))


def test_a_coordinate_beyond_the_bound_or_another_shape_is_refused():
    with pytest.raises(Refused, match="bad_value"):
        empty_sum(1).add(np.array([MAX_UNITS + 1]))
    with pytest.raises(Refused, match="wrong_shape"):
        empty_sum(1).add(np.array([1, 2]))
    for bad in (np.nan, np.inf, 65_537.0):
        with pytest.raises(Refused, match="bad_value"):
            to_units(np.array([bad]))


def test_noise_too_small_for_the_grid_is_an_error():
    with pytest.raises(ValueError, match="sigma: wanted"):
        noise_units(np.zeros(1), 255 * UNIT)
    assert noise_units(np.ones(2), 0.0).tolist() == [0, 0]


@given(st.integers(-(1 << 50), 1 << 50), st.integers(1, 21))
@settings(deadline=None)
def test_a_weighted_contribution_moves_a_sum_by_its_weight_and_at_most_a_unit(other, staleness):
    weight, mine = 1.0 / np.sqrt(1.0 + staleness), 12_345_678
    both, without = weigh(np.array([other + mine]), weight), weigh(np.array([other]), weight)
    assert abs(int(both[0] - without[0])) <= weight * mine + 1.0 + 2.0**-2  # a float holds 53 bits of 2^50


# --- quantising ---


def test_rounding_is_right_on_average():
    how = Quantiser(8, 64)
    every_chance = np.arange(64)
    for value in (-130, -1, 0, 1, 37, 200):
        assert how.round(np.full(64, value), every_chance).sum() * 64 == value * 64


@pytest.mark.parametrize("bits", [8, 16, 32])
@given(clip=st.floats(1e-3, 1e3), sigma=st.floats(0.0, 1e3))
@settings(max_examples=40, deadline=None)
def test_a_quantiser_holds_clip_and_noise_and_its_step_is_no_coarser_than_needed(bits, clip, sigma):
    how = quantiser(clip, sigma, bits)
    reach = (clip + 8.3 * sigma) / UNIT
    assert how.step * how.largest >= reach
    assert how.step == 1 or how.step // 2 * how.largest < reach


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_numbers_survive_the_payload(bits):
    how = Quantiser(bits, 4)
    numbers = np.array([-how.largest, -1, 0, 7, how.largest])
    assert how.unpack(how.pack(numbers), 5).tolist() == (numbers * 4).tolist()
    with pytest.raises(Refused, match="wrong_shape"):
        how.unpack(how.pack(numbers), 4)


def test_the_scale_depends_on_the_terms_alone():
    small = privatise(np.zeros(64), LOCAL, KEY, b"1")
    large = privatise(np.full(64, 1e6), LOCAL, KEY, b"1")
    assert (small.bits, small.step) == (large.bits, large.step) == tuple(device_quantiser(LOCAL, 64))


# --- the gate ---


@pytest.mark.parametrize("degrees", [1, 2, 8, 64, 256, 2048, 320_000])
@pytest.mark.parametrize("probability", [5e-4, 0.1, 0.5, 0.999, 1 - 5e-4])
def test_chi_square_quantiles_are_scipy_s(degrees, probability):
    wanted = stats.chi2.ppf(probability, degrees)
    assert chi_square_quantile(probability, degrees) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    ("dimension", "low", "high"),
    [(64, 0.72, 1.30), (256, 0.86, 1.15), (2048, 0.95, 1.05), (320_000, 0.996, 1.004)],
)
def test_the_band_is_that_of_the_table(dimension, low, high):
    band = noise_band(dimension, 1.0, 0.0, 0.0)
    scale = np.sqrt(dimension)
    assert (band.low / scale, band.high / scale) == pytest.approx((low, high), abs=5e-3)


@pytest.mark.parametrize("dimension", [16, 64, 256])
def test_honest_updates_pass_whatever_their_signal(dimension):
    rng = np.random.default_rng(7)
    refused = 0
    for number in range(1500):
        delta = rng.standard_normal(dimension) * rng.choice([0.0, 0.01, 10.0])
        made = privatise(delta, LOCAL, KEY, number.to_bytes(4, "big"))
        try:
            open_update(made.payload, made.bits, made.step, LOCAL, dimension)
        except Refused:
            refused += 1
    assert refused <= 8  # 1.5 expected; nine or more once in 5,000 runs


def test_an_update_without_noise_is_refused_and_the_reason_tells_no_norm():
    how = device_quantiser(LOCAL, 64)
    units = to_units(clip_delta(np.ones(64), 1.0).values)
    with pytest.raises(Refused, match="noise_missing") as caught:
        open_update(how.pack(how.cut(units)), how.bits, how.step, LOCAL, 64)
    assert f"{l2_norm(from_units(units)):.2f}" not in caught.value.detail


def test_a_boosted_update_and_one_of_another_quantiser_are_refused():
    made = privatise(np.ones(64), LOCAL, KEY, b"1")
    boosted = (np.frombuffer(made.payload, "<i2") * 2).astype("<i2").tobytes()
    with pytest.raises(Refused, match="norm_too_large"):
        open_update(boosted, made.bits, made.step, LOCAL, 64)
    with pytest.raises(Refused, match="wrong_terms"):
        open_update(made.payload, made.bits, made.step * 2, LOCAL, 64)


def test_a_central_update_longer_than_the_clip_is_refused():
    terms = LOCAL._replace(mode=Mode.CENTRAL)
    made = privatise(np.ones(16), terms, KEY, b"1")
    units = open_update(made.payload, made.bits, made.step, terms, 16)
    assert l2_norm(from_units(units)) == pytest.approx(1.0, rel=1e-5)
    longer = (np.frombuffer(made.payload, "<i4") * 1.01).astype("<i4").tobytes()
    with pytest.raises(Refused, match="norm_too_large"):
        open_update(longer, made.bits, made.step, terms, 16)


def test_the_gate_says_when_it_cannot_tell():
    assert noise_band(64, 1.0, 1.0, 0.0).has_power
    assert not noise_band(4, 0.5, 1.0, 0.0).has_power
